"""How many threads decode: as many as gain something, and none where one gains nothing."""

from __future__ import annotations

import itertools
import threading
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.batches import assert_same
from support.converting import shards_of
from support.lerobot_source import Camera, Source

from roboshard.loader import make_loader, open_dataset, topology
from roboshard.loader.look_ahead.decode_threads import DecodeThreads
from roboshard.loader.look_ahead.request_queue import Slice
from roboshard.loader.look_ahead.thread_limit import JUDGED_FRAMES, ThreadLimit

MOST = 4
OPTIONS: dict[str, Any] = {"batch_size": 10, "seed": 3}

counts = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 30_000)), max_size=60)


@given(most=st.integers(1, 64), pixels=st.floats(1, 1e7), least=st.integers(0, 1), counted=counts)
def test_it_is_between_least_and_all(
    most: int, pixels: float, least: int, counted: list[tuple[int, int]]
) -> None:
    limit, free = ThreadLimit(most, pixels, least), ThreadLimit(most, None)
    for used, decoded in counted:
        limit.count(used, decoded)
        free.count(used, decoded)
        assert least <= limit.now <= most
        assert limit.now != 1 or 1 in (most, least), "one alone gains nothing"
        assert free.now == most


@given(
    pixels=st.floats(1, 1e6),
    larger=st.floats(1, 10),
    cost=st.floats(0, 50),
    dearer=st.floats(1, 10),
)
def test_more_work_is_for_more_threads(
    pixels: float, larger: float, cost: float, dearer: float
) -> None:
    def threads(pixels: float, cost: float) -> int:
        limit = ThreadLimit(1000, pixels)
        limit.count(JUDGED_FRAMES, cost * JUDGED_FRAMES)
        return limit.now

    assert threads(pixels, cost) <= threads(pixels * larger, cost * dearer)


@pytest.mark.parametrize(
    ("size", "threads"), [((96, 96), 0), ((128, 128), 2), ((256, 256), 5), ((480, 640), 16)]
)
def test_sizes_that_policies_train_on(size: tuple[int, int], threads: int) -> None:
    limit = ThreadLimit(16, size[0] * size[1])
    limit.count(JUDGED_FRAMES - 1, 0)
    assert limit.now == 16, "the first frames are waited for"
    limit.count(1, JUDGED_FRAMES)
    assert limit.now == threads


def test_what_frames_cost_of_late_decides() -> None:
    limit = ThreadLimit(16, 96 * 96)
    for _ in range(1000):
        limit.count(100, 100)
    assert limit.now == 0
    for _ in range(300):
        limit.count(100, 2500)
    assert limit.now > 10


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four cameras of small pictures, each of them a keyframe."""
    cameras = tuple(
        Camera(key=f"observation.images.{name}", gop=1, size=(48, 64)) for name in "abcd"
    )
    source = Source(lengths=(30,) * 6, cameras=cameras)
    return shards_of(source, tmp_path_factory.mktemp("small"))


class Serving:
    """Which threads serve slices, and how many do at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        serve = DecodeThreads._serve_slice
        busy: set[int] = set()
        self.at_once: list[int] = []
        self.names: list[str] = []

        def recorded(threads: DecodeThreads, slot: Slice) -> None:
            busy.add(threading.get_ident())
            self.at_once.append(len(busy))
            self.names.append(threading.current_thread().name)
            serve(threads, slot)
            busy.remove(threading.get_ident())

        monkeypatch.setattr(DecodeThreads, "_serve_slice", recorded)

    @property
    def late(self) -> tuple[int, set[str]]:
        """Of the last third: the most at once, and the kinds of threads."""
        third = -len(self.names) // 3
        names = {name.partition("_")[0] for name in self.names[third:]}
        return max(self.at_once[third:]), names


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Serving:
    monkeypatch.setattr(topology, "default_threads", lambda _workers: MOST)
    return Serving(monkeypatch)


@pytest.fixture(scope="module")
def expected(shards: str) -> list[Any]:
    return list(make_loader(shards, decode_threads=1, **OPTIONS))


def test_small_pictures_are_decoded_by_the_thread_that_waits_for_them(
    shards: str, serving: Serving, expected: list[Any]
) -> None:
    assert_same(list(make_loader(shards, **OPTIONS)), expected)
    assert serving.late == (1, {"roboshard-background"})


def test_as_many_threads_decode_as_are_asked_for(
    shards: str, serving: Serving, expected: list[Any]
) -> None:
    assert_same(list(make_loader(shards, decode_threads=MOST, **OPTIONS)), expected)
    most, names = serving.late
    assert most > 1
    assert names == {"roboshard-decode"}


def test_a_dataset_by_number_is_decoded_by_threads_that_no_interrupt_reaches(
    shards: str, serving: Serving
) -> None:
    with closing(open_dataset(shards)) as dataset:
        for number in range(150):
            dataset[number]
    assert serving.late == (1, {"roboshard-decode"})


@pytest.mark.parametrize("costs", [[0, MOST], [MOST, 0], [0, MOST, 0, 2] * 9])
def test_threads_come_and_go_as_pictures_cost(
    shards: str,
    serving: Serving,
    expected: list[Any],
    costs: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the limit is at any moment, all that is wanted comes, and is the same."""
    coming = itertools.cycle(costs)

    def count(limit: ThreadLimit, _used: float, _decoded: float) -> None:
        limit.now = next(coming)

    monkeypatch.setattr(ThreadLimit, "count", count)
    assert_same(list(make_loader(shards, **OPTIONS)), expected)
    assert {name.partition("_")[0] for name in serving.names} == {
        "roboshard-background",
        "roboshard-decode",
    }


def test_what_goes_wrong_in_the_thread_that_waits_is_an_error_of_that_step(
    shards: str, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = DecodeThreads._serve_slice
    slices = itertools.count()

    def fail(threads: DecodeThreads, slot: Slice) -> None:
        if next(slices) == 200:
            raise MemoryError("of slice 200")
        serve(threads, slot)

    monkeypatch.setattr(DecodeThreads, "_serve_slice", fail)
    with pytest.raises(MemoryError, match="of slice 200"):
        list(make_loader(shards, **OPTIONS))
    assert next(slices) > 200

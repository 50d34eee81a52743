"""How many threads decode: as many as gain something."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.batches import assert_same
from support.converting import shards_of
from support.lerobot_source import Camera, Source

from roboshard.loader import make_loader, topology
from roboshard.loader.look_ahead.decode_threads import DecodeThreads
from roboshard.loader.look_ahead.request_queue import Slice
from roboshard.loader.look_ahead.thread_limit import JUDGED_FRAMES, ThreadLimit

MOST = 4

counts = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 30_000)), max_size=60)


@given(most=st.integers(1, 64), pixels=st.floats(1, 1e7), counted=counts)
def test_it_is_between_one_and_all(
    most: int, pixels: float, counted: list[tuple[int, int]]
) -> None:
    limit, free = ThreadLimit(most, pixels), ThreadLimit(most, None)
    for used, decoded in counted:
        limit.count(used, decoded)
        free.count(used, decoded)
        assert 1 <= limit.now <= most
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
    ("size", "threads"), [((96, 96), 1), ((128, 128), 2), ((256, 256), 5), ((480, 640), 16)]
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
    assert limit.now == 1
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


@pytest.mark.parametrize("decode_threads", [None, MOST])
def test_small_pictures_are_decoded_by_one_thread_unless_more_are_asked_for(
    shards: str, monkeypatch: pytest.MonkeyPatch, decode_threads: int | None
) -> None:
    options: dict[str, Any] = {"batch_size": 10, "seed": 3}
    expected = list(make_loader(shards, decode_threads=1, **options))
    monkeypatch.setattr(topology, "default_threads", lambda _workers: MOST)
    serve = DecodeThreads._serve_slice
    busy: set[int] = set()
    at_once: list[int] = []

    def recorded(threads: DecodeThreads, slot: Slice) -> None:
        busy.add(threading.get_ident())
        at_once.append(len(busy))
        serve(threads, slot)
        busy.remove(threading.get_ident())

    monkeypatch.setattr(DecodeThreads, "_serve_slice", recorded)
    batches = list(make_loader(shards, decode_threads=decode_threads, **options))
    assert_same(batches, expected)
    most_of_late = max(at_once[-len(at_once) // 3 :])
    assert most_of_late == 1 if decode_threads is None else most_of_late > 1

"""Pictures decoded ahead by threads: the right ones, in memory that stays the user's, and no thread
left behind.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.batches import assert_same
from support.converting import shards_of
from support.lerobot_source import Camera, Source
from support.slowly import slowly
from support.three_pictures import (
    FRAMES,
    ORDERS,
    PICTURES,
    STILL,
    TOP,
    WINDOWS,
    WRIST,
    Decode,
    every_order,
    load,
)

from roboshard.loader.batches.buffers import ReusedBuffers
from roboshard.loader.batches.pending_batch import PendingBatch
from roboshard.loader.episodes import fetch
from roboshard.loader.episodes.episode import Episode
from roboshard.loader.look_ahead import decode_ahead
from roboshard.loader.look_ahead.decode_ahead import LOOK_AHEAD_STEPS, look_ahead_steps
from roboshard.loader.look_ahead.decode_threads import DecodeThreads
from roboshard.loader.look_ahead.request_queue import Slice, Target
from roboshard.loader.look_ahead.thread_limit import ThreadLimit
from roboshard.loader.samples.rows import PictureKey, WindowedStep
from roboshard.loader.stats import StatsCounter

pytestmark = pytest.mark.usefixtures("no_threads_before")


@pytest.fixture
def uneven_threads(around_decode: Any) -> Iterator[set[str]]:
    """Threads take any time for anything.

    What is given fills with slices that two of them decoded at once.
    """
    dice, busy, shared = random.Random(1), Tally[tuple[int, str]](), set[str]()

    def unevenly(decode_really: Decode, episode: Episode, key: str, frames: Sequence[int]) -> Any:
        busy[id(episode), key] += 1
        if busy[id(episode), key] > 1:
            shared.add(key)
        for found in decode_really(episode, key, frames):
            time.sleep(dice.random() * 2e-4)
            yield found
        time.sleep(dice.random() * 4e-4)
        busy[id(episode), key] -= 1

    around_decode(unevenly)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield shared
    sys.setswitchinterval(interval)


# -- The same batches, however threads run ---------------------------------------------------------


@every_order
@pytest.mark.parametrize("return_uint8", [True, False], ids=["uint8", "float"])
@pytest.mark.parametrize("batch_size", [slowly(None), 5])
def test_batches_do_not_depend_on_how_threads_run(
    shards: Path,
    request: pytest.FixtureRequest,
    order: dict[str, Any],
    return_uint8: bool,
    batch_size: int | None,
) -> None:
    options = order | {
        "batch_size": batch_size,
        "return_uint8": return_uint8,
        "delta_timestamps": WINDOWS,
    }
    expected = list(load(shards, decode_threads=1, **options))
    shared = request.getfixturevalue("uneven_threads")
    for decode_threads in (2, 5):
        assert_same(load(shards, decode_threads=decode_threads, **options), expected)
    assert not shared


def test_batches_do_not_depend_on_how_far_ahead_is_decoded(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ORDERS["uniform"] | {"delta_timestamps": WINDOWS}
    expected = list(load(shards, **options))
    for steps in ((1, 1), (2, 2), (100, 100)):
        monkeypatch.setattr(decode_ahead, "LOOK_AHEAD_STEPS", steps)
        assert_same(load(shards, **options), expected)


def test_the_look_ahead_is_bounded_by_steps_and_bytes() -> None:
    least, most = LOOK_AHEAD_STEPS
    assert [look_ahead_steps(size) for size in (0, 1, 100 << 20, 1 << 40)] == [most, most, 5, least]


@pytest.mark.slow
@every_order
def test_workers_give_what_threads_give(shards: Path, order: dict[str, Any]) -> None:
    options = order | {"batch_size": 16, "delta_timestamps": WINDOWS}
    loader = load(shards, num_workers=2, **options)
    alone = load(shards, **options)
    for _ in range(2):
        kept = list(loader)
        assert_same(kept, alone)
        del kept
    loader.close()


# -- What decoders are asked for -------------------------------------------------------------------


def test_within_the_look_ahead_each_frame_is_decoded_once(
    shards: Path, around_decode: Any, all_at_once: None
) -> None:
    calls: list[tuple[int, str, list[int]]] = []
    gops: list[tuple[int, str, int]] = []

    def recorded(decode_really: Decode, episode: Episode, key: str, frames: Sequence[int]) -> Any:
        calls.append((id(episode), key, list(frames)))
        gops.extend((id(episode), key, gop) for gop in episode.gops(key, frames))
        return decode_really(episode, key, frames)

    around_decode(recorded)
    loader = load(
        shards,
        decode_threads=1,
        **ORDERS["uniform"] | {"pool_episodes": 100},
        delta_timestamps=WINDOWS,
    )
    list(loader)
    asked = Tally((episode, key, frame) for episode, key, frames in calls for frame in frames)
    assert max(asked.values()) == 1
    assert len(asked) == FRAMES * len(PICTURES)
    assert all(frames == sorted(set(frames)) for _, _, frames in calls)
    assert len(list(itertools.groupby(gops))) == len(set(gops)), "a GOP is decoded in one go"
    stats = loader.stats()
    assert (stats.frames_requested, stats.frames_used) == (2 * FRAMES, 4 * FRAMES)


class Numbered:
    """An episode whose pictures are their numbers."""

    def is_video(self, _: str) -> bool:
        return True

    def num_decoded(self, _: str) -> int:
        return 0

    def pictures(self, _: str, frames: Sequence[int]) -> Iterator[tuple[int, Any]]:
        return ((frame, np.full((1, 1, 3), frame, np.uint8)) for frame in frames)


@given(
    wanted=st.dictionaries(
        st.integers(0, 40),
        st.lists(st.integers(0, 2), min_size=1, max_size=4),
        min_size=1,
        max_size=20,
    )
)
def test_each_picture_goes_wherever_it_is_wanted_and_nowhere_else(
    wanted: dict[int, list[int]],
) -> None:
    """`wanted`: frame -> steps, once for each place."""
    sizes = Tally(itertools.chain.from_iterable(wanted.values()))
    steps: dict[int, PendingBatch] = {}
    keys = [PictureKey(key="x", is_video=True, offsets=None)]
    for number, size in sizes.items():
        step = WindowedStep(
            values={},
            episodes=(),
            episode_of=np.zeros(size),
            frames={"x": np.zeros((size, 1), int)},
        )
        steps[number] = PendingBatch(step, keys, as_float=False)
        steps[number].begin()
    requests: dict[int, list[Target]] = {frame: [] for frame in sorted(wanted)}
    expected: dict[int, list[int]] = {number: [] for number in steps}
    for frame, targets in requests.items():
        for number in wanted[frame]:
            targets.append((steps[number], len(expected[number])))
            expected[number].append(frame)
    counter = StatsCounter()
    threads = DecodeThreads(
        limit=ThreadLimit(1, pixels=None),
        pictures=keys,
        as_float=False,
        buffers=ReusedBuffers(),
        counter=counter,
        early_bytes=0,
    )
    slot: Any = Slice(Numbered(), "x")  # type: ignore[arg-type]
    threads._served[slot] = requests
    threads._decode(slot, list(requests))
    threads.close()
    assert not requests
    for number, frames in expected.items():
        assert not steps[number].left
        assert steps[number].batch()["x"][:, 0, 0, 0].tolist() == frames
    stats = counter.snapshot()
    assert (stats.frames_requested, stats.frames_used) == (len(wanted), sum(sizes.values()))


def test_a_decoder_goes_on_from_where_it_stands(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the end of a slice and its beginning, which a sweep asks for together, the end comes
    first.
    """
    episodes: list[Episode] = []

    class Kept(Episode):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            episodes.append(self)

    monkeypatch.setattr(fetch, "Episode", Kept)
    list(load(shards, episodes=[0], shuffle=False, cameras=[TOP, WRIST]))
    (episode,), frames = episodes, [0, 3, 7, 8, 11]
    assert episode.decode_runs(TOP, frames) == (frames,), "after the last one it stands nowhere"
    assert episode.decode_runs(STILL, frames) == (frames,), "images stand nowhere"
    assert [frame for frame, _ in episode.pictures(TOP, [3, 6])] == [3, 6]
    assert episode.decode_runs(TOP, frames) == ([7, 8, 11], [0, 3])
    assert [frame for frame, _ in episode.pictures(TOP, [7])] == [7]
    assert episode.decode_runs(TOP, frames) == (frames,), (
        "it would begin anew at the keyframe that comes next"
    )
    assert [frame for frame, _ in episode.pictures(WRIST, [2])] == [2]
    assert episode.decode_runs(WRIST, frames) == (frames,), "keyframes are near"


def test_what_counts_as_used_has_been_decoded(tmp_path: Path) -> None:
    """Or the cost of a frame would look low as long as others are on their way."""
    root = shards_of(
        Source(lengths=(30, 30), cameras=(Camera(key=TOP, gop=1, size=(32, 48)),)), tmp_path
    )
    loader = load(root, shuffle=False)
    for _ in loader:
        stats = loader.stats()
        assert stats.frames_decoded == stats.frames_used > 0

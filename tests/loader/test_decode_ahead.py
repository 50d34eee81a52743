"""Pictures decoded ahead by threads: the right ones, in memory that stays the user's, and no thread
left behind.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import time
import warnings
import weakref
import zlib
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.batches import Batch, assert_same, threads_left
from support.converting import shards_of
from support.damage import Forgery
from support.decoders import DECODERS, decode_with
from support.lerobot_source import Camera, Source
from support.slowly import slowly

from roboshard.loader import Loader, make_loader, resources
from roboshard.loader.batches.buffers import ReusedBuffers
from roboshard.loader.batches.pending_batch import PendingBatch
from roboshard.loader.decoding.resize import ResizedPicture
from roboshard.loader.episodes import fetch
from roboshard.loader.episodes.episode import Episode
from roboshard.loader.episodes.fetch import EpisodePool
from roboshard.loader.long_gops import FIRST_FRAMES, JUDGED_FRAMES
from roboshard.loader.look_ahead import decode_ahead
from roboshard.loader.look_ahead.decode_ahead import LOOK_AHEAD_STEPS, Holding, look_ahead_steps
from roboshard.loader.look_ahead.decode_threads import DecodeThreads
from roboshard.loader.look_ahead.request_queue import Slice, Target
from roboshard.loader.look_ahead.thread_limit import ThreadLimit
from roboshard.loader.samples.rows import PictureKey, WindowedStep
from roboshard.loader.stats import StatsCounter
from roboshard.shards import DamageError, FormatError, OptionError
from roboshard.shards.gop import COSTLY, mean_random_cost

pytestmark = pytest.mark.usefixtures("no_threads_before")

TOP, WRIST, STILL = "observation.images.top", "observation.images.wrist", "observation.images.still"
PICTURES = (TOP, WRIST, STILL)
LENGTHS = (12, 9, 15, 7, 11, 10, 8)
FRAMES = sum(LENGTHS)
SOURCE = Source(
    lengths=LENGTHS,
    cameras=(
        Camera(key=TOP, gop=8, bframes=2),
        Camera(key=WRIST, codec="av1", gop=2, size=(80, 64)),
    ),
    image_keys=(STILL,),
    tasks=("pick", "place"),
)
LONG_GOP, SHORT_GOP, LONG_LENGTHS = 40, 10, (40,) * 12
WINDOWS = {TOP: [-0.3, 0.0, 0.1], STILL: [-0.1, 0.0], "action": [i / 10 for i in range(300)]}
"""The actions of a batch are then too large for a message between processes."""
ORDERS: dict[str, dict[str, Any]] = {
    "dataset order": {"shuffle": False},
    "uniform": {"seed": 4, "pool_episodes": 3},
    "sweep": {"seed": 4, "pool_episodes": 3, "frame_order": "sweep"},
}
TWO_WORKERS_SLOWLY = [0, pytest.param(2, marks=pytest.mark.slow)]
every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
with_and_without_workers = pytest.mark.parametrize("num_workers", [0, 2])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras that are hard to seek in different ways, and an image feature."""
    return Path(shards_of(SOURCE, tmp_path_factory.mktemp("ahead")))


@pytest.fixture(scope="module")
def distant_keyframes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One keyframe an episode."""
    camera = Camera(key=TOP, gop=LONG_GOP, size=(32, 48))
    source = Source(lengths=LONG_LENGTHS, cameras=(camera,))
    return Path(shards_of(source, tmp_path_factory.mktemp("distant")))


def load(root: Path | str, **options: Any) -> Loader:
    return make_loader(str(root), **({"batch_size": 5} | options))


def checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(np.ascontiguousarray(tensor.numpy()))


Decode = Callable[[Episode, str, Sequence[int]], Any]


@pytest.fixture
def around_decode(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[Decode, Episode, str, Sequence[int]], Any]], None]:
    """Put a function around every call of `Episode.pictures`."""
    decode_really = Episode.pictures

    def put(function: Callable[[Decode, Episode, str, Sequence[int]], Any]) -> None:
        monkeypatch.setattr(
            Episode, "pictures", lambda *arguments: function(decode_really, *arguments)
        )

    return put


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


@pytest.mark.parametrize("image_size", [None, (20, 30)])
@pytest.mark.parametrize("return_uint8", [True, False])
def test_batches_do_not_depend_on_what_is_kept_for_later_steps(
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    early_pictures: EarlySizes,
    image_size: Any,
    return_uint8: bool,
) -> None:
    options = ORDERS["uniform"] | {"image_size": image_size, "return_uint8": return_uint8}
    expected = in_one_go(shards, options, early_bytes=0)
    assert not early_pictures
    for name in DECODERS:
        with monkeypatch.context() as patch:
            decode_with(name, patch)
            assert_same(in_one_go(shards, options, early_bytes=1 << 30), expected)
            assert len(early_pictures) > FRAMES / 3, "or this test says nothing"
            early_pictures.clear()


EarlySizes = list[int]


@pytest.fixture
def early_pictures(monkeypatch: pytest.MonkeyPatch) -> EarlySizes:
    """Bytes of each picture that was kept for a step that had not begun."""
    sizes: EarlySizes = []
    keep = PendingBatch.keep

    def recorded(step: PendingBatch, key: str, place: int, picture: Any) -> bool:
        is_kept = keep(step, key, place, picture)
        sizes.extend([picture.nbytes] * is_kept)
        return is_kept

    monkeypatch.setattr(PendingBatch, "keep", recorded)
    return sizes


def in_one_go(root: Path, options: dict[str, Any], early_bytes: int) -> list[Batch]:
    """Two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "EARLY_BYTES", early_bytes)
        loader = load(root, decode_threads=2, **options)
        return [*loader, *loader]


def test_what_is_kept_for_later_steps_is_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(lengths=(40,) * 6, cameras=(Camera(key=TOP, gop=2, size=(32, 48)),))
    root = shards_of(source, tmp_path)
    costs = []
    for early_bytes in (0, 1 << 20):
        monkeypatch.setattr(resources, "EARLY_BYTES", early_bytes)
        loader = load(root, pool_episodes=6, batch_size=4)
        for _ in range(4):
            list(loader)
        costs.append(loader.stats().frames_decoded_per_frame_used)
    assert 1.35 < costs[0] <= 1.5, (
        "a frame at random, and sometimes both of a GOP in the look-ahead"
    )
    assert costs[1] < costs[0] - 0.1


@pytest.mark.parametrize("order", ["dataset order", "sweep"])
def test_nothing_is_kept_where_frames_come_in_order(
    shards: Path, early_pictures: EarlySizes, order: str
) -> None:
    list(load(shards, **ORDERS[order]))
    assert not early_pictures


def test_what_is_kept_for_later_steps_is_bounded(
    shards: Path, monkeypatch: pytest.MonkeyPatch, early_pictures: EarlySizes
) -> None:
    """For those that have not begun, but for what one visit of a slice finds."""
    held: list[int] = []
    begin = DecodeThreads.begin

    def recorded(threads: DecodeThreads, step: PendingBatch) -> PendingBatch:
        held.append(threads._waiting.num_early)
        return begin(threads, step)

    monkeypatch.setattr(DecodeThreads, "begin", recorded)
    monkeypatch.setattr(decode_ahead, "LOOK_AHEAD_STEPS", (2, 2))
    monkeypatch.setattr("roboshard.loader.look_ahead.decode_threads.GUESSED_BYTES", 16384)
    for early_bytes in (60_000, 300_000):
        held.clear()
        early_pictures.clear()
        monkeypatch.setattr(resources, "EARLY_BYTES", early_bytes)
        loader = load(shards, **ORDERS["uniform"] | {"pool_episodes": 7})
        list(itertools.chain(loader, loader))
        a_visit = 5  # pictures at most of one slice in a step
        assert 0 < max(held) <= early_bytes // max(early_pictures) + a_visit
        assert max(held) > early_bytes // max(early_pictures) / 2


def test_steps_that_are_announced_hold_no_more_than_there_is_memory_for(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of episodes as much as `memory_bytes` has for them, and a step at least; of rows and notes as
    much as they may.
    """
    held: list[tuple[int, int, int]] = []
    add = Holding.add

    def recorded(holding: Holding, step: WindowedStep) -> None:
        add(holding, step)
        of_step = sum(episode.held_bytes for episode in step.episodes)
        notes = holding.num_pictures * decode_ahead.NOTE_BYTES
        held.append((holding.row_bytes + notes, holding.episode_bytes, of_step))

    def most() -> list[int]:
        found = np.max(held, axis=0).tolist()
        held.clear()
        return found

    monkeypatch.setattr(Holding, "add", recorded)
    options = ORDERS["uniform"] | {"batch_size": 1}
    expected = list(load(shards, **options))
    rows, episodes, of_step = most()
    assert episodes > LITTLE_MEMORY / 2 + of_step, "or this test says nothing"
    assert_same(load(shards, memory_bytes=LITTLE_MEMORY, **options), expected)
    assert most()[1] <= LITTLE_MEMORY / 2 + of_step
    monkeypatch.setattr(decode_ahead, "ANNOUNCED_BYTES", rows // 4)
    assert_same(load(shards, **options), expected)
    assert rows / 4 < most()[0] < rows / 2
    monkeypatch.undo()
    monkeypatch.setattr(Holding, "add", recorded)
    monkeypatch.setattr(decode_ahead, "ANNOUNCED_PER_KEPT", 0)
    assert_same(load(shards, **options), expected)
    assert most()[0] < rows / 4


def test_what_announced_steps_hold_is_that_of_each_episode_once() -> None:
    episodes = [Mock(held_bytes=10**number) for number in range(4)]
    chance = random.Random(7)

    def step() -> Any:
        values = {"action": torch.zeros(3, 2), "task": ["a"] * 3}
        frames = {TOP: np.zeros((3, 2), np.int64)}
        own = chance.sample(episodes, 2)
        return Mock(values=values, frames=frames, episodes=own)

    holding, steps = Holding(), deque[Any]()
    for _ in range(200):
        if steps and chance.random() < 0.5:
            holding.remove(steps.popleft())
        else:
            steps.append(step())
            holding.add(steps[-1])
        distinct = {id(episode): episode for own in steps for episode in own.episodes}
        assert holding.episode_bytes == sum(own.held_bytes for own in distinct.values())
        assert holding.row_bytes == len(steps) * 3 * 2 * 4
        assert holding.num_pictures == len(steps) * 6


def test_a_damaged_episode_is_an_error_at_the_step_that_needs_it(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it was drawn long before: no step before it is lost."""
    read = EpisodePool._read

    def broken(pool: EpisodePool, source: Any, place: int) -> Any:
        found = read(pool, source, place)
        if place == 2:
            raise DamageError("episode 2 is broken")
        return found

    expected = list(load(shards, **ORDERS["uniform"]))
    monkeypatch.setattr(EpisodePool, "_read", broken)
    found: list[Batch] = []
    with pytest.raises(DamageError, match="episode 2 is broken"):
        found.extend(load(shards, **ORDERS["uniform"]))
    first_bad = next(i for i, batch in enumerate(expected) if (batch["episode_index"] == 2).any())
    assert first_bad > 0
    assert len(found) == first_bad
    assert_same(found, expected[:first_bad])
    assert not threads_left()


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


# -- What the user keeps stays as it is ------------------------------------------------------------


@pytest.mark.parametrize("num_workers", TWO_WORKERS_SLOWLY)
def test_kept_batches_are_not_written_over(shards: Path, num_workers: int) -> None:
    loader = load(shards, batch_size=12, num_workers=num_workers, delta_timestamps=WINDOWS)
    kept: list[Batch] = []
    sums = []
    for batch in itertools.chain(loader, loader):
        kept.append(
            batch if len(kept) % 2 else {TOP: batch[TOP][-1:, 0]}
        )  # all of it, or a view of one camera
        sums.append(_checksums(kept[-1]))
        del batch
    assert len(kept) == 2 * len(loader)
    assert [_checksums(held) for held in kept] == sums
    loader.close()
    assert [_checksums(held) for held in kept] == sums, "though the workers are gone"


def _checksums(batch: Batch) -> list[int]:
    return [checksum(tensor) for tensor in batch.values() if isinstance(tensor, torch.Tensor)]


@pytest.mark.parametrize("batch_size", [5, None])
@pytest.mark.parametrize("num_workers", TWO_WORKERS_SLOWLY)
def test_what_the_user_lets_go_of_is_held_by_nobody(
    shards: Path, num_workers: int, batch_size: int | None
) -> None:
    """Or each stage would keep a batch's memory from being used again, until it has made the next
    one.
    """
    loader = load(shards, num_workers=num_workers, batch_size=batch_size)
    batches = iter(loader)
    for _ in range(4):
        batch = next(batches)
        held = [weakref.ref(value) for value in batch.values() if isinstance(value, torch.Tensor)]
        del batch
        until = time.monotonic() + 10
        while any(tensor() is not None for tensor in held) and time.monotonic() < until:
            time.sleep(0.01)  # the thread that made it may still be returning
        assert [tensor() for tensor in held] == [None] * len(held)
    loader.close()


def test_what_the_user_writes_into_a_batch_is_in_no_other(shards: Path) -> None:
    expected = list(load(shards, **ORDERS["uniform"]))
    loader = load(shards, **ORDERS["uniform"])
    found = []
    for batch in loader:
        found.append(
            {
                key: value.clone() if isinstance(value, torch.Tensor) else value
                for key, value in batch.items()
            }
        )
        for key in PICTURES:
            batch[key].zero_()
    assert_same(found, expected)


# -- What decoders are asked for -------------------------------------------------------------------


@pytest.fixture
def all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole epoch is within the look-ahead, asked for before the first frame is decoded, and
    served by then.
    """
    serve, wait_for, asked = DecodeThreads._serve, DecodeThreads.wait_for, threading.Event()

    def serve_later(threads: DecodeThreads, *arguments: Any) -> None:
        asked.wait()
        serve(threads, *arguments)

    def wait_for_all(threads: DecodeThreads, *arguments: Any) -> Any:
        asked.set()
        threads._executor.submit(int).result()  # of one thread: all before it is done
        return wait_for(threads, *arguments)

    monkeypatch.setattr(decode_ahead, "LOOK_AHEAD_STEPS", (1000, 1000))
    monkeypatch.setattr(DecodeThreads, "_serve", serve_later)
    monkeypatch.setattr(DecodeThreads, "wait_for", wait_for_all)


def test_within_the_look_ahead_each_frame_is_decoded_once(
    shards: Path, around_decode: Any, all_at_once: None
) -> None:
    calls: list[tuple[int, str, list[int]]] = []
    gops: list[tuple[int, str, int]] = []

    def recorded(decode_really: Decode, episode: Episode, key: str, frames: Sequence[int]) -> Any:
        calls.append((id(episode), key, list(frames)))
        gops.extend((id(episode), key, episode.gop(key, frame)) for frame in frames)
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
            targets.append(Target(steps[number], len(expected[number])))
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


# -- Errors and other ends -------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", TWO_WORKERS_SLOWLY)
def test_a_slice_that_cannot_be_decoded_is_an_error_at_the_step_that_needs_it(
    shards: Path, tmp_path: Path, num_workers: int
) -> None:
    forgery = Forgery(shards, tmp_path / "forged")
    number, at = next(
        (number, at)
        for number, shard in enumerate(forgery.shards)
        for at, sample in enumerate(shard["samples"])
        if sample["episode_index"] == 4
    )

    def cut(members: dict[str, bytes]) -> None:
        wrist = next(suffix for suffix in members if "wrist" in suffix)
        members[wrist] = members[wrist][:200]

    forgery.put_members(number, at, cut)
    root = Path(forgery.seal())
    options: dict[str, Any] = {"shuffle": False, "batch_size": 6}
    loader = load(root, num_workers=num_workers and 1, **options)
    found: list[Batch] = []
    with pytest.raises(FormatError, match=rf"episode 4, camera '{WRIST}': cannot be decoded"):
        found.extend(loader)
    assert len(found) == sum(LENGTHS[:4]) // 6
    assert_same(found, itertools.islice(load(shards, **options), len(found)))
    assert not threads_left()
    assert len(list(load(root, episodes=[0, 1, 2, 3, 5, 6], **options))) == -(
        -(FRAMES - LENGTHS[4]) // 6
    )
    loader.close()


def _until_error(batches: Iterable[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    except FormatError:
        return


def test_steps_that_are_complete_come_before_the_error_of_a_later_one(
    shards: Path, around_decode: Any, all_at_once: None
) -> None:
    def broken_at_the_end(
        decode_really: Decode, episode: Episode, key: str, frames: Sequence[int]
    ) -> Any:
        for frame, picture in decode_really(episode, key, frames):
            if frame == 11:
                raise FormatError("the end is broken")
            yield frame, picture

    around_decode(broken_at_the_end)
    loader = load(shards, batch_size=4, episodes=[0], shuffle=False, decode_threads=1)
    first, second = range(4), range(4, 8)
    assert [batch["frame_index"].tolist() for batch in _until_error(loader)] == [
        [*first],
        [*second],
    ]


def test_no_thread_is_left_after_an_epoch_and_after_break(shards: Path) -> None:
    loader = load(shards, decode_threads=3)
    for _ in loader:
        assert threads_left()
    assert not threads_left()
    for _ in loader:
        break
    assert not threads_left()
    iterator = iter(loader)
    next(iterator)
    del iterator
    assert not threads_left()


def test_no_thread_is_left_after_the_consumers_error(shards: Path) -> None:
    loader = load(shards, decode_threads=3)

    def train() -> None:
        for step, _ in enumerate(loader):
            if step == 3:
                raise ArithmeticError("the loss is not finite")

    with pytest.raises(ArithmeticError) as error:
        train()
    assert not threads_left()
    assert error.value.__traceback__
    assert len(list(load(shards))) == len(loader)


def test_no_thread_is_left_after_an_error_in_a_transform_though_that_is_still_held(
    shards: Path,
) -> None:
    calls = itertools.count()

    def transform(picture: torch.Tensor) -> torch.Tensor:
        if next(calls) == 30:
            raise ArithmeticError("no such picture")
        return picture

    with pytest.raises(ArithmeticError) as error:
        list(load(shards, image_transforms=transform))
    assert error.value.__traceback__
    assert not threads_left()


@pytest.mark.parametrize("at_call", [1, 5, 20, 21, 22])
def test_no_thread_is_left_after_ctrl_c(shards: Path, around_decode: Any, at_call: int) -> None:
    calls = itertools.count(1)

    def interrupted(decode_really: Decode, *arguments: Any) -> Any:
        for found in decode_really(*arguments):
            if next(calls) == at_call:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            yield found

    around_decode(interrupted)
    loader = load(shards, decode_threads=3)
    with pytest.raises(KeyboardInterrupt):
        for _ in loader:
            pass
    assert not threads_left()
    assert len(list(load(shards))) == len(loader)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_nothing_grows_over_many_epochs(shards: Path, num_workers: int) -> None:
    loader = load(shards, batch_size=12, num_workers=num_workers)
    threads, files, resident = [], [], []
    for _ in range(20):
        assert sum(len(batch["index"]) for batch in loader) == FRAMES
        gc.collect()
        pids = [os.getpid(), *sorted(child.pid or 0 for child in multiprocessing.active_children())]
        assert len(pids) == 1 + num_workers
        threads.append(threading.active_count())
        files.append([len(os.listdir(f"/proc/{pid}/fd")) for pid in pids])
        resident.append([psutil.Process(pid).memory_info().rss for pid in pids])
    assert threads[1:] == threads[1:2] * 19
    more_files, more_memory = (
        np.max(kept[10:], axis=0) - np.max(kept[:10], axis=0) for kept in (files, resident)
    )
    assert max(more_files) <= 3 * num_workers, (
        "a segment more where steps happened to be further ahead, not one an epoch"
    )
    per_epoch = FRAMES * (64 * 96 * 3 + 80 * 64 * 3 + 48 * 64 * 3 * 4)
    assert max(more_memory) < 3 * per_epoch, "of ten epochs"
    loader.close()


# -- Transforms ------------------------------------------------------------------------------------

TRANSFORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "in place": lambda picture: picture.clamp_(max=0.5 if picture.is_floating_point() else 100),
    "in place, and a copy of it": lambda picture: picture.clamp_(max=1).clone(),
    "in place, through a view": lambda picture: (
        picture.transpose(-1, -2).clamp_(max=1).transpose(-1, -2)
    ),
    "the same again": lambda picture: picture[:],
    "a part of it": lambda picture: picture[..., 3:, :-5],
    "every other pixel": lambda picture: picture[..., ::2, ::3],
    "turned": lambda picture: picture.transpose(-1, -2),
    "flipped": lambda picture: picture.flip(-1),
    "one row for all": lambda picture: picture[..., :1, :].expand_as(picture),
    "channels first in memory": lambda picture: picture.contiguous() + 0,
    "float64": lambda picture: picture.double() / 7,
    "int16": lambda picture: (picture * 255).to(torch.int16),
    "bool": lambda picture: picture > 0.5,
    "bfloat16": lambda picture: picture.to(torch.bfloat16),
    "grey": lambda picture: picture.float().mean(-3),
    "a vector": lambda picture: picture.float().mean((-1, -2)).flatten(),
    "one number": lambda picture: picture.float().mean(),
    "nothing": lambda picture: picture.float()[..., :0],
    "some in place": lambda picture: (
        picture.clamp_(max=1) if int(picture.sum()) % 2 else picture.clamp(max=1)
    ),
    "larger": lambda picture: picture.repeat_interleave(2, -1),
    "with a gradient": lambda picture: (
        picture.float() * torch.ones((), requires_grad=True)
    ).detach(),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_may_do_as_they_like(
    shards: Path, transform: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    options: dict[str, Any] = ORDERS["uniform"] | {
        "delta_timestamps": {TOP: WINDOWS[TOP]},
        "episodes": [0, 1, 2],
    }
    found = list(load(shards, image_transforms=transform, **options))
    for batch, plain in zip(found, load(shards, **options), strict=True):
        for key in PICTURES:
            plain[key] = torch.stack([transform(picture.clone()) for picture in plain[key]])
        assert_same([batch], [plain])
    singles = load(shards, image_transforms=transform, **options | {"batch_size": None})
    for number, sample in enumerate(singles):
        assert all(
            torch.equal(sample[key], found[number // 5][key][number % 5]) for key in PICTURES
        )


@pytest.mark.parametrize(
    "transform",
    [partial(torch.clamp_, max=1), torch.sqrt],
    ids=["in place", "other dtype"],
)
@pytest.mark.slow
def test_transforms_in_workers(
    shards: Path, transform: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    options: dict[str, Any] = {"batch_size": 16, "image_transforms": transform}
    loader = load(shards, num_workers=2, **options)
    assert_same(list(loader), load(shards, **options))
    loader.close()


# -- Sizes -----------------------------------------------------------------------------------------


@pytest.fixture(params=DECODERS)
def each_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_with(request.param, monkeypatch)


@pytest.mark.parametrize("return_uint8", [True, slowly(False)], ids=["uint8", "float"])
@pytest.mark.parametrize("size", [(32, 48), (37, 50), (96, 40), (128, 192), (1, 2)], ids=str)
def test_pictures_are_as_if_resized_afterwards(
    shards: Path, each_decoder: None, size: tuple[int, int], return_uint8: bool
) -> None:
    options: dict[str, Any] = {
        "delta_timestamps": {TOP: [-0.1, 0.0]},
        "episodes": [0, 3],
        "seed": 2,
    }
    plain = load(shards, **options)
    for batch, full in zip(
        load(shards, image_size=size, return_uint8=return_uint8, **options), plain, strict=True
    ):
        for key in PICTURES:
            whole = (
                full[key]
                if full[key].dtype == torch.uint8
                else (full[key] * 255).round().to(torch.uint8)
            )
            pictures = whole.flatten(0, -4).contiguous()
            expected = torch.nn.functional.interpolate(
                pictures, size=size, mode="bilinear", antialias=True
            )
            expected = expected.view(*whole.shape[:-2], *size)
            is_float = full[key].is_floating_point() or not return_uint8
            assert torch.equal(batch[key], expected / 255 if is_float else expected), key


def test_a_picture_that_several_samples_want_is_resized_once(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resized, into = itertools.count(), ResizedPicture.into
    monkeypatch.setattr(
        ResizedPicture, "into", lambda *arguments: (next(resized), into(*arguments))[1]
    )
    options: dict[str, Any] = {
        "delta_timestamps": {WRIST: [-0.2, -0.1, 0.0]},
        "cameras": [WRIST],
        "episodes": [0],
    }
    (batch,) = load(shards, shuffle=False, batch_size=LENGTHS[0], image_size=(20, 30), **options)
    assert batch[WRIST].shape[:2] == (LENGTHS[0], 3)
    assert next(resized) == 2 * LENGTHS[0], "frames of the camera, and images of the rows"


@pytest.mark.parametrize(
    "size", [(20, 30), [20, 30], torch.Size((20, 30)), np.array([20, 30])], ids=repr
)
def test_a_size_may_be_any_pair(shards: Path, size: Any) -> None:
    sample = next(iter(load(shards, batch_size=None, image_size=size)))
    assert {key: tuple(sample[key].shape) for key in PICTURES} == dict.fromkeys(
        PICTURES, (3, 20, 30)
    )


@pytest.mark.parametrize(
    "size",
    [
        (0, 5),
        (5, -1),
        (5,),
        (5, 5, 3),
        (),
        224,
        2.5,
        (5.0, 5.0),
        "55",
        (True, 5),
        (None, 5),
        ("5", "5"),
    ],
    ids=str,
)
def test_what_is_no_size_is_refused(shards: Path, size: Any) -> None:
    with pytest.raises(OptionError, match=r"image_size must be \(height, width\) in pixels, not "):
        load(shards, image_size=size)


# -- Devices ---------------------------------------------------------------------------------------

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_gpu
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"decode_device": "cuda"}, "decode_device='cuda': torch finds no CUDA device"),
        ({"decode_device": "cuda:1"}, "decode_device='cuda:1': torch finds no CUDA device"),
        ({"device": "cuda"}, "device='cuda': torch finds no CUDA device"),
        ({"device": torch.device("cuda", 0)}, "torch finds no CUDA device"),
        ({"pin_memory": True}, "pin_memory=True needs a CUDA device"),
        ({"decode_device": "cuda", "num_workers": 2}, "decode_device='cuda'"),
    ],
    ids=str,
)
def test_a_gpu_that_is_not_there_is_refused(
    shards: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        load(shards, **options)


@pytest.mark.parametrize("name", ["device", "decode_device"])
@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("nonsense", "is no device"),
        ("cuda:", "is no device"),
        ("", "is no device"),
        ("meta", "'cpu' or 'cuda'"),
    ],
)
def test_what_is_no_device_is_refused(shards: Path, name: str, device: str, reason: str) -> None:
    with pytest.raises(OptionError, match=rf"{name}.*{reason}"):
        load(shards, **{name: device})


def test_workers_do_not_decode_on_a_gpu(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        OptionError, match="decodes in this process: use it with num_workers=0, not 2"
    ):
        load(shards, decode_device="cuda", num_workers=2)
    with pytest.raises(OptionError, match="device='cuda:3': torch finds 1 CUDA devices"):
        load(shards, device="cuda:3")


@pytest.mark.parametrize("num_workers", TWO_WORKERS_SLOWLY)
def test_the_cpu_is_a_device(shards: Path, num_workers: int) -> None:
    options: dict[str, Any] = {"batch_size": 16}
    loader = load(
        shards,
        device="cpu",
        decode_device="cpu",
        pin_memory=False,
        num_workers=num_workers,
        **options,
    )
    assert_same(list(loader), load(shards, **options))
    loader.close()


# -- What it costs, and being told of it -----------------------------------------------------------


def _warnings_of(loader: Loader, epochs: int = 2) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(epochs):
            for _ in loader:
                pass
    loader.close()
    return caught


@pytest.fixture
def judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether keyframes are far apart is told from the first frames on, which few data have."""
    monkeypatch.setattr("roboshard.loader.long_gops.FIRST_FRAMES", 0)


LITTLE_MEMORY = 1 << 16
"""Of episodes, so that few steps are announced and each frame is decoded for itself."""


@pytest.mark.usefixtures("judged_at_once")
@pytest.mark.parametrize("num_workers", TWO_WORKERS_SLOWLY)
def test_distant_keyframes_are_warned_of_once(distant_keyframes: Path, num_workers: int) -> None:
    options: dict[str, Any] = {"batch_size": 2, "memory_bytes": LITTLE_MEMORY}
    (warning,) = _warnings_of(load(distant_keyframes, num_workers=num_workers, **options))
    assert re.match(
        r'\d+\.\d frames are decoded for every frame used.*frame_order="sweep"',
        str(warning.message),
    )
    assert warning.category is UserWarning
    assert warning.filename == __file__
    cost = float(str(warning.message).split()[0])
    assert COSTLY < cost <= mean_random_cost([0], LONG_GOP)


def test_what_the_first_frames_cost_is_not_warned_of(distant_keyframes: Path) -> None:
    """Few later frames are known at first that share their GOPs; here soon all of them are."""
    loader = load(distant_keyframes, batch_size=2)
    costs: list[float] = []
    assert _warnings_of(loader, 1 + (FIRST_FRAMES + JUDGED_FRAMES) // sum(LONG_LENGTHS)) == []
    for epochs in (1, 5):
        again = load(distant_keyframes, batch_size=2)
        for _ in range(epochs):
            list(again)
        costs.append(again.stats().frames_decoded_per_frame_used)
    assert costs[1] < costs[0]


@pytest.mark.usefixtures("judged_at_once")
@pytest.mark.parametrize(
    "options",
    [
        {"frame_order": "sweep"},
        {"shuffle": False},
        {"cameras": []},
        {"episodes": [0, 1, 2], "drop_n_first_frames": 9},
    ],
    ids=str,
)
def test_nothing_is_warned_of_where_frames_are_cheap_or_few(
    distant_keyframes: Path, options: dict[str, Any]
) -> None:
    assert 3 * (LONG_GOP - 9) * 2 < JUDGED_FRAMES < sum(LONG_LENGTHS)
    assert _warnings_of(load(distant_keyframes, batch_size=2, **options)) == []


@pytest.mark.usefixtures("judged_at_once")
def test_near_keyframes_are_not_warned_of(pusht_shards: Path) -> None:
    assert _warnings_of(load(pusht_shards, batch_size=2), epochs=1) == []


@pytest.mark.usefixtures("judged_at_once")
@pytest.mark.parametrize("gop", [slowly(1), 2, SHORT_GOP])
def test_a_frame_at_random_costs_what_its_keyframes_say(
    tmp_path: Path, gop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(lengths=LONG_LENGTHS, cameras=(Camera(key=TOP, gop=gop, size=(32, 48)),))
    monkeypatch.setattr(resources, "EARLY_BYTES", 0)
    loader = load(shards_of(source, tmp_path), batch_size=1)
    assert len(_warnings_of(loader, epochs=1)) == int(gop == SHORT_GOP)
    expected = mean_random_cost(range(0, LONG_LENGTHS[0], gop), LONG_LENGTHS[0])
    assert 0.75 * expected <= loader.stats().frames_decoded_per_frame_used <= expected * 1.1


def test_a_sweep_plays_each_episode_from_its_phase_on(distant_keyframes: Path) -> None:
    """Each frame costs one; those before the phase that an episode begins at are decoded once more
    on the way.
    """
    loader = load(distant_keyframes, frame_order="sweep")
    list(loader)
    stats = loader.stats()
    assert stats.frames_used == sum(LONG_LENGTHS)
    assert sum(LONG_LENGTHS) < stats.frames_decoded <= 2 * sum(LONG_LENGTHS)


@pytest.mark.parametrize("num_workers", TWO_WORKERS_SLOWLY)
def test_stats_tell_how_things_stand(shards: Path, num_workers: int) -> None:
    loader = load(shards, num_workers=num_workers, batch_size=4)
    whole = sum(path.stat().st_size for path in (shards / "shards").glob("*.tar"))
    ahead, resident = [], []
    for step, _ in enumerate(loader, 1):
        stats = loader.stats()
        ahead.append(stats.steps_ahead)
        resident.append(stats.resident_bytes)
        assert (stats.batches, stats.samples) == (step, min(FRAMES, 4 * step))
        assert stats.samples * 2 <= stats.frames_used
    assert all(1 <= steps <= LOOK_AHEAD_STEPS[1] * max(1, num_workers) for steps in ahead)
    assert max(ahead) > 1
    assert all(0 < size <= whole * max(1, num_workers) for size in resident)
    assert stats.frames_used == 2 * FRAMES <= stats.frames_decoded
    assert stats.decode_seconds > 0
    assert stats.episodes_read >= len(LENGTHS)
    loader.close()

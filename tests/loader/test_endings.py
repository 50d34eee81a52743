"""How loading ends: at errors, interrupts and breaks; no thread is left, no complete step lost."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from support.batches import Batch, assert_same, threads_left
from support.collecting import Collection, in_a_cycle
from support.damage import Forgery
from support.three_pictures import FRAMES, LENGTHS, ORDERS, TWO_WORKERS_SLOWLY, WRIST, Decode, load
from support.waiting import wait_until

from roboshard.loader.episodes.episode import Episode
from roboshard.loader.episodes.fetch import EpisodePool
from roboshard.loader.look_ahead.decode_threads import DecodeThreads
from roboshard.shards import DamageError, FormatError

pytestmark = pytest.mark.usefixtures("no_threads_before")


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


OWN_THREADS: dict[str, tuple[type, str, Callable[..., bool]]] = {
    "roboshard-decode": (Episode, "pictures", lambda episode, *_: episode.position > 0),
    "roboshard-background": (
        DecodeThreads,
        "wait_for",
        lambda _, step: bool(step.values["episode_index"][0]),
    ),
}
"""Thread -> what runs in it, and whether that is for a step after the first one."""


@pytest.mark.parametrize("name", OWN_THREADS)
def test_a_loader_in_a_cycle_is_collected_in_a_thread_of_its_own(
    shards: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    owner, method, is_later = OWN_THREADS[name]
    runs = getattr(owner, method)
    collection = Collection()

    def collecting(*arguments: Any) -> Any:
        if is_later(*arguments):
            assert threading.current_thread().name.startswith(name)
            collection.make()
        return runs(*arguments)

    def leave() -> weakref.ref[Any]:
        loader = load(shards, decode_threads=2, batch_size=LENGTHS[0], shuffle=False)
        batches = iter(loader)
        next(batches)
        in_a_cycle(loader, batches)
        return weakref.ref(loader)

    monkeypatch.setattr(owner, method, collecting)
    left = collection.after(leave)
    assert wait_until(lambda: not threads_left())
    assert left() is None


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

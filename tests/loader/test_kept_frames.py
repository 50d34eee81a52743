"""Pictures that are decoded for steps that have not begun: what is kept of them, and how much."""

from __future__ import annotations

import itertools
import random
from collections import deque
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from support.batches import Batch, assert_same
from support.converting import shards_of
from support.decoders import DECODERS, decode_with
from support.lerobot_source import Camera, Source
from support.three_pictures import FRAMES, LITTLE_MEMORY, ORDERS, TOP, load

from roboshard.loader import resources
from roboshard.loader.batches.pending_batch import PendingBatch
from roboshard.loader.config import ReadConfig
from roboshard.loader.look_ahead import decode_ahead
from roboshard.loader.look_ahead.decode_ahead import Holding
from roboshard.loader.look_ahead.decode_threads import DecodeThreads
from roboshard.loader.samples.rows import WindowedStep

pytestmark = pytest.mark.usefixtures("no_threads_before")


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
        patch.setattr(resources, "EARLY_FRACTION", early_bytes / ReadConfig.memory_bytes)
        loader = load(root, decode_threads=2, **options)
        return [*loader, *loader]


def test_what_is_kept_for_later_steps_is_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(lengths=(40,) * 6, cameras=(Camera(key=TOP, gop=2, size=(32, 48)),))
    root = shards_of(source, tmp_path)
    costs = []
    for early_bytes in (0, 1 << 20):
        monkeypatch.setattr(resources, "EARLY_FRACTION", early_bytes / ReadConfig.memory_bytes)
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
    monkeypatch.setattr(decode_ahead, "ANNOUNCED_SHARE", 100)  # notes of pictures this small
    monkeypatch.setattr("roboshard.loader.look_ahead.decode_threads.GUESSED_BYTES", 16384)
    for early_bytes in (60_000, 300_000):
        held.clear()
        early_pictures.clear()
        memory_bytes = int(early_bytes / resources.EARLY_FRACTION)
        options = {"pool_episodes": 7, "memory_bytes": memory_bytes}
        loader = load(shards, **ORDERS["uniform"] | options)
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
    early_bytes = resources.EARLY_FRACTION * ReadConfig.memory_bytes
    monkeypatch.setattr(decode_ahead, "ANNOUNCED_SHARE", rows / 4 / early_bytes)
    assert_same(load(shards, **options), expected)
    assert rows / 4 <= most()[0] < rows / 2
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

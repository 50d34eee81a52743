"""Batches that a user has: nothing writes over them, and nothing else holds them."""

from __future__ import annotations

import itertools
import time
import weakref
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from support.batches import Batch, assert_same
from support.three_pictures import ORDERS, PICTURES, TOP, TWO_WORKERS_SLOWLY, WINDOWS, load

pytestmark = pytest.mark.usefixtures("no_threads_before")


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


def checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(np.ascontiguousarray(tensor.numpy()))


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

"""Dividing episodes among shards: pure arithmetic over indices and estimated sizes."""

import numpy as np
from numpy.typing import NDArray

from roboshard.common.permute import derive_key, permute


def shuffle_episodes(indices: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the indices in a random order that the seed fixes."""
    positions = np.arange(len(indices), dtype=np.int64)
    return indices[permute(positions, len(indices), derive_key("convert", seed))]


def plan_shards(sizes: NDArray[np.int64], target: int) -> list[slice]:
    """Cut a sequence of episodes of these sizes into shards of about `target` bytes, at least one
    episode each.

    A shard is closed when the next episode would take it past the target; an episode larger than
    the target has a shard of its own.
    """
    shards, start, filled = [], 0, 0
    for i, size in enumerate(sizes.tolist()):
        if i > start and filled + size > target:
            shards.append(slice(start, i))
            start, filled = i, 0
        filled += size
    if start < len(sizes):
        shards.append(slice(start, len(sizes)))
    return shards

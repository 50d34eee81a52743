"""The order of the frames of one pool: bijections of 0..size-1, computed and never stored.

A pool is a stretch of the tape: some episodes, laid end to end. Offset 0 is its first frame in tape order.
"""

import numpy as np
from numpy.typing import NDArray

from roboshard.common.permute import derive_key, permute, random_integers

SWEEP_CHUNK = 2
"""Frames that the longest episode of a pool gives at a time; shorter ones give less, in proportion."""

IntArray = NDArray[np.int64]


def uniform(places: IntArray, size: int, *purpose: int) -> IntArray:
    """Offsets of the frames at these places (0 is the pool's first sample): a keyed random permutation."""
    return permute(places, size, derive_key("frames", *purpose))


def sweep(places: IntArray, bounds: IntArray, *purpose: int) -> IntArray:
    """Offsets of the frames at these places when every episode is played forward, all of them at once.

    Each episode starts at a random phase and wraps around once. The pool is played in rounds; in each, every
    episode gives a short chunk, as long as its share of the pool, and the chunks come in a random order.

    Args:
        places: places in the pool's order.
        bounds: (episodes + 1,) offsets at which the pool's episodes begin, and its size.
        purpose: what the order depends on: seed, epoch, lane, pool.
    """
    lengths = np.diff(bounds)
    num_rounds = max(1, -(-int(lengths.max()) // SWEEP_CHUNK))
    spans = np.maximum(lengths, 1)  # an episode that the lane's cut leaves nothing of
    phases = (
        random_integers(len(lengths), derive_key("phases", *purpose)) % spans.astype(np.uint64)
    ).astype(np.int64)
    rounds = _rounds_of(places, lengths, num_rounds)
    offsets = np.empty_like(places)
    for number in np.unique(rounds).tolist():
        inside = rounds == number
        first = number * lengths // num_rounds
        counts = (number + 1) * lengths // num_rounds - first
        order = permute(
            np.arange(len(lengths)), len(lengths), derive_key("round", *purpose, number)
        )
        ends = np.cumsum(counts[order])
        within = places[inside] - int(first.sum())
        turn = np.searchsorted(ends, within, side="right")
        episode = order[turn]
        played = first[episode] + within - (ends[turn] - counts[episode])
        offsets[inside] = bounds[episode] + (played + phases[episode]) % lengths[episode]
    return offsets


def _rounds_of(places: IntArray, lengths: IntArray, num_rounds: int) -> IntArray:
    """The round that each place is in: the last one that begins at or before it, by bisection."""
    low = np.zeros(len(places), dtype=np.int64)
    high = np.full(len(places), num_rounds, dtype=np.int64)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        begins = (middle[:, None] * lengths // num_rounds).sum(axis=1)
        later = places >= begins
        low, high = np.where(later, middle, low), np.where(later, high, middle)
    return low

"""The order of the frames of one pool: bijections of 0..size-1, computed and never stored.

A pool is a stretch of the tape: some episodes, laid end to end. Offset 0 is its first frame in tape order.
"""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from roboshard.shards.permute import derive_key, permute, random_integers

SWEEP_CHUNK = 2
"""Frames that the longest episode of a pool gives at a time; shorter ones give less, in proportion."""

ROUNDS_NEAR = 5
"""Looked at before the whole pool is searched."""

IntArray = NDArray[np.int64]


def uniform(places: IntArray, size: int, *purpose: int) -> IntArray:
    """Offsets of the frames at these places (0 is the pool's first sample): a keyed random permutation."""
    return permute(places, size, derive_key("frames", *purpose))


class Sweep:
    """The order in which one pool's episodes are all played forward at once.

    Each episode starts at a random phase and wraps around once. The pool is played in rounds; in each, every
    episode gives a short chunk, as long as its share of the pool, and the chunks come in a random order.
    """

    def __init__(self, bounds: IntArray, *purpose: int) -> None:
        """A pool whose episodes begin at these offsets.

        Args:
            bounds: (episodes + 1,) those offsets, and the pool's size.
            purpose: what the order depends on: seed, epoch, lane, pool.
        """
        self._bounds, self._purpose = bounds, purpose
        self._lengths = lengths = np.diff(bounds)
        self._num_rounds = max(1, -(-int(lengths.max()) // SWEEP_CHUNK))
        spans = np.maximum(lengths, 1)  # an episode that the lane's cut leaves nothing of
        phases = random_integers(len(lengths), derive_key("phases", *purpose)) % spans.astype(np.uint64)
        self._phases = phases.astype(np.int64)
        self._near = 0
        """A round that was asked for: the next step takes of this one, or soon after."""

    def offsets(self, places: IntArray) -> IntArray:
        """Offsets of the frames at these places of the pool's order."""
        offsets = np.empty_like(places)
        if not len(places):
            return offsets
        first, begins = self._rounds_around(places.min(), places.max())
        rounds = np.searchsorted(begins, places, side="right") - 1
        for number in np.unique(rounds).tolist():
            inside = rounds == number
            offsets[inside] = self._in_round(first + number, places[inside] - begins[number])
        return offsets

    def _rounds_around(self, low: np.int64, high: np.int64) -> tuple[int, IntArray]:
        """(the round of the first place or one before it, the places at which it and those up to the last begin)."""
        first = self._near
        begins = self._begins(np.arange(first, first + ROUNDS_NEAR, dtype=np.int64))
        if not begins[0] <= low <= high < begins[-1]:
            first = self._round_of(low)
            begins = self._begins(np.arange(first, self._round_of(high) + 1, dtype=np.int64))
        self._near = first + int(np.searchsorted(begins, high, side="right")) - 1
        return first, begins

    def _begins(self, rounds: IntArray) -> IntArray:
        """(n,) the places at which these rounds begin."""
        begins: IntArray = (rounds[:, None] * self._lengths // self._num_rounds).sum(axis=1)
        return begins

    def _round_of(self, place: np.int64) -> int:
        """The last round that begins at or before a place."""
        lengths, num_rounds = self._lengths, self._num_rounds
        return bisect_right(range(num_rounds), place, key=lambda number: (number * lengths // num_rounds).sum()) - 1

    def _in_round(self, number: int, within: IntArray) -> IntArray:
        lengths = self._lengths
        first = number * lengths // self._num_rounds
        counts = (number + 1) * lengths // self._num_rounds - first
        order = permute(np.arange(len(lengths)), len(lengths), derive_key("round", *self._purpose, number))
        ends = np.cumsum(counts[order])
        turn = np.searchsorted(ends, within, side="right")
        episode = order[turn]
        played = first[episode] + within - (ends[turn] - counts[episode])
        offsets: IntArray = self._bounds[episode] + (played + self._phases[episode]) % lengths[episode]
        return offsets

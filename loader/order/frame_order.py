"""The order of the frames of one pool: bijections of 0..size-1, computed and never stored.

A pool is a stretch of the tape: some episodes, laid end to end. Offset 0 is its first frame in tape order.
"""

import numpy as np
from numpy.typing import NDArray

from roboshard.shards.permute import derive_key, permute, random_integers

SWEEP_CHUNK = 2
"""Frames that the longest episode of a pool gives at a time; shorter ones give less, in proportion."""

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
        rounds = np.arange(self._num_rounds, dtype=np.int64)
        self._begins = sum(
            (rounds * length // self._num_rounds for length in lengths.tolist()), np.zeros_like(rounds)
        )
        """(rounds,) the place at which each begins."""

    def offsets(self, places: IntArray) -> IntArray:
        """Offsets of the frames at these places of the pool's order."""
        rounds = np.searchsorted(self._begins, places, side="right") - 1
        offsets = np.empty_like(places)
        for number in np.unique(rounds).tolist():
            inside = rounds == number
            offsets[inside] = self._in_round(number, places[inside] - self._begins[number])
        return offsets

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

"""How often an episode comes in each epoch, where that is not once: arithmetic on the episode and
the epoch.

A weight is a fraction n/d. An episode comes floor(((e + 1) n + p) / d) - floor((e n + p) / d) times
in epoch e: n times in any d epochs in a row, and in any other number of them as often as that says,
give or take one. Its phase p (0 .. d-1) shifts when it comes. Phases are dealt out so that epochs
are about equal: among episodes of one weight, in a keyed random order, each goes on where the one
before it leaves off, so that each epoch has its share of them, give or take one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roboshard.common.permute import derive_key, permute

MAX_DENOMINATOR = 1 << 16
"""Largest d of a weight n/d: weights that no such fraction equals are a little less or more."""
MAX_WEIGHT = 1 << 16
EXACT = 1e-9
"""A weight within this share of a fraction is meant to be it, and the shortest such fraction is
taken.
"""
UNIT = 1 << 20
"""Phases are passed on from weight to weight in parts of this."""

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Weights of episodes: arrays of shape (num_episodes,)."""

    numerator: IntArray
    denominator: IntArray
    phase: IntArray
    """Phase of each episode, in parts of 1/denominator."""

    def before(self, epoch: int) -> IntArray:
        """Return how often each episode comes in all epochs before this one."""
        rounds, rest = np.divmod(np.int64(epoch), self.denominator)
        count: IntArray = (
            rounds * self.numerator + (rest * self.numerator + self.phase) // self.denominator
        )
        return count

    def in_epoch(self, epoch: int) -> IntArray:
        """Return how often each episode comes in an epoch."""
        return self.before(epoch + 1) - self.before(epoch)


def make_repeats(weights: FloatArray, seed: int) -> Repeats | None:
    """Return when episodes of these weights (0 to MAX_WEIGHT) come; None: each of them once an
    epoch.
    """
    numerator, denominator = fractions(weights)
    if np.all(numerator == denominator):
        return None
    phase = _phases(numerator, denominator, seed)
    return Repeats(numerator=numerator, denominator=denominator, phase=phase)


def fractions(weights: FloatArray) -> tuple[IntArray, IntArray]:
    """Return weights as numerators and denominators: 0.1 and 1/3 become 1/10 and 1/3.

    Each is the first convergent of the weight's continued fraction that is equal to it but for
    rounding, or else the last one that MAX_DENOMINATOR admits, which is off by less than
    1/MAX_DENOMINATOR.
    """
    rest = np.asarray(weights, dtype=np.float64).copy()
    before = np.ones(len(rest), dtype=np.int64), np.zeros(len(rest), dtype=np.int64)
    numerator = np.floor(rest).astype(np.int64)
    denominator = np.ones(len(rest), dtype=np.int64)
    open_ones = np.arange(len(rest))
    while True:
        exact = numerator[open_ones] / denominator[open_ones]
        wanted = weights[open_ones]
        open_ones = open_ones[np.abs(exact - wanted) > EXACT * wanted]
        part = rest[open_ones] - np.floor(rest[open_ones])
        inverse = 1 / np.maximum(part, 1 / (2.0 * MAX_DENOMINATOR))
        term = np.floor(inverse).astype(np.int64)
        larger = [
            term * now[open_ones] + earlier[open_ones]
            for now, earlier in zip((numerator, denominator), before, strict=True)
        ]
        fits = larger[1] <= MAX_DENOMINATOR
        open_ones, inverse = open_ones[fits], inverse[fits]
        if not open_ones.size:
            return numerator, denominator
        for now, earlier, new in zip((numerator, denominator), before, larger, strict=True):
            earlier[open_ones], now[open_ones] = now[open_ones], new[fits]
        rest[open_ones] = inverse


def _phases(numerator: IntArray, denominator: IntArray, seed: int) -> IntArray:
    """Return the phases: episodes by weight, and by chance among equals, take their turns one after
    the other.
    """
    count = len(numerator)
    chance = permute(np.arange(count, dtype=np.int64), count, derive_key("repeats", seed))
    order = np.lexsort((chance, denominator, numerator))
    n, d = numerator[order], denominator[order]
    begins = np.flatnonzero(np.r_[True, (np.diff(n) != 0) | (np.diff(d) != 0)])
    sizes = np.diff(np.r_[begins, count])
    # Where the weights of all episodes before a group add up to, in parts of UNIT; 1 - 1/UNIT at
    # the beginning, so that the first epoch has as many episodes as all weights add up to, rounded
    # up.
    added = sizes * ((n[begins] * UNIT) // d[begins])
    start = (UNIT - 1 + np.cumsum(added) - added) % UNIT
    first = start * d[begins] // UNIT
    turn = np.arange(count, dtype=np.int64) - np.repeat(begins, sizes)
    phase = np.empty(count, dtype=np.int64)
    phase[order] = (np.repeat(first, sizes) + turn * n) % d
    return phase

"""The order of the frames of pools: bijections of 0..size-1, computed and never stored.

A pool is a stretch of the tape: some episodes, laid end to end. Offset 0 is its first frame in tape
order. Places of many pools are answered in a few calls, for a batch of many datasets has few
samples of each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roboshard.common.permute import derive_key, permute_each, random_integers_each

SWEEP_CHUNK = 2
"""Frames that the longest episode of a pool gives at a time; shorter ones give less, in
proportion.
"""

IntArray = NDArray[np.int64]


class Pool(NamedTuple):
    """Episodes whose frames are mixed: a stretch of the tape."""

    start: int
    """Place of the tape at which the pool begins: a lane's cut may be within an episode."""
    stop: int
    """Place of the tape after the last one of the pool."""
    episodes: IntArray
    """(episodes + 1,) where each episode begins on the tape, and the end of the last one."""
    purpose: tuple[int, ...]
    """What the pool's order depends on: seed, epoch, lane, pool."""

    @property
    def bounds(self) -> IntArray:
        """(episodes + 1,) offsets at which the episodes begin in the pool, and its size."""
        bounds: IntArray = self.episodes.clip(self.start, self.stop) - self.start
        return bounds


def uniform(places: IntArray, group: IntArray, pools: Sequence[Pool]) -> IntArray:
    """Return the offsets of frames in keyed random permutations.

    Args:
        places: (n,) places in a pool's order; 0 is its first sample.
        group: (n,) which of the pools each is of.
        pools: those pools.
    """
    sizes = [pool.stop - pool.start for pool in pools]
    return permute_each(
        places, group, sizes, [derive_key("frames", *pool.purpose) for pool in pools]
    )


def sweep(places: IntArray, group: IntArray, pools: Sequence[Pool]) -> IntArray:
    """Return the offsets of frames when every episode is played forward, all episodes of a pool at
    once.

    Each episode starts at a random phase and wraps around once. A pool is played in rounds; in
    each, every
    episode gives a short chunk, as long as its share of the pool, and the chunks come in a random
    order.

    Args:
        places: (n,) places in a pool's order.
        group: (n,) which of the pools each is of.
        pools: those pools.
    """
    if not len(places):
        return places
    bounds = [pool.bounds for pool in pools]
    lengths = _rectangle([np.diff(own) for own in bounds])
    num_rounds = np.maximum(1, -(-lengths.max(axis=1) // SWEEP_CHUNK))
    rounds = _rounds_of(places, group, lengths, num_rounds)
    which, number, turn = _each_once(group, rounds)
    # Of each round: the chunk of every episode, in the order in which they come.
    first = _played_before(which, number, lengths, num_rounds)
    counts = _played_before(which, number + 1, lengths, num_rounds) - first
    order = _orders(pools, which, number)
    ends = np.cumsum(np.take_along_axis(counts, order, axis=1), axis=1)
    within = places - first.sum(axis=1)[turn]
    chunk = _ended(ends, turn, within)
    episode = order[turn, chunk]
    played = first[turn, episode] + within - (ends[turn, chunk] - counts[turn, episode])
    begins = _rectangle([own[:-1] for own in bounds])[group, episode]
    phases = _phases(pools, lengths)[group, episode]
    offsets: IntArray = begins + (played + phases) % lengths[group, episode]
    return offsets


def _rectangle(rows: Sequence[IntArray]) -> IntArray:
    """Return rows of different lengths below each other, with zeros behind the shorter ones."""
    found = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for target, row in zip(found, rows, strict=True):
        target[: len(row)] = row
    return found


def _phases(pools: Sequence[Pool], lengths: IntArray) -> IntArray:
    """Return (pools, episodes): at which frame each episode starts."""
    spans = np.maximum(lengths, 1).astype(np.uint64)  # a lane's cut may leave nothing of an episode
    keys = [derive_key("phases", *pool.purpose) for pool in pools]
    return (random_integers_each(spans.shape[1], keys) % spans).astype(np.int64)


def _orders(pools: Sequence[Pool], which: IntArray, number: IntArray) -> IntArray:
    """Return (rounds, episodes): the order of the episodes in each round; places of no episode come
    last.

    Args:
        pools: all pools.
        which: (rounds,) the pool of each round.
        number: (rounds,) its number in that pool.
    """
    sizes = [len(pools[pool].episodes) - 1 for pool in which.tolist()]
    keys = [
        derive_key("round", *pools[pool].purpose, turn)
        for pool, turn in zip(which.tolist(), number.tolist(), strict=True)
    ]
    of_round = np.repeat(np.arange(len(sizes)), sizes)
    places = np.concatenate([np.arange(size, dtype=np.int64) for size in sizes])
    orders = np.tile(np.arange(max(sizes), dtype=np.int64), (len(sizes), 1))
    orders[of_round, places] = permute_each(places, of_round, sizes, keys)
    return orders


def _rounds_of(
    places: IntArray, group: IntArray, lengths: IntArray, num_rounds: IntArray
) -> IntArray:
    """Return the round that each place is in: the last one that begins at or before it, by
    bisection.

    Of T frames a round r of N begins at most r T / N frames after the first one, and less than one
    frame of each episode before that. So there are few rounds to choose from.

    Args:
        places: (n,) places in a pool's order.
        group: (n,) the pool of each.
        lengths: (pools, episodes) of the episodes of each pool.
        num_rounds: (pools,) of each pool.
    """
    rounds, frames = num_rounds[group], lengths.sum(axis=1)[group]
    low: IntArray = places * rounds // frames
    high = np.minimum(rounds, (places + lengths.shape[1]) * rounds // frames + 1)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        which, number, turn = _each_once(group, middle)
        begins = _played_before(which, number, lengths, num_rounds).sum(axis=1)
        later = places >= begins[turn]
        low, high = np.where(later, middle, low), np.where(later, high, middle)
    return low


def _each_once(group: IntArray, rounds: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return (rounds,) the pool and number of each round, each once, and (n,) which each place's
    is.

    Many places are of few rounds, and a round is as much work as its pool has episodes.
    """
    most = int(rounds.max()) + 1
    named, turn = np.unique(group * most + rounds, return_inverse=True)
    which, number = np.divmod(named, most)
    return which, number, turn


def _played_before(
    which: IntArray, number: IntArray, lengths: IntArray, num_rounds: IntArray
) -> IntArray:
    """Return (rounds, episodes): how many frames of each episode come before these rounds.

    Args:
        which: (rounds,) the pool of each round.
        number: (rounds,) its number in that pool.
        lengths: (pools, episodes) of the episodes of each pool.
        num_rounds: (pools,) of each pool.
    """
    return number[:, None] * lengths[which] // num_rounds[which, None]


def _ended(ends: IntArray, turn: IntArray, within: IntArray) -> IntArray:
    """Return how many chunks of its round have ended before each place.

    Args:
        ends: (rounds, episodes) where the chunks of each round end, ascending.
        turn: (n,) the round of each place.
        within: (n,) its place in the round.
    """
    span = int(ends[:, -1].max()) + 1  # rounds one after the other, none reaching into the next
    laid_out = (ends + span * np.arange(len(ends))[:, None]).ravel()
    ended: IntArray = laid_out.searchsorted(within + span * turn, side="right") - (
        turn * ends.shape[1]
    )
    return ended

"""The tape of an epoch, cut into lanes whose pools are mixed: which frames lie at which places of a
lane.

Places of many tapes and lanes are answered together: what costs is not their number but that of
calls.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roboshard.common.permute import derive_key, permute
from roboshard.loader.config import OrderConfig
from roboshard.loader.order.episodes import Episodes
from roboshard.loader.order.frame_order import Pool, sweep, uniform

IntArray = NDArray[np.int64]


class Frames(NamedTuple):
    """Frames of episodes, arrays of shape (n,)."""

    positions: IntArray
    """Positions of the episodes in the dataset's index."""
    rows: IntArray
    """Rows within the episodes."""
    turns: IntArray
    """Which of the episodes on its tape each is of: those of a pool are numbered in a row."""


class Tape:
    """Episodes in the order of an epoch, their frames laid end to end.

    Building it is O(episodes).
    """

    def __init__(self, episodes: Episodes, order: OrderConfig, epoch: int, pool_size: int) -> None:
        """Lay out epoch number `epoch` (from 0) for pools of `pool_size` episodes in each lane."""
        self._episodes = episodes = episodes.in_epoch(epoch)
        self.order = order
        self.epoch = epoch
        self.pool_size = pool_size
        self._tape = _episode_order(episodes, order, epoch)
        self.starts: IntArray = np.concatenate(
            [[0], np.cumsum(episodes.num_rows[self._tape])]
        ).astype(np.int64)
        """(episodes + 1,) where each episode begins on the tape, and the end of the last one."""

    @property
    def num_frames(self) -> int:
        """How many frames the epoch has."""
        return int(self.starts[-1])

    def frames(self, places: IntArray) -> "Frames":
        """Return the frames at places of the tape."""
        slot = self.slots(places)
        episode = self._tape.take(slot)
        rows = self._episodes.rows(episode, places - self.starts.take(slot))
        return Frames(self._episodes.position.take(episode), rows, slot)

    def slots(self, places: IntArray) -> IntArray:
        """Return which of the tape's episodes each place is in."""
        slots: IntArray = self.starts.searchsorted(places, side="right") - 1
        return slots


class LaneTape(NamedTuple):
    """A tape that is cut into lanes."""

    tape: Tape
    bounds: IntArray
    """(lanes + 1,) where each lane begins, and the end of the last one."""
    first: IntArray
    """(lanes + 1,) the episode that each lane begins in."""

    @classmethod
    def cut(cls, tape: Tape, bounds: IntArray) -> "LaneTape":
        """Cut a tape at these places."""
        return cls(tape, bounds, tape.slots(bounds))


class LanePlaces(NamedTuple):
    """Places of lanes of one tape, for which frames are asked."""

    lanes: LaneTape
    lane: IntArray
    """(n,) the lane of each place."""
    within: IntArray
    """(n,) the place in the lane's order: 0 is its first sample."""


def frames_at(asked: Sequence[LanePlaces]) -> Frames:
    """Return the frames that lanes of several tapes give at some places."""
    places = [own.lanes.bounds.take(own.lane) + own.within for own in asked]
    if asked[0].lanes.tape.order.shuffle:
        places = _mixed(asked, places)
    found = [own.lanes.tape.frames(part) for own, part in zip(asked, places, strict=True)]
    return found[0] if len(found) == 1 else Frames(*map(np.concatenate, zip(*found, strict=True)))


def _mixed(asked: Sequence[LanePlaces], places: Sequence[IntArray]) -> list[IntArray]:
    """Return places of tapes after each pool's own reordering; a pool is a stretch of the tape
    within a lane.
    """
    sizes = [len(part) for part in places]
    tape = np.repeat(np.arange(len(asked)), sizes)
    lane = np.concatenate([own.lane for own in asked])
    first = np.concatenate([own.lanes.first.take(own.lane) for own in asked])
    slot = np.concatenate(
        [own.lanes.tape.slots(part) for own, part in zip(asked, places, strict=True)]
    )
    pool_size = np.repeat([own.lanes.tape.pool_size for own in asked], sizes)
    pool = (slot - first) // pool_size
    group, one_of_each = _groups(tape, lane, pool)
    begin = (first + pool * pool_size)[one_of_each]
    pools = [
        _pool(asked[which].lanes, *place)
        for which, *place in zip(
            *(
                part.tolist()
                for part in (tape[one_of_each], lane[one_of_each], pool[one_of_each], begin)
            ),
            strict=True,
        )
    ]
    low = np.asarray([pool.start for pool in pools])[group]
    mix = uniform if asked[0].lanes.tape.order.frame_order == "uniform" else sweep
    mixed = low + mix(np.concatenate(places) - low, group, pools)
    ends = np.cumsum(sizes).tolist()
    return [mixed[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _groups(tape: IntArray, lane: IntArray, pool: IntArray) -> tuple[IntArray, IntArray]:
    """Return (n,) which pool of which lane of which tape each place is in, numbered anew; and a
    place of each.
    """
    named = (tape * (lane.max(initial=0) + 1) + lane) * (pool.max(initial=0) + 1) + pool
    if len(named) and (named == named[0]).all():  # as is mostly so for one dataset
        return np.zeros(len(named), dtype=np.int64), np.zeros(1, dtype=np.int64)
    _, one_of_each, group = np.unique(named, return_index=True, return_inverse=True)
    return group, one_of_each


def _pool(lanes: LaneTape, lane: int, pool: int, begin: int) -> Pool:
    """Return the pool of a lane that begins with this episode of its tape."""
    tape = lanes.tape
    start, stop = int(lanes.bounds[lane]), int(lanes.bounds[lane + 1])
    own = tape.starts[begin : begin + tape.pool_size + 1]
    return Pool(
        start=max(start, int(own[0])),
        stop=min(stop, int(own[-1])),
        episodes=own,
        purpose=(tape.order.seed, tape.epoch, lane, pool),
    )


def _episode_order(episodes: Episodes, order: OrderConfig, epoch: int) -> IntArray:
    """Return episodes in tape order, as positions in `episodes`."""
    everything = np.arange(len(episodes), dtype=np.int64)
    if not order.shuffle or len(episodes) == 0:
        return everything
    if order.episode_order == "global":
        return permute(everything, len(episodes), derive_key("episodes", order.seed, epoch))
    stored = np.lexsort((episodes.storage_rank, episodes.shard))
    shards, first, counts = np.unique(episodes.shard[stored], return_index=True, return_counts=True)
    key = derive_key("shards", order.seed, epoch)
    shuffled = permute(np.arange(len(shards), dtype=np.int64), len(shards), key)
    return np.concatenate([stored[first[i] : first[i] + counts[i]] for i in shuffled])

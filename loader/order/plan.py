"""The order of an epoch as arithmetic: which samples each step takes, for any step, at once.

    tape        episodes in a keyed random order, their frames laid end to end
    lanes       the tape cut into R pieces of equal length, one for each rank slot
    pools       in a lane, each run of P episodes: its frames are mixed (frame_order.py)
    steps       step t takes the next B/R samples of every lane
    leftover    what the lanes have left after their full steps, in lane order, makes one last step

Workers are no part of it: any number of them can share out the steps.

Nothing is simulated and nothing is stored but arrays over episodes. See docs/order.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from roboshard.common.permute import derive_key, permute
from roboshard.loader.config import OrderConfig
from roboshard.loader.order.episodes import Episodes
from roboshard.loader.order.frame_order import sweep, uniform

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The shape of the plan. It stays the same when the world size changes."""

    rank_slots: int
    """R."""
    global_batch_size: int
    """B, a multiple of R."""

    @property
    def per_rank_slot(self) -> int:
        """B/R: samples of one lane in a step."""
        return self.global_batch_size // self.rank_slots


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The samples of a step for some rank slots, in order."""

    step: int
    positions: IntArray
    """(n,) positions of their episodes in the dataset's index."""
    rows: IntArray
    """(n,) rows within those episodes."""


class Tape:
    """The tape of an epoch, and the order of any stretch of it. Building it is O(episodes)."""

    def __init__(self, episodes: Episodes, order: OrderConfig, epoch: int, pool_size: int) -> None:
        """Lay out epoch number `epoch` (from 0) for pools of `pool_size` episodes in each lane."""
        self._episodes = episodes = episodes.in_epoch(epoch)
        self._order = order
        self._epoch = epoch
        self._pool_size = pool_size
        self._tape = _episode_order(episodes, order, epoch)
        self._starts = np.concatenate([[0], np.cumsum(episodes.num_rows[self._tape])]).astype(
            np.int64
        )

    @property
    def num_frames(self) -> int:
        """Frames of the epoch."""
        return int(self._starts[-1])

    def samples(
        self, lane: int, bounds: tuple[int, int], within: IntArray
    ) -> tuple[IntArray, IntArray]:
        """(episode positions, rows) of the samples that a lane emits at places `within` (0 is its first).

        `bounds`: the lane's first tape position, and the one after its last.
        """
        start, stop = bounds
        tape = start + within
        if self._order.shuffle:
            tape = self._mix_pools(lane, start, stop, tape)
        slot = np.searchsorted(self._starts, tape, side="right") - 1
        episode = self._tape[slot]
        rows = self._episodes.rows(episode, tape - self._starts[slot])
        return self._episodes.position[episode], rows

    def _mix_pools(self, lane: int, start: int, stop: int, tape: IntArray) -> IntArray:
        """Tape positions after each pool's own reordering; a pool is a stretch of the tape."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        slot = np.searchsorted(self._starts, tape, side="right") - 1
        pools = (slot - first) // self._pool_size
        mixed = np.empty_like(tape)
        for pool in np.unique(pools).tolist():
            begin = first + pool * self._pool_size
            end = min(begin + self._pool_size, len(self._tape))
            low, high = max(start, int(self._starts[begin])), min(stop, int(self._starts[end]))
            inside = pools == pool
            places, purpose = tape[inside] - low, (self._order.seed, self._epoch, lane, pool)
            if self._order.frame_order == "uniform":
                mixed[inside] = low + uniform(places, high - low, *purpose)
            else:
                bounds = np.clip(self._starts[begin : end + 1], low, high) - low
                mixed[inside] = low + sweep(places, bounds, *purpose)
        return mixed


class EpochShape:
    """How many steps an epoch has, and what its last one holds: arithmetic on the number of its frames."""

    def __init__(self, num_frames: int, order: OrderConfig, slots: Slots) -> None:
        self.num_frames = num_frames
        """F: frames of the epoch, each drawn once for each time that its episode comes."""
        self._order = order
        self._slots = slots

    @property
    def num_full_steps(self) -> int:
        """S: steps for which every lane has samples."""
        return self.num_frames // self._slots.global_batch_size

    @property
    def num_left_over(self) -> int:
        """Frames that the lanes have left after the full steps; fewer than a step takes."""
        return self.num_frames - self.num_full_steps * self._slots.global_batch_size

    @property
    def num_steps(self) -> int:
        """Steps of the epoch, the same for every rank."""
        last = 1 if self.num_left_over and not self._order.drop_last else 0
        return self.num_full_steps + last

    @property
    def num_padded(self) -> int:
        """Samples of the last step that repeat others so that all ranks have as many; over all ranks."""
        return 0 if self._order.drop_last else -self.num_left_over % self._slots.rank_slots


class EpochPlan(EpochShape):
    """One epoch's order. Building it is O(episodes); asking for a step is O(log episodes) per sample."""

    def __init__(self, episodes: Episodes, order: OrderConfig, slots: Slots, epoch: int) -> None:
        """Lay out epoch number `epoch` (from 0)."""
        self._tape = Tape(episodes, order, epoch, order.pool_episodes)
        super().__init__(self._tape.num_frames, order, slots)

    def step(self, step: int, rank_slots: Sequence[int]) -> Draw:
        """The samples that these rank slots contribute to a step, slot by slot.

        Raises:
            IndexError: no such step.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} of an epoch of {self.num_steps}")
        if step < self.num_full_steps:
            size = self._slots.per_rank_slot
            within = np.arange(step * size, (step + 1) * size, dtype=np.int64)
            parts = [self.lane_samples(slot, within) for slot in rank_slots]
        else:
            parts = [self._left_over(self._leftover_places(slot)) for slot in rank_slots]
        return Draw(
            step=step,
            positions=np.concatenate([positions for positions, _ in parts]),
            rows=np.concatenate([rows for _, rows in parts]),
        )

    def lane_bounds(self, lane: int) -> tuple[int, int]:
        """First tape position of a lane, and the one after its last."""
        lanes = self._slots.rank_slots
        return lane * self.num_frames // lanes, (lane + 1) * self.num_frames // lanes

    def lane_samples(self, lane: int, within: IntArray) -> tuple[IntArray, IntArray]:
        """(episode positions, rows) of the samples that a lane emits at places `within` (0 is its first)."""
        return self._tape.samples(lane, self.lane_bounds(lane), within)

    def _leftover_places(self, rank_slot: int) -> IntArray:
        """Places in the leftover tape that a rank slot takes; the step may repeat its own samples."""
        size = -(-self.num_left_over // self._slots.rank_slots)
        first = rank_slot * size
        return np.arange(first, first + size, dtype=np.int64) % self.num_left_over

    def _left_over(self, places: IntArray) -> tuple[IntArray, IntArray]:
        per_lane = self.num_full_steps * self._slots.per_rank_slot
        lanes = np.searchsorted(self._leftover_starts, places, side="right") - 1
        positions, rows = np.empty_like(places), np.empty_like(places)
        for lane in np.unique(lanes).tolist():
            inside = lanes == lane
            within = per_lane + places[inside] - self._leftover_starts[lane]
            positions[inside], rows[inside] = self.lane_samples(lane, within)
        return positions, rows

    @cached_property
    def _leftover_starts(self) -> IntArray:
        """Where each lane's leftover begins in the leftover tape; one more entry than lanes."""
        slots = self._slots.rank_slots
        lanes = np.arange(slots + 1, dtype=np.int64)
        taken = lanes * self.num_full_steps * self._slots.per_rank_slot
        bounds = [lane * self.num_frames // slots for lane in range(slots + 1)]
        return np.asarray(bounds, dtype=np.int64) - taken


def _episode_order(episodes: Episodes, order: OrderConfig, epoch: int) -> IntArray:
    """Episodes in tape order, as positions in `episodes`."""
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

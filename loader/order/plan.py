"""The order of an epoch as arithmetic: which samples each step takes, for any step, at once.

    tape        episodes in a keyed random order, their frames laid end to end
    lanes       the tape cut into R pieces of equal length, one for each rank slot
    pools       in a lane, each run of P episodes: its frames are mixed (tape.py, frame_order.py)
    steps       step t takes the next B/R samples of every lane
    leftover    what the lanes have left after their full steps, in lane order, makes one last step

Workers are no part of it: any number of them can share out the steps.

Nothing is simulated and nothing is stored but arrays over episodes. See docs/order.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from roboshard.loader.config import OrderConfig
from roboshard.loader.order.episodes import Episodes
from roboshard.loader.order.tape import Frames, LanePlaces, LaneTape, Tape, frames_at

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The shape of the plan. It stays the same when the world size changes."""

    rank_slots: int
    """R: how many rank slots there are over all ranks, each with a lane of its own."""
    global_batch_size: int
    """B: samples of a step over all ranks, a multiple of R."""

    @property
    def per_rank_slot(self) -> int:
        """B/R: samples of one lane in a step."""
        return self.global_batch_size // self.rank_slots


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The samples of a step for some rank slots, in order."""

    step: int
    positions: IntArray
    """(n,) positions of the samples' episodes in the dataset's index."""
    rows: IntArray
    """(n,) rows of the samples within their episodes."""
    turns: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(n,) which of the episodes on its tape each sample is of, where a plan drew them."""
    share: "Share | None" = None
    """Which part of the step this is, where it is not all of it."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of a step that one worker makes of those that make it together."""

    epoch: int
    step: int
    places: IntArray
    """(k,) places of the worker's samples in the step."""
    size: int
    """n: samples of the step."""


def draw_of(step: int, frames: Frames) -> Draw:
    """Return a step that takes these frames."""
    return Draw(step=step, positions=frames.positions, rows=frames.rows, turns=frames.turns)


class EpochShape:
    """How many steps an epoch has, and what its last one holds: arithmetic on the number of its
    frames.
    """

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
        """Samples of the last step that repeat others so that all ranks have as many; over all
        ranks.
        """
        return 0 if self._order.drop_last else -self.num_left_over % self._slots.rank_slots


class EpochPlan(EpochShape):
    """The order of one epoch. Building it is O(episodes); asking for a step is O(log episodes) per
    sample.
    """

    def __init__(self, episodes: Episodes, order: OrderConfig, slots: Slots, epoch: int) -> None:
        """Lay out epoch number `epoch` (from 0)."""
        self.epoch = epoch
        self._tape = Tape(episodes, order, epoch, order.pool_episodes)
        super().__init__(self._tape.num_frames, order, slots)

    def step(self, step: int, rank_slots: Sequence[int]) -> Draw:
        """Return the samples that these rank slots contribute to a step, slot by slot.

        Raises:
            IndexError: no such step.
        """
        (draw,) = self.steps([step], rank_slots)
        return draw

    def steps(self, steps: Sequence[int], rank_slots: Sequence[int]) -> list[Draw]:
        """Return several steps, each as `step` gives it: what costs is not their number but that of
        calls.

        Raises:
            IndexError: no such step.
        """
        slots = np.asarray(rank_slots, dtype=np.int64)
        places = [self._places(step, slots) for step in steps]
        lanes, within = (np.concatenate(part) for part in zip(*places, strict=True))
        frames = self.lane_samples(lanes, within)
        ends = np.cumsum([len(own) for own, _ in places]).tolist()
        return [
            draw_of(step, Frames(*(part[begin:end] for part in frames)))
            for step, begin, end in zip(steps, [0, *ends], ends, strict=False)
        ]

    def _places(self, step: int, slots: IntArray) -> tuple[IntArray, IntArray]:
        """Return the lanes that a step takes samples of, and the places of these in their lanes."""
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} of an epoch of {self.num_steps}")
        if step >= self.num_full_steps:
            return self._left_over(slots)
        size = self._slots.per_rank_slot
        within = np.arange(step * size, (step + 1) * size, dtype=np.int64)
        return np.repeat(slots, size), np.tile(within, len(slots))

    def lane_bounds(self, lane: int) -> tuple[int, int]:
        """Return the first tape position of a lane, and the one after its last."""
        return int(self._lanes.bounds[lane]), int(self._lanes.bounds[lane + 1])

    def lane_samples(self, lane: int | IntArray, within: IntArray) -> Frames:
        """Return the samples that a lane emits at places `within` (0 is its first).

        `lane` may be an array with a lane for each place.
        """
        lanes = np.broadcast_to(np.asarray(lane, dtype=np.int64), within.shape)
        return frames_at([LanePlaces(self._lanes, lanes, within)])

    def _left_over(self, rank_slots: IntArray) -> tuple[IntArray, IntArray]:
        """Return the lanes, and places in them, of the leftover tape that rank slots take; they may
        repeat their own samples.
        """
        size = -(-self.num_left_over // self._slots.rank_slots)
        places = (rank_slots[:, None] * size + np.arange(size)).ravel() % self.num_left_over
        lanes = np.searchsorted(self._leftover_starts, places, side="right") - 1
        per_lane = self.num_full_steps * self._slots.per_rank_slot
        return lanes, per_lane + places - self._leftover_starts[lanes]

    @cached_property
    def _lanes(self) -> LaneTape:
        slots = self._slots.rank_slots
        bounds = [lane * self.num_frames // slots for lane in range(slots + 1)]
        return LaneTape.cut(self._tape, np.asarray(bounds, dtype=np.int64))

    @cached_property
    def _leftover_starts(self) -> IntArray:
        """Where each lane's leftover begins in the leftover tape; one more entry than lanes."""
        lanes = np.arange(self._slots.rank_slots + 1, dtype=np.int64)
        return self._lanes.bounds - lanes * self.num_full_steps * self._slots.per_rank_slot

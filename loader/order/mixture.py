"""The order of a mixture as arithmetic: which samples of which datasets each step takes, for any
step, at once.

    stream      endless, B places a step; schedule.py says which dataset each place takes
    samples     a dataset's places are numbered; number n is of its own epoch n div F, where F are
                its frames
                (own_epochs.py: where episodes have weights, its epochs differ in length)
    tape        each epoch of each dataset has a tape of its own (plan.py), with a seed of its own
    lanes       the tape is cut into R lanes, each as long as what the steps of that lane draw of
                the epoch

So each dataset's samples n F .. (n + 1) F - 1 are each of its frames once, in its own order, while
a rank reads only the episodes of its lanes. Nothing is simulated and nothing ends: all steps are
full, and a mixture's epoch is a number of them. See docs/order.md.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from roboshard.common.permute import derive_key
from roboshard.loader.config import OrderConfig
from roboshard.loader.order.episodes import Episodes
from roboshard.loader.order.own_epochs import OwnEpochs, epochs_of
from roboshard.loader.order.plan import Draw, Slots, draw_of
from roboshard.loader.order.schedule import LaneCounts, Schedule, WholeStepCounts, WholeSteps
from roboshard.loader.order.tape import Frames, LanePlaces, LaneTape, Tape, frames_at

IntArray = NDArray[np.int64]
KEPT_TAPES = 4
"""Tapes kept for each dataset: a step of a small one can reach into several of its epochs."""


class MixturePlan:
    """One epoch of a mixture, a stretch of its endless stream; `EpochPlan` is the same for one
    dataset.
    """

    num_padded = 0
    """Samples that repeat others to fill a step: none, since every step is full."""

    def __init__(
        self,
        episodes: Sequence[Episodes],
        order: OrderConfig,
        slots: Slots,
        schedule: Schedule,
        epoch: int,
    ) -> None:
        """Plan epoch number `epoch` (from 0) of datasets whose episodes have distinct positions."""
        self._episodes = episodes
        self._slots = slots
        self._parts = schedule.parts
        self.epoch = epoch
        self._orders = [_order_of(order, number) for number in range(len(episodes))]
        self._own = [OwnEpochs(those) for those in episodes]
        shape = {"rank_slots": slots.rank_slots, "per_rank_slot": slots.per_rank_slot}
        self._schedule: Schedule | WholeSteps = schedule
        self._counts: LaneCounts | WholeStepCounts
        if order.batches == "by_dataset":
            self._schedule = WholeSteps(schedule, slots.global_batch_size)
            self._counts = WholeStepCounts(schedule, **shape)
        else:
            self._counts = LaneCounts(schedule, **shape)
        self._pool_sizes = pool_sizes(order, schedule)
        self._tapes: dict[tuple[int, int], tuple[LaneTape, IntArray]] = {}

    @property
    def parts(self) -> tuple[int, ...]:
        """Places of each dataset in a period of the stream."""
        return self._parts

    @cached_property
    def num_steps(self) -> int:
        """Steps of an epoch: until every dataset has been through once, counted from the stream's
        beginning.

        Where episodes of a dataset have weights, once is an epoch of average length.
        """
        places = [
            self._schedule.place(number, own.average - 1) for number, own in enumerate(self._own)
        ]
        return max(places) // self._slots.global_batch_size + 1

    def drawn(self, epoch: int, step: int) -> list[tuple[int, int]]:
        """Return (own epoch, samples drawn of it) of each dataset before a step of any epoch."""
        place = np.asarray(
            (epoch * self.num_steps + step) * self._slots.global_batch_size, dtype=np.int64
        )
        numbers = [int(self._schedule.before(number, place)) for number in range(len(self._own))]
        return [own.place(number) for own, number in zip(self._own, numbers, strict=True)]

    def step(self, step: int, rank_slots: Sequence[int]) -> Draw:
        """Return the samples that these rank slots contribute to a step, slot by slot.

        Raises:
            IndexError: no such step.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} of an epoch of {self.num_steps}")
        size = self._slots.per_rank_slot
        number = self.epoch * self.num_steps + step
        first = number * self._slots.global_batch_size
        lanes = np.repeat(np.asarray(rank_slots, dtype=np.int64), size)
        begins = first + lanes * size
        places = begins + np.tile(np.arange(size, dtype=np.int64), len(rank_slots))
        datasets = self._schedule.dataset(places)
        numbers = self._schedule.before(datasets, places)
        within = self._counts.before_step(datasets, lanes, number)
        within += numbers - self._schedule.before(datasets, begins)
        epochs = epochs_of(self._own, datasets, numbers)
        return draw_of(step, self._samples(datasets, epochs, lanes, within))

    def steps(self, steps: Sequence[int], rank_slots: Sequence[int]) -> list[Draw]:
        """Return several steps, each as `step` gives it."""
        return [self.step(step, rank_slots) for step in steps]

    def _samples(
        self, datasets: IntArray, epochs: IntArray, lanes: IntArray, within: IntArray
    ) -> Frames:
        """Return samples by dataset, own epoch, lane, and how many the lane drew before."""
        by_tape = np.lexsort((epochs, datasets))
        datasets, epochs, lanes, within = (
            values[by_tape] for values in (datasets, epochs, lanes, within)
        )
        is_new = (np.diff(datasets) != 0) | (np.diff(epochs) != 0)
        begins = [0, *(np.flatnonzero(is_new) + 1).tolist()]
        asked = []
        for begin, end in zip(begins, [*begins[1:], len(by_tape)], strict=True):
            tape, begun = self._tape(int(datasets[begin]), int(epochs[begin]))
            lane = lanes[begin:end]
            asked.append(LanePlaces(tape, lane, within[begin:end] - begun.take(lane)))
        places = np.empty_like(by_tape)
        places[by_tape] = np.arange(len(by_tape))
        return Frames(*(part.take(places) for part in frames_at(asked)))

    def _tape(self, dataset: int, epoch: int) -> tuple[LaneTape, IntArray]:
        """Return a tape, and what its lanes had drawn of the dataset before it.

        Threads may ask at once, a user's for the loader's place: each has what it made.
        """
        found = self._tapes.get((dataset, epoch))
        if found is None:
            own = self._own[dataset]
            begun, ended = (
                self._counts.before(dataset, self._schedule.place(dataset, own.start(number)))
                for number in (epoch, epoch + 1)
            )
            tape = Tape(
                self._episodes[dataset], self._orders[dataset], epoch, self._pool_sizes[dataset]
            )
            for old in [key for key in list(self._tapes) if key[0] == dataset][: 1 - KEPT_TAPES]:
                self._tapes.pop(old, None)
            bounds = np.concatenate([[0], np.cumsum(ended - begun)])
            found = self._tapes[dataset, epoch] = LaneTape.cut(tape, bounds), begun
        return found


def pool_sizes(order: OrderConfig, schedule: Schedule) -> list[int]:
    """Return how many episodes of each dataset a lane mixes: its share of `pool_episodes`.

    All of them where a batch is of one dataset: nothing else is there to be mixed with.
    """
    if order.batches == "by_dataset":
        return [order.pool_episodes] * len(schedule.parts)
    return [max(1, order.pool_episodes * part // schedule.period) for part in schedule.parts]


def _order_of(order: OrderConfig, dataset: int) -> OrderConfig:
    """Return the order within a dataset: with a seed of its own, for datasets of equal size would
    move in step.
    """
    seed = int.from_bytes(derive_key("dataset", order.seed, dataset)[:8], "little") >> 1
    return replace(order, seed=seed)

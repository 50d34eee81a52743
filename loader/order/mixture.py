"""The order of a mixture as arithmetic: which samples of which datasets each step takes, for any step, at once.

    stream      endless, B places a step; schedule.py says which dataset each place takes
    samples     a dataset's places are numbered; number n is of its own epoch n div F, where F are its frames
                (own_epochs.py: where episodes have weights, its epochs differ in length)
    tape        each epoch of each dataset has a tape of its own (plan.py), with a seed of its own
    lanes       the tape is cut into R lanes, each as long as what the steps of that lane draw of the epoch

So each dataset's samples n F .. (n + 1) F - 1 are each of its frames once, in its own order, while a rank reads only
the episodes of its lanes. Nothing is simulated and nothing ends: all steps are full, and a mixture's epoch is a
number of them. See docs/order.md.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from roboshard.common.permute import derive_key
from roboshard.loader.config import OrderConfig
from roboshard.loader.order.episodes import Episodes
from roboshard.loader.order.own_epochs import OwnEpochs
from roboshard.loader.order.plan import Draw, Slots, Tape
from roboshard.loader.order.schedule import LaneCounts, Schedule

IntArray = NDArray[np.int64]
KEPT_TAPES = 4
"""Per dataset: a step of a small one can reach into several of its epochs."""


class MixturePlan:
    """One epoch of a mixture, a stretch of its endless stream; `EpochPlan` is the same for one dataset."""

    num_padded = 0
    """There is no incomplete step."""

    def __init__(
        self,
        episodes: Sequence[Episodes],
        order: OrderConfig,
        slots: Slots,
        schedule: Schedule,
        epoch: int,
    ) -> None:
        """Epoch number `epoch` (from 0) of datasets, the positions of whose episodes are distinct."""
        self._episodes = episodes
        self._slots = slots
        self._schedule = schedule
        self._epoch = epoch
        self._orders = [_order_of(order, number) for number in range(len(episodes))]
        self._own = [OwnEpochs(those) for those in episodes]
        self._counts = LaneCounts(
            schedule, rank_slots=slots.rank_slots, per_rank_slot=slots.per_rank_slot
        )
        self._pool_sizes = pool_sizes(order, schedule)
        self._tapes: dict[tuple[int, int], tuple[Tape, IntArray, IntArray]] = {}

    @property
    def parts(self) -> tuple[int, ...]:
        """Places of each dataset in a period of the stream."""
        return self._schedule.parts

    @cached_property
    def num_steps(self) -> int:
        """Steps of an epoch: until every dataset has been through once, counted from the stream's beginning.

        Where episodes of a dataset have weights, once is an epoch of average length.
        """
        places = [
            self._schedule.place(number, own.average - 1) for number, own in enumerate(self._own)
        ]
        return max(places) // self._slots.global_batch_size + 1

    def drawn(self, epoch: int, step: int) -> list[tuple[int, int]]:
        """(own epoch, samples drawn of it) of each dataset before a step of any epoch."""
        place = np.asarray(
            (epoch * self.num_steps + step) * self._slots.global_batch_size, dtype=np.int64
        )
        numbers = [int(self._schedule.before(number, place)) for number in range(len(self._own))]
        return [own.place(number) for own, number in zip(self._own, numbers, strict=True)]

    def step(self, step: int, rank_slots: Sequence[int]) -> Draw:
        """The samples that these rank slots contribute to a step, slot by slot.

        Raises:
            IndexError: no such step.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} of an epoch of {self.num_steps}")
        size = self._slots.per_rank_slot
        first = (self._epoch * self.num_steps + step) * self._slots.global_batch_size
        lanes = np.asarray(rank_slots, dtype=np.int64)
        places = first + lanes[:, None] * size + np.arange(size, dtype=np.int64)
        positions, rows = np.empty_like(places), np.empty_like(places)
        datasets = self._schedule.dataset(places)
        for dataset in np.unique(datasets).tolist():
            numbers = self._schedule.before(dataset, places)
            within = self._counts.before(dataset, first)[lanes, None] + numbers - numbers[:, :1]
            epochs = self._own[dataset].epochs(numbers)
            for epoch in np.unique(epochs[datasets == dataset]).tolist():
                tape, bounds, begun = self._tape(dataset, epoch)
                for slot, lane in enumerate(lanes.tolist()):
                    mine = (datasets[slot] == dataset) & (epochs[slot] == epoch)
                    positions[slot, mine], rows[slot, mine] = tape.samples(
                        lane,
                        (int(bounds[lane]), int(bounds[lane + 1])),
                        within[slot, mine] - begun[lane],
                    )
        return Draw(step=step, positions=positions.ravel(), rows=rows.ravel())

    def _tape(self, dataset: int, epoch: int) -> tuple[Tape, IntArray, IntArray]:
        """A tape, where its lanes begin (one more entry than lanes), and what lanes had drawn before it."""
        if (dataset, epoch) not in self._tapes:
            own = self._own[dataset]
            begun, ended = (
                self._counts.before(dataset, self._schedule.place(dataset, own.start(number)))
                for number in (epoch, epoch + 1)
            )
            tape = Tape(
                self._episodes[dataset], self._orders[dataset], epoch, self._pool_sizes[dataset]
            )
            for old in [key for key in self._tapes if key[0] == dataset][: 1 - KEPT_TAPES]:
                del self._tapes[old]
            self._tapes[dataset, epoch] = (
                tape,
                np.concatenate([[0], np.cumsum(ended - begun)]),
                begun,
            )
        return self._tapes[dataset, epoch]


def pool_sizes(order: OrderConfig, schedule: Schedule) -> list[int]:
    """Return how many episodes of each dataset a lane mixes: its share of `pool_episodes`."""
    return [max(1, order.pool_episodes * part // schedule.period) for part in schedule.parts]


def _order_of(order: OrderConfig, dataset: int) -> OrderConfig:
    """The order within a dataset: with a seed of its own, for datasets of equal size would move in step."""
    seed = int.from_bytes(derive_key("dataset", order.seed, dataset)[:8], "little") >> 1
    return replace(order, seed=seed)

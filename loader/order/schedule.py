"""Which dataset of a mixture each place of its endless stream takes: a pure function of the
weights.

Weights become whole shares w of a period of W places. Within a period the places are dealt out by
Tijdeman's rule ("The chairman assignment problem", Discrete Mathematics 32, 1980): sample x of a
dataset may come as soon as the dataset is owed 1/(2n-2) of a sample more than x, and of those that
may, the one that must come first is taken. So the first g places hold, for every g and each of n
datasets, w g / W samples give or take 1 - 1/(2n-2), which no rule can better: half a sample for two
datasets, always less than one. Periods are equal, so a table of one answers for any place at once.
"""

import heapq
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MAX_PERIOD = 1 << 14
"""Weights are rounded to parts of a period, of this many places at the most."""
EXACT = 1e-9
"""Weights within this of whole parts of a shorter period are meant to be those."""

IntArray = NDArray[np.int64]


def shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Return whole shares in the proportion of `weights`, their sum being the period: the shortest
    one that is exact.

    0.7 and 0.3 become 7 and 3. Where no period up to MAX_PERIOD is exact, that one is shared out by
    largest remainder; a share of 0 then says that a weight is too small.
    """
    proportions = np.asarray(weights, dtype=np.float64) / sum(weights)
    periods = np.arange(len(weights), MAX_PERIOD + 1, dtype=np.int64)
    ideal = periods[:, None] * proportions
    whole = np.rint(ideal).astype(np.int64)
    exact = (np.abs(ideal - whole).max(axis=1) <= EXACT * periods) & (whole.sum(axis=1) == periods)
    found = np.flatnonzero(exact & (whole.min(axis=1) > 0))
    if found.size:
        return tuple(whole[found[0]].tolist())
    floor = np.floor(ideal[-1]).astype(np.int64)
    largest = np.argsort(floor - ideal[-1], kind="stable")[: MAX_PERIOD - int(floor.sum())]
    floor[largest] += 1
    return tuple(floor.tolist())


class Schedule:
    """The dataset of each place, and how many places each dataset has before any other."""

    def __init__(self, parts: Sequence[int]) -> None:
        """Deal out one period: `parts` are whole shares, each at least 1."""
        self.parts = tuple(parts)
        self._pattern = _deal(self.parts)
        taken = self._pattern == np.arange(len(parts))[:, None]
        self._before = np.concatenate(
            [np.zeros((len(parts), 1)), np.cumsum(taken, axis=1)], axis=1
        ).astype(np.int64)
        self._places = [np.flatnonzero(row) for row in taken]
        self._shares = np.asarray(self.parts, dtype=np.int64)

    @property
    def period(self) -> int:
        """W: places of a period."""
        return len(self._pattern)

    def dataset(self, places: IntArray) -> IntArray:
        """Return which dataset each place takes."""
        found: IntArray = self._pattern[places % self.period]
        return found

    def before(self, dataset: int | IntArray, places: IntArray) -> IntArray:
        """Return how many places before each of `places` take `dataset`, which may be an array."""
        periods, rest = np.divmod(places, self.period)
        count: IntArray = periods * self._shares[dataset] + self._before[dataset, rest]
        return count

    def place(self, dataset: int, number: int) -> int:
        """Return the place of a dataset's sample `number` (from 0)."""
        periods, rest = divmod(number, self.parts[dataset])
        return periods * self.period + int(self._places[dataset][rest])


class LaneCounts:
    """How many samples of each dataset every lane has drawn before any place of the stream, at
    once.

    Steps are B places each, and rank slot r takes the places r B/R .. (r+1) B/R - 1 of them, for
    its lane. From step to step the place within the period moves on by B; the residues that it goes
    through are a cycle, and sums along the cycles are all that is stored.
    """

    def __init__(self, schedule: Schedule, *, rank_slots: int, per_rank_slot: int) -> None:
        """Prepare for R rank slots and B/R samples of each of them in a step."""
        self._schedule = schedule
        self._size = per_rank_slot
        self._batch = rank_slots * per_rank_slot
        self._lanes = np.arange(rank_slots, dtype=np.int64)

    def before(self, dataset: int, place: int) -> IntArray:
        """Return how many samples of `dataset` each lane draws at places before `place`: (R,)."""
        step, offset = divmod(place, self._batch)
        first_places = self._lanes * self._size
        first = step * self._batch + first_places
        begun = np.clip(offset - first_places, 0, self._size)
        partial = self._between(dataset, first, first + begun)
        return self.before_step(np.full_like(first, dataset), self._lanes, step) + partial

    def before_step(self, datasets: IntArray, lanes: IntArray, step: int) -> IntArray:
        """Return how many samples of its dataset each lane draws in the steps before one: pairs
        (n,) of both.
        """
        start = lanes * self._size % self._schedule.period
        cycle, turn = start % len(self._cycles), self._turn[start]
        length = self._cycles.shape[1]
        rounds, rest = np.divmod(turn + step, length)
        sums = self._sums
        count: IntArray = (
            rounds * sums[datasets, cycle, length]
            + sums[datasets, cycle, rest]
            - sums[datasets, cycle, turn]
        )
        return count

    def _between(self, dataset: int, first: IntArray, last: IntArray) -> IntArray:
        return self._schedule.before(dataset, last) - self._schedule.before(dataset, first)

    @cached_property
    def _cycles(self) -> IntArray:
        """(cycles, length) residues in the order in which lanes go through them."""
        period = self._schedule.period
        num_cycles = int(np.gcd(self._batch, period))
        turns = np.arange(period // num_cycles, dtype=np.int64)
        moved = turns * (self._batch % period)
        return (np.arange(num_cycles, dtype=np.int64)[:, None] + moved) % period

    @cached_property
    def _turn(self) -> IntArray:
        """(W,) where in its cycle a residue is."""
        turn = np.empty(self._schedule.period, dtype=np.int64)
        turn[self._cycles] = np.arange(self._cycles.shape[1])
        return turn

    @cached_property
    def _sums(self) -> IntArray:
        """(datasets, cycles, length + 1): samples in the steps of a cycle before each."""
        steps = [
            self._between(number, self._cycles, self._cycles + self._size)
            for number in range(len(self._schedule.parts))
        ]
        return np.pad(np.cumsum(np.stack(steps), axis=2), ((0, 0), (0, 0), (1, 0)))


class WholeSteps:
    """A schedule of steps: all places of a step take one dataset. It is asked as a `Schedule` of
    places is.
    """

    def __init__(self, schedule: Schedule, batch: int) -> None:
        """Give each place of `schedule` to a step of `batch` places."""
        self._schedule = schedule
        self._batch = batch

    def dataset(self, places: IntArray) -> IntArray:
        """Return which dataset each place takes."""
        return self._schedule.dataset(places // self._batch)

    def before(self, dataset: int | IntArray, places: IntArray) -> IntArray:
        """Return how many of the places before each of `places` take its dataset."""
        steps, offsets = np.divmod(places, self._batch)
        is_own = self._schedule.dataset(steps) == dataset
        count: IntArray = self._schedule.before(dataset, steps) * self._batch + is_own * offsets
        return count

    def place(self, dataset: int, number: int) -> int:
        """Return the place of a dataset's sample `number` (from 0)."""
        step, offset = divmod(number, self._batch)
        return self._schedule.place(dataset, step) * self._batch + offset


class WholeStepCounts:
    """`LaneCounts` of `WholeSteps`: every lane draws B/R samples in each step of a dataset."""

    def __init__(self, schedule: Schedule, *, rank_slots: int, per_rank_slot: int) -> None:
        """Prepare for R rank slots and B/R samples of each of them in a step; `schedule` is of
        steps.
        """
        self._schedule = schedule
        self._size = per_rank_slot
        self._batch = rank_slots * per_rank_slot
        self._first_places = np.arange(rank_slots, dtype=np.int64) * per_rank_slot

    def before(self, dataset: int, place: int) -> IntArray:
        """Return how many samples of `dataset` each lane draws at places before `place`: (R,)."""
        step, offset = divmod(place, self._batch)
        is_own = int(self._schedule.dataset(np.asarray(step))) == dataset
        partial = np.clip(offset - self._first_places, 0, self._size) * is_own
        whole: IntArray = self._schedule.before(dataset, np.asarray(step)) * self._size
        return whole + partial

    def before_step(self, datasets: IntArray, lanes: IntArray, step: int) -> IntArray:
        """Return how many samples of its dataset each lane draws in the steps before one: pairs
        (n,) of both.
        """
        del lanes  # all draw alike
        count: IntArray = self._schedule.before(datasets, np.asarray(step)) * self._size
        return count


def _deal(parts: Sequence[int]) -> IntArray:
    """Return the dataset of each place of a period: whose sample must come first, of those that may
    come.
    """
    period, many = sum(parts), 2 * len(parts) - 2
    if many == 0:
        return np.zeros(period, dtype=np.int64)

    def release(number: int, drawn: int) -> int:
        """Return the first place at which a sample may come: (g + 1) w - W x >= W / (2n - 2)."""
        return -(-period * (many * drawn + 1) // (many * parts[number])) - 1

    def deadline(number: int, drawn: int) -> int:
        """Return the last place at which a sample may come."""
        return period * (many * (drawn + 1) - 1) // (many * parts[number])

    drawn = [0] * len(parts)
    later = [(release(number, 0), number) for number in range(len(parts))]
    heapq.heapify(later)
    ready: list[tuple[int, int]] = []
    pattern = np.empty(period, dtype=np.int64)
    for place in range(period):
        while later and later[0][0] <= place:
            _, number = heapq.heappop(later)
            heapq.heappush(ready, (deadline(number, drawn[number]), number))
        _, number = heapq.heappop(ready)
        pattern[place] = number
        drawn[number] += 1
        heapq.heappush(later, (release(number, drawn[number]), number))
    return pattern

"""The order of a mixture is a pure function with promises, held here over many weights and
topologies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roboshard.loader.config import OrderConfig
from roboshard.loader.order.mixture import MixturePlan
from roboshard.loader.order.plan import Draw, Episodes, Slots
from roboshard.loader.order.schedule import (
    MAX_PERIOD,
    LaneCounts,
    Schedule,
    WholeStepCounts,
    WholeSteps,
    shares,
)

Frame = tuple[int, int]  # position of the episode, row

SHARED = settings(deadline=None)
PARTS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def episodes_of(lengths: Sequence[int], first: int) -> Episodes:
    num = len(lengths)
    return Episodes(
        position=first + np.arange(num, dtype=np.int64) * 2,
        first_row=np.ones(num, dtype=np.int64),
        num_rows=np.asarray(lengths, dtype=np.int64),
        storage_rank=np.arange(num, dtype=np.int64)[::-1],
        shard=np.arange(num, dtype=np.int64) // 3,
    )


def frames_of(draw: Draw) -> list[Frame]:
    return list(zip(draw.positions.tolist(), draw.rows.tolist(), strict=True))


class Mix:
    """All that the order of a mixture depends on."""

    def __init__(
        self,
        lengths: Sequence[Sequence[int]],
        parts: Sequence[int],
        slots: Slots,
        order: OrderConfig,
    ):
        self.episodes = [episodes_of(own, 1000 * number) for number, own in enumerate(lengths)]
        self.schedule, self.slots, self.order = Schedule(parts), slots, order

    def datasets(self, places: int) -> list[int]:
        """Which dataset each of the first places takes."""
        numbers = np.arange(places)
        if self.order.batches == "by_dataset":
            numbers //= self.slots.global_batch_size
        return self.schedule.dataset(numbers).tolist()

    def plan(self, epoch: int) -> MixturePlan:
        return MixturePlan(self.episodes, self.order, self.slots, self.schedule, epoch)

    def stream(self, epochs: int) -> list[Frame]:
        plans = [self.plan(epoch) for epoch in range(epochs)]
        every_slot = range(self.slots.rank_slots)
        return [
            frame
            for plan in plans
            for step in range(plan.num_steps)
            for frame in frames_of(plan.step(step, every_slot))
        ]


@st.composite
def mixes(draw: st.DrawFn, *, shuffle: bool | None = None) -> Mix:
    lengths = draw(
        st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=8), min_size=1, max_size=4)
    )
    parts = draw(st.lists(st.integers(1, 12), min_size=len(lengths), max_size=len(lengths)))
    ranks = draw(st.sampled_from([1, 2, 3, 4]))
    shuffle = draw(st.booleans()) if shuffle is None else shuffle
    slots = Slots(
        rank_slots=ranks,
        global_batch_size=ranks * draw(st.integers(1, 6)),
    )
    order = OrderConfig(
        shuffle=shuffle,
        seed=draw(st.integers(0, 2**63 - 1)),
        pool_episodes=draw(st.integers(1, 20)),
        episode_order=draw(st.sampled_from(["global", "shard"])),
        frame_order=draw(st.sampled_from(["uniform", "sweep"])),
        batches=draw(st.sampled_from(["mixed", "by_dataset"])),
    )
    return Mix(lengths, parts, slots, order)


# -- Proportions -----------------------------------------------------------------------------------


@SHARED
@given(PARTS)
def test_every_prefix_and_every_window_holds_its_share(parts: list[int]) -> None:
    schedule, num = Schedule(parts), len(parts)
    places = np.arange(2 * schedule.period + 1)
    for dataset, part in enumerate(parts):
        count = schedule.before(dataset, places)
        assert set(np.diff(count).tolist()) <= {0, 1}
        owed = np.abs(count * schedule.period - part * places)
        assert owed.max() <= (schedule.period * (1 - Fraction(1, 2 * num - 2)) if num > 1 else 0)
        once = schedule.period // part
        in_window = count[once:] - count[:-once]
        assert 0 <= in_window.min() <= in_window.max() <= 2
        if num == 2:
            for length in range(1, schedule.period):
                in_window = count[length:] - count[:-length]
                assert np.abs(in_window * schedule.period - part * length).max() <= schedule.period


@SHARED
@given(PARTS, st.integers(0, 10**12))
def test_any_place_is_answered_at_once(parts: list[int], start: int) -> None:
    schedule = Schedule(parts)
    places = start + np.arange(2 * schedule.period)
    datasets = schedule.dataset(places)
    for dataset in range(len(parts)):
        mine = places[datasets == dataset]
        numbers = schedule.before(dataset, mine)
        assert numbers.tolist() == list(range(int(numbers[0]), int(numbers[0]) + len(mine)))
        assert [schedule.place(dataset, number) for number in numbers.tolist()] == mine.tolist()


@SHARED
@given(PARTS, st.integers(1, 6), st.integers(1, 9), st.integers(0, 500))
def test_lanes_count_what_their_steps_draw(
    parts: list[int], ranks: int, size: int, place: int
) -> None:
    schedule = Schedule(parts)
    counts = LaneCounts(schedule, rank_slots=ranks, per_rank_slot=size)
    lane = np.arange(place) % (ranks * size) // size
    datasets = schedule.dataset(np.arange(place))
    for dataset in range(len(parts)):
        expected = np.bincount(lane[datasets == dataset], minlength=ranks)
        assert counts.before(dataset, place).tolist() == expected.tolist()


@SHARED
@given(PARTS, st.integers(1, 6), st.integers(1, 9), st.integers(0, 500))
def test_steps_of_one_dataset_are_counted_as_their_places_are(
    parts: list[int], ranks: int, size: int, place: int
) -> None:
    batch = ranks * size
    steps, counts = (
        WholeSteps(Schedule(parts), batch),
        WholeStepCounts(Schedule(parts), rank_slots=ranks, per_rank_slot=size),
    )
    places = np.arange(place)
    datasets = steps.dataset(places)
    assert all(len(set(step.tolist())) <= 1 for step in np.split(datasets, places[::batch][1:]))
    for dataset in range(len(parts)):
        mine = places[datasets == dataset]
        assert steps.before(dataset, mine).tolist() == list(range(len(mine)))
        assert [steps.place(dataset, number) for number in range(len(mine))] == mine.tolist()
        drawn = np.bincount(mine % batch // size, minlength=ranks)
        assert counts.before(dataset, place).tolist() == drawn.tolist()
        lanes, step = np.arange(ranks), place // batch
        before = counts.before_step(np.full(ranks, dataset), lanes, step)
        assert before.tolist() == counts.before(dataset, step * batch).tolist()


@SHARED
@given(mixes())
def test_a_batch_by_dataset_is_of_one_on_all_ranks(mix: Mix) -> None:
    mix.order = replace(mix.order, batches="by_dataset")
    plan = mix.plan(1)
    owners = []
    for step in range(plan.num_steps):
        draw = plan.step(step, range(mix.slots.rank_slots))
        (owner,) = set((draw.positions // 1000).tolist())
        owners.append(owner)
    first = plan.num_steps
    assert owners == mix.schedule.dataset(np.arange(first, first + plan.num_steps)).tolist()


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ([0.7, 0.3], (7, 3)),
        ([7, 3], (7, 3)),
        ([1 / 3, 2 / 3], (1, 2)),
        ([5], (1,)),
        ([0.123, 0.456, 0.421], (123, 456, 421)),
        ([2, 2, 2], (1, 1, 1)),
    ],
)
def test_weights_become_the_shortest_exact_parts(
    weights: list[float], parts: tuple[int, ...]
) -> None:
    assert shares(weights) == parts


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_other_weights_are_rounded_to_parts_of_the_longest_period(weights: list[float]) -> None:
    parts = shares(weights)
    assert sum(parts) <= MAX_PERIOD
    for weight, part in zip(weights, parts, strict=True):
        assert abs(weight / sum(weights) - part / sum(parts)) < 1 / MAX_PERIOD


# -- Samples ---------------------------------------------------------------------------------------


@SHARED
@given(mixes())
def test_each_dataset_is_exactly_once_in_each_of_its_own_epochs(mix: Mix) -> None:
    stream = mix.stream(3)
    datasets = mix.datasets(len(stream))
    for number, episodes in enumerate(mix.episodes):
        mine = [frame for frame, dataset in zip(stream, datasets, strict=True) if dataset == number]
        frames = [
            (int(position), 1 + row)
            for position, rows in zip(episodes.position, episodes.num_rows, strict=True)
            for row in range(int(rows))
        ]
        own = [mine[start : start + len(frames)] for start in range(0, len(mine), len(frames))]
        assert len(own[0]) == len(frames)
        assert all(sorted(epoch) == frames for epoch in own[:-1])
        assert len(set(own[-1])) == len(own[-1])
        assert set(own[-1]) <= set(frames)
        done = mix.plan(3).drawn(3, 0)[number]
        assert done[0] * len(frames) + done[1] == len(mine)


@SHARED
@given(mixes(), st.integers(0, 5))
def test_rank_slots_share_a_step_and_it_is_the_same_whenever_asked_for(
    mix: Mix, epoch: int
) -> None:
    plan, slots = mix.plan(epoch), range(mix.slots.rank_slots)
    for step in list(range(plan.num_steps))[:: max(1, plan.num_steps // 5)]:
        whole = frames_of(mix.plan(epoch).step(step, slots))
        assert len(whole) == mix.slots.global_batch_size
        assert (
            list(chain(*(frames_of(mix.plan(epoch).step(step, [slot])) for slot in slots))) == whole
        )
        assert frames_of(plan.step(step, slots)) == whole
    with pytest.raises(IndexError, match=str(plan.num_steps)):
        plan.step(plan.num_steps, slots)


@given(mixes(shuffle=False))
def test_without_shuffling_one_rank_sees_each_dataset_in_order(mix: Mix) -> None:
    mix.slots = replace(mix.slots, rank_slots=1)
    stream = mix.stream(1)
    for number, episodes in enumerate(mix.episodes):
        mine = [frame for frame in stream if 1000 * number <= frame[0] < 1000 * (number + 1)]
        first = mine[: int(episodes.num_rows.sum())]
        assert first == sorted(first)


def test_orders_never_change() -> None:
    slots = Slots(rank_slots=2, global_batch_size=4)
    mix = Mix([(3, 1, 4), (2, 2)], (7, 3), slots, OrderConfig(seed=7, pool_episodes=4))
    assert mix.stream(1) == PINNED


def test_orders_of_batches_by_dataset_never_change() -> None:
    slots = Slots(rank_slots=2, global_batch_size=4)
    order = OrderConfig(seed=7, pool_episodes=4, batches="by_dataset")
    mix = Mix([(3, 1, 4), (2, 2)], (7, 3), slots, order)
    assert mix.stream(1) == PINNED_BY_DATASET


PINNED_BY_DATASET: list[Frame] = [
    (4, 4),
    (4, 1),
    (0, 3),
    (2, 1),
    (1000, 2),
    (1000, 1),
    (1002, 2),
    (1002, 1),
    (4, 3),
    (4, 2),
    (0, 2),
    (0, 1),
]


PINNED: list[Frame] = [
    (4, 1),
    (1000, 2),
    (0, 2),
    (0, 3),
    (4, 3),
    (1000, 1),
    (0, 1),
    (4, 4),
    (1002, 1),
    (4, 2),
    (2, 1),
    (1002, 2),
]

"""Weights and kept ranges in the order: each frame as often as is said, in any epoch and
topology.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roboshard.loader.config import OrderConfig
from roboshard.loader.order.episodes import Episodes, KeptRanges
from roboshard.loader.order.mixture import MixturePlan
from roboshard.loader.order.own_epochs import OwnEpochs
from roboshard.loader.order.plan import EpochPlan, EpochShape, Slots
from roboshard.loader.order.repeats import MAX_DENOMINATOR, fractions, make_repeats
from roboshard.loader.order.schedule import Schedule

Frame = tuple[int, int]  # position of the episode, row
SHARED = settings(deadline=None)
WEIGHTS = st.fractions(min_value=Fraction(1, 12), max_value=4, max_denominator=12)


def episodes_of(
    rows: Sequence[Sequence[int]], weights: Sequence[Fraction] | None, seed: int, first: int = 0
) -> Episodes:
    """Episodes that use these rows, in ranges."""
    counts = np.asarray([len(own) for own in rows], dtype=np.int64)
    flat = np.asarray([*chain(*rows)], dtype=np.int64)
    num = len(rows)
    return Episodes(
        position=first + np.arange(num, dtype=np.int64),
        first_row=np.asarray([own[0] for own in rows], dtype=np.int64),
        num_rows=counts,
        storage_rank=np.arange(num, dtype=np.int64)[::-1].copy(),
        shard=np.arange(num, dtype=np.int64) // 3,
        kept=KeptRanges(  # a range for each row: any others are the same rows
            first_row=flat,
            start=np.arange(len(flat), dtype=np.int64),
            episode_start=np.cumsum(counts) - counts,
        ),
        repeats=None
        if weights is None
        else make_repeats(np.asarray([float(weight) for weight in weights]), seed),
    )


def frames_of(rows: Sequence[Sequence[int]], first: int = 0) -> list[Frame]:
    return [(first + number, row) for number, own in enumerate(rows) for row in own]


ROWS = st.lists(
    st.lists(st.integers(0, 40), min_size=1, max_size=9, unique=True).map(sorted),
    min_size=1,
    max_size=8,
)


@st.composite
def orders(draw: st.DrawFn) -> tuple[OrderConfig, Slots]:
    ranks = draw(st.sampled_from([1, 2, 3, 4]))
    return (
        OrderConfig(
            shuffle=draw(st.booleans()),
            seed=draw(st.integers(0, 2**63 - 1)),
            pool_episodes=draw(st.integers(1, 6)),
            episode_order=draw(st.sampled_from(["global", "shard"])),
            frame_order=draw(st.sampled_from(["uniform", "sweep"])),
        ),
        Slots(rank_slots=ranks, global_batch_size=ranks * draw(st.integers(1, 6))),
    )


# -- How often -------------------------------------------------------------------------------------


@SHARED
@given(st.lists(WEIGHTS, min_size=1, max_size=12), st.integers(0, 2**63 - 1), st.integers(0, 10**9))
def test_an_episode_comes_as_often_as_its_weight_says_in_any_run_of_epochs(
    weights: list[Fraction], seed: int, epoch: int
) -> None:
    repeats = make_repeats(np.asarray([float(weight) for weight in weights]), seed)
    if repeats is None:
        assert set(weights) == {Fraction(1)}
        return
    for length in (1, 2, 3, 7, 12):
        came = sum(repeats.in_epoch(epoch + number) for number in range(length))
        assert came.tolist() == (repeats.before(epoch + length) - repeats.before(epoch)).tolist()
        for count, weight in zip(came.tolist(), weights, strict=True):
            assert abs(count - weight * length) < 1
            assert count == weight * length or length % weight.denominator


@SHARED
@given(WEIGHTS, st.integers(1, 200), st.integers(0, 99), st.integers(0, 10**6))
def test_epochs_of_equal_weights_have_equal_numbers_of_episodes(
    weight: Fraction, count: int, seed: int, epoch: int
) -> None:
    repeats = make_repeats(np.full(count, float(weight)), seed)
    if repeats is not None:
        assert abs(int(repeats.in_epoch(epoch).sum()) - weight * count) < 1
        assert int(repeats.in_epoch(0).sum()) == -(-weight * count // 1)


def test_other_seeds_draw_other_episodes_first() -> None:
    first = {tuple(make_repeats(np.full(20, 0.5), seed).in_epoch(0)) for seed in range(9)}  # type: ignore[union-attr]
    assert len(first) > 5


@pytest.mark.parametrize(
    ("weight", "fraction"),
    [
        (0.1, (1, 10)),
        (1 / 3, (1, 3)),
        (0.7, (7, 10)),
        (2.0, (2, 1)),
        (0.0, (0, 1)),
        (1.25, (5, 4)),
        (0.333333, (1, 3)),
        (1e-6, (0, 1)),
        (1 / MAX_DENOMINATOR, (1, MAX_DENOMINATOR)),
    ],
)
def test_weights_are_fractions(weight: float, fraction: tuple[int, int]) -> None:
    numerator, denominator = fractions(np.asarray([weight]))
    assert (int(numerator[0]), int(denominator[0])) == fraction


@SHARED
@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_any_weight_is_as_near_to_its_fraction_as_is_said(weights: list[float]) -> None:
    numerator, denominator = fractions(np.asarray(weights))
    assert denominator.max() <= MAX_DENOMINATOR
    assert np.abs(numerator / denominator - weights).max() < 1 / MAX_DENOMINATOR


def test_when_weighted_episodes_come_never_changes() -> None:
    """Pinned: a state resumes on what was there when it was saved."""
    repeats = make_repeats(np.asarray([0.5, 0.5, 2.0, 0.25, 1.5, 1.0, 0.1]), 7)
    assert repeats is not None
    assert [repeats.in_epoch(epoch).tolist() for epoch in range(4)] == PINNED


PINNED = [
    [1, 0, 2, 1, 1, 1, 0],
    [0, 1, 2, 0, 2, 1, 0],
    [1, 0, 2, 0, 1, 1, 0],
    [0, 1, 2, 0, 2, 1, 0],
]


# -- Every frame of the selection ------------------------------------------------------------------


@SHARED
@given(ROWS, st.data(), orders(), st.integers(0, 50))
def test_every_kept_frame_as_often_as_its_episode_comes(
    rows: list[list[int]],
    data: st.DataObject,
    order_and_slots: tuple[OrderConfig, Slots],
    epoch: int,
) -> None:
    order, slots = order_and_slots
    weights = data.draw(st.lists(WEIGHTS, min_size=len(rows), max_size=len(rows)))
    episodes = episodes_of(rows, weights, order.seed)
    plan = EpochPlan(episodes, order, slots, epoch)
    shape = EpochShape(episodes.num_frames(epoch), order, slots)
    assert (shape.num_steps, shape.num_padded) == (plan.num_steps, plan.num_padded)
    every_slot = range(slots.rank_slots)
    drawn = [
        (int(position), int(row))
        for step in range(plan.num_steps)
        for draw in [plan.step(step, every_slot)]
        for position, row in zip(draw.positions, draw.rows, strict=True)
    ]
    times = (
        np.ones(len(rows), dtype=int)
        if episodes.repeats is None
        else episodes.repeats.in_epoch(epoch)
    )
    expected = Counter({(e, row): int(times[e]) for e, row in frames_of(rows) if times[e]})
    counted = Counter(drawn)
    assert counted.total() - expected.total() == plan.num_padded
    assert set(counted) == set(expected)
    assert all(counted[frame] >= expected[frame] for frame in expected)
    for slot in every_slot:  # each rank slot draws what it draws, whoever else is asked
        draws = [plan.step(step, [slot]) for step in range(plan.num_steps)]
        assert sum(len(draw.rows) for draw in draws) * slots.rank_slots == len(drawn)


@SHARED
@given(ROWS, orders())
def test_ranges_without_gaps_are_in_the_order_of_whole_episodes(
    rows: list[list[int]], order_and_slots: tuple[OrderConfig, Slots]
) -> None:
    order, slots = order_and_slots
    stretches = [list(range(own[0], own[0] + len(own))) for own in rows]
    kept = episodes_of(stretches, None, order.seed)
    for epoch in range(2):
        a = EpochPlan(kept, order, slots, epoch)
        b = EpochPlan(replace(kept, kept=None), order, slots, epoch)
        for step in range(a.num_steps):
            draws = [plan.step(step, range(slots.rank_slots)) for plan in (a, b)]
            assert draws[0].rows.tolist() == draws[1].rows.tolist()
            assert draws[0].positions.tolist() == draws[1].positions.tolist()


# -- In mixtures -----------------------------------------------------------------------------------


@SHARED
@given(st.lists(ROWS, min_size=1, max_size=3), st.data(), orders())
def test_each_dataset_of_a_mixture_goes_through_epochs_of_its_own(
    datasets: list[list[list[int]]], data: st.DataObject, order_and_slots: tuple[OrderConfig, Slots]
) -> None:
    order, slots = order_and_slots
    episodes = [
        episodes_of(
            rows,
            data.draw(st.lists(WEIGHTS, min_size=len(rows), max_size=len(rows))),
            order.seed,
            1000 * number,
        )
        for number, rows in enumerate(datasets)
    ]
    parts = data.draw(
        st.lists(st.integers(1, 5), min_size=len(rows_of := datasets), max_size=len(rows_of))
    )
    schedule = Schedule(parts)
    every_slot = range(slots.rank_slots)
    streams: list[list[Frame]] = [[] for _ in datasets]
    total = 0
    for epoch in range(3):
        plan = MixturePlan(episodes, order, slots, schedule, epoch)
        for step in range(plan.num_steps):
            drawn = plan.drawn(epoch, step)
            for number, own in enumerate(episodes):
                started, samples = drawn[number]
                assert own.frames_before(started) + samples == len(streams[number])
                assert 0 <= samples < max(1, own.num_frames(started))
            draw = plan.step(step, every_slot)
            total += len(draw.rows)
            for position, row in zip(draw.positions.tolist(), draw.rows.tolist(), strict=True):
                streams[position // 1000].append((position % 1000, row))
    assert total == sum(map(len, streams))
    for rows, own, stream in zip(datasets, episodes, streams, strict=True):
        start = epoch = 0
        # A step of several lanes takes from two epochs at their border: whole epochs are compared
        # as sums.
        while start + own.num_frames(epoch) <= len(stream) and epoch < 60:
            start, epoch = start + own.num_frames(epoch), epoch + 1
        times = np.full(len(rows), epoch) if own.repeats is None else own.repeats.before(epoch)
        expected = Counter({(e, row): int(times[e]) for e, row in frames_of(rows)})
        came = Counter(stream)
        later = (
            np.full(len(rows), epoch + 1) if own.repeats is None else own.repeats.before(epoch + 1)
        )
        for frame, count in expected.items():
            assert count <= came[frame] <= int(later[frame[0]]) or epoch == 60


@SHARED
@given(ROWS, st.data(), st.integers(0, 10**7))
def test_the_epoch_of_any_sample_is_found_at_once(
    rows: list[list[int]], data: st.DataObject, number: int
) -> None:
    weights = data.draw(st.lists(WEIGHTS, min_size=len(rows), max_size=len(rows)))
    episodes = episodes_of(rows, weights, 0)
    own = OwnEpochs(episodes)
    epoch, within = own.place(number)
    assert own.start(epoch) + within == number
    assert 0 <= within < episodes.num_frames(epoch)
    numbers = number + np.arange(0, 50, 7)
    assert own.epochs(numbers).tolist() == [own.place(each)[0] for each in numbers.tolist()]


# -- A million episodes ----------------------------------------------------------------------------


def test_a_million_weighted_episodes_are_planned_from_arrays() -> None:
    num = 1_000_000
    lengths = np.full(num, 10**6, dtype=np.int64)
    episodes = Episodes(
        position=np.arange(num),
        first_row=np.zeros(num, dtype=np.int64),
        num_rows=lengths,
        storage_rank=np.arange(num),
        shard=np.arange(num) // 100,
        repeats=make_repeats(np.resize([0.5, 1.0, 2.0, 0.1], num), 0),
    )
    plan = EpochPlan(episodes, OrderConfig(), Slots(rank_slots=8, global_batch_size=512), 10**6)
    draw = plan.step(plan.num_steps // 2, range(8))
    assert len(draw.rows) == 512
    assert abs(plan.num_frames - num * 0.9 * 10**6) < 10**7

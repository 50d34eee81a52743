"""How far ahead of the steps at hand the coming ones are drawn."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.loader.episodes.fetch import (
    DRAWS_AT_ONCE,
    LOOKS_EVERY,
    MAX_DRAWS,
    DrawnStep,
    fetch_episodes,
)
from roboshard.loader.order.plan import Draw
from roboshard.loader.stats import StatsCounter


class Drawn:
    """Draws that count how many of them were taken."""

    def __init__(self, number: int) -> None:
        self.taken = 0
        self._number = number

    def __iter__(self) -> Iterator[Draw]:
        for step in range(self._number):
            self.taken += 1
            nothing = np.zeros(0, dtype=np.int64)
            yield Draw(step=step, positions=nothing, rows=nothing)


class Pool:
    """A pool in which the episodes of these steps are not in memory yet."""

    def __init__(self, new: frozenset[int]) -> None:
        self._new = new
        self.expected: set[int] = set()

    def expect(self, draws: Sequence[Draw]) -> bool:
        self.expected |= {draw.step for draw in draws}
        return any(draw.step in self._new for draw in draws)

    def step(self, draw: Draw) -> DrawnStep:
        assert draw.step in self.expected, "nothing was begun to be read for it"
        return DrawnStep(episodes=(), episode_of=draw.rows, rows=draw.rows, draw=draw)


class Reads:
    """Reads that have room as long as this says so."""

    def __init__(self, has_room: Iterator[bool]) -> None:
        self._has_room = has_room

    @property
    def has_room(self) -> bool:
        return next(self._has_room)


def fetched(drawn: Drawn, pool: Pool, rooms: Sequence[bool] = (True,)) -> Iterator[DrawnStep]:
    reads = Reads(itertools.cycle(rooms))
    return fetch_episodes(drawn, cast(Any, pool), cast(Any, reads), StatsCounter())


@given(
    st.integers(0, 200),
    st.frozensets(st.integers(0, 199)),
    st.lists(st.booleans(), min_size=1, max_size=5),
)
def test_every_step_comes_once_and_in_order(
    number: int, new: frozenset[int], rooms: list[bool]
) -> None:
    steps = [step.draw for step in fetched(Drawn(number), Pool(new), rooms)]
    assert [draw.step for draw in steps if draw is not None] == list(range(number))


@pytest.mark.parametrize("used", [1, 10, 100, 1000])
def test_where_all_is_in_memory_two_steps_are_drawn_for_each_used(used: int) -> None:
    drawn = Drawn(100_000)
    coming = fetched(drawn, Pool(frozenset()))
    for _ in range(used):
        next(coming)
    assert abs(drawn.taken - used * DRAWS_AT_ONCE // LOOKS_EVERY) <= DRAWS_AT_ONCE


def test_what_is_new_is_looked_for_at_every_step_as_far_ahead_as_there_is_room() -> None:
    drawn = Drawn(100_000)
    coming = fetched(drawn, Pool(frozenset(range(100_000))))
    for _ in range(20):
        next(coming)
    assert drawn.taken == 20 * DRAWS_AT_ONCE
    for _ in range(MAX_DRAWS):
        next(coming)
    assert drawn.taken - MAX_DRAWS - 20 <= MAX_DRAWS + DRAWS_AT_ONCE

"""Datasets of a mixture are opened at once."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from roboshard.loader.mixtures.opening import AT_ONCE, carried_out


def test_results_come_in_order_of_tasks_that_run_at_once() -> None:
    together = threading.Barrier(AT_ONCE)

    def task(number: int) -> int:
        if number < AT_ONCE:  # none of them ends before all of them run
            together.wait(timeout=60)
        return number

    tasks = [partial(task, number) for number in range(3 * AT_ONCE)]
    assert list(carried_out(tasks)) == list(range(3 * AT_ONCE))
    assert list(carried_out([])) == []


def test_an_error_is_raised_in_its_turn_and_ends_the_rest() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def task(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise KeyError(number)
        if number > 1:
            failed.wait(timeout=60)
        return number

    results = carried_out([partial(task, number) for number in range(5 * AT_ONCE)])
    assert next(results) == 0
    with pytest.raises(KeyError):
        next(results)
    failed.set()
    for thread in threading.enumerate():
        if thread.name == "roboshard-open":
            thread.join(timeout=60)
    assert len(begun) < 5 * AT_ONCE

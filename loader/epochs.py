"""Which epochs and steps a process loads: arithmetic on plans, ranks and workers."""

from collections.abc import Callable, Iterator

from roboshard.loader import topology
from roboshard.loader.job import Plan

EpochPart = tuple[Plan, int]
"""An epoch, and the first step of it that is loaded."""


def epochs_from(
    plan_of: Callable[[int], Plan], epoch: int, first_step: int, goes_on: bool
) -> Iterator[EpochPart]:
    """An epoch from a step on, and if it `goes_on` those after it, as long as this process has a step in them."""
    yield plan_of(epoch), first_step
    while goes_on:
        epoch += 1
        if not num_own_steps(plan_of(epoch), 0):
            return
        yield plan_of(epoch), 0


def num_own_steps(plan: Plan, first_step: int) -> int:
    """How many steps of an epoch, from `first_step` on, `split_by_worker` leaves to this process."""
    turn, num_workers = own_turn(plan, first_step)
    slots, first_slot = plan.num_worker_slots, plan.worker_slot(first_step)
    return sum(
        len(range(first_step + (slot - first_slot) % slots, plan.num_steps, slots))
        for slot in range(turn, slots, num_workers)
    )


def own_turn(plan: Plan, first_step: int) -> tuple[int, int]:
    """(turn, number of workers): this process serves the worker slots that are equal to `turn` modulo the number.

    torch's DataLoader asks worker 0 first, then 1, 2, …: the first step's worker slot decides who is 0.
    """
    worker, num_workers = topology.worker()
    return (plan.worker_slot(first_step) + worker) % num_workers, num_workers

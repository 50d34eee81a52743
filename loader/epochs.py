"""Which epochs and steps a process loads: arithmetic on plans, ranks and workers."""

from collections.abc import Callable, Iterator

from roboshard.loader.job import Plan
from roboshard.loader.order.teams import Team

EpochPart = tuple[Plan, int]
"""An epoch, and the first step of it that is loaded."""


def epochs_from(
    plan_of: Callable[[int], Plan], epoch: int, first_step: int, goes_on: bool, team: Team
) -> Iterator[EpochPart]:
    """Yield an epoch from a step on, and if it `goes_on` those after it, as long as this process
    has a step in them.
    """
    yield plan_of(epoch), first_step
    while goes_on:
        epoch += 1
        if not num_own_steps(plan_of(epoch), 0, team):
            return
        yield plan_of(epoch), 0


def num_own_steps(plan: Plan, first_step: int, team: Team) -> int:
    """Return how many steps of an epoch, from `first_step` on, `split_by_worker` leaves to a
    worker's team.
    """
    return len(range(first_step + team.number, plan.num_steps, team.number_of_teams))

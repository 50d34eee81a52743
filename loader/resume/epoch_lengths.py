"""How many steps epochs have, which differ where episodes have weights, and where in them a count
of steps leads.
"""

from collections.abc import Callable
from functools import lru_cache

from roboshard.common.errors import OptionError
from roboshard.common.option_values import whole_number
from roboshard.loader.job import LoadJob, Plan
from roboshard.loader.order.plan import EpochShape
from roboshard.loader.order.repeats import MAX_DENOMINATOR


class EpochLengths:
    """Steps of the epochs of a loader: arithmetic, without their orders."""

    def __init__(self, job: LoadJob, first: Plan) -> None:
        """Take the plan of the first epoch, as which all are where there are no weights."""
        self._job = job
        self._first = first
        self._shape: Callable[[int], EpochShape] = lru_cache(maxsize=4)(job.shape)

    def __reduce__(self) -> tuple[type["EpochLengths"], tuple[LoadJob, Plan]]:
        """A copy remembers no epochs."""
        return EpochLengths, (self._job, self._first)

    def of(self, epoch: int) -> EpochShape | Plan:
        """Return `num_steps` and `num_padded` of an epoch."""
        return self._first if self._job.has_even_epochs else self._shape(epoch)

    def steps(self, epoch: int) -> int:
        """Return how many steps an epoch has."""
        return self.of(epoch).num_steps

    def num_samples(self, epoch: int, step: int) -> int:
        """Return how many samples a step has on each rank."""
        shape, split = self.of(epoch), self._job.config.split
        if isinstance(shape, EpochShape) and step >= shape.num_full_steps:
            of_slot = -(-shape.num_left_over // split.max_world_size)
            return of_slot * (split.max_world_size // split.world_size)
        return split.batch_size or 1

    def place_after(self, steps: int) -> tuple[int, int]:
        """Return the epoch, and the steps of it, after so many steps over all epochs.

        Raises:
            OptionError: No epoch ever has a step.
        """
        if self._job.has_even_epochs:
            return divmod(steps, max(1, self.steps(0)))
        epoch, left, empty = 0, steps, 0
        while left and left >= (length := self.steps(epoch)):
            epoch, left, empty = epoch + 1, left - length, 0 if length else empty + 1
            if empty > MAX_DENOMINATOR:  # each episode has come at least once
                raise OptionError(f"step {steps} is never reached: epochs have less than a step")
        return epoch, left

    def next_step(self, epoch: int, step: int) -> tuple[int, int] | None:
        """Return where the step after so many steps of an epoch is; None: no epoch ever has one."""
        tries = 1 if self._job.has_even_epochs else MAX_DENOMINATOR
        for _ in range(tries + 1):
            if step < self.steps(epoch):
                return epoch, step
            epoch, step = epoch + 1, 0
        return None


def checked_step(step: int, global_batch_size: int, *, world_size: int, batch_size: int) -> int:
    """Return a step that a trainer counted, over all epochs.

    Args:
        step: of the trainer.
        global_batch_size: samples of a step of this loader, over all ranks.
        world_size: of the run that made the steps.
        batch_size: per rank, of that run.

    Raises:
        OptionError: What is no number of steps, or steps of another size.
    """
    step = whole_number("step", step)
    world_size = whole_number("world_size", world_size)
    batch_size = whole_number("batch_size", batch_size)
    if world_size * batch_size != global_batch_size:
        raise OptionError(
            f"step {step} was counted with world_size x batch_size = {world_size} x {batch_size} = "
            f"{world_size * batch_size} samples a step; this loader has {global_batch_size}: make "
            "it with the same"
        )
    if step < 0:
        raise OptionError(f"step must not be negative: {step}")
    return step

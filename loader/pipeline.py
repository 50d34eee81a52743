"""The whole chain from plan to batch, stage by stage: the file to read first.

    plan              which steps there are                              order/
    split by node     which rank slots of a step are this rank's         here
    split by worker   which steps are this worker's team's               order/teams.py
    draw              which rows of which episodes a step takes          order/
    fetch             those episodes, read ahead, verified, in memory    episodes/fetch.py
    windows           rows and delta windows of the step's samples       samples/rows.py
    decode            pictures of this and coming steps, by threads      look_ahead/decode_ahead.py
                      which decoder serves a slice                       decoding/decode.py
    batch             as it is, or its samples one by one                batches/single_samples.py
    transforms        the user's, where the batch is handed out          transforms/apply.py

Each stage takes an iterator and gives one. WebDataset's DataPipeline joins them: the first four for
each epoch anew, the others once, so that the first batches of an epoch are decoded beside the last
ones of the one before.
"""

import itertools
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from roboshard.common.errors import RoboshardError
from roboshard.loader.batches.single_samples import single_samples
from roboshard.loader.config import LoaderConfig
from roboshard.loader.episodes.fetch import fetch_episodes
from roboshard.loader.epochs import EpochPart
from roboshard.loader.job import LoadJob, Plan
from roboshard.loader.look_ahead.decode_ahead import Again, decode_video
from roboshard.loader.order.plan import Draw
from roboshard.loader.order.teams import ALONE, Team
from roboshard.loader.resources import Resources, return_freed_memory
from roboshard.loader.samples.rows import Batch, WindowedStep, delta_windows
from roboshard.loader.stages import Stages

DRAWN_STEPS = 64
"""Steps that are drawn in one go, at the most."""
DRAWN_SAMPLES = 65_536
"""Samples of the steps that are drawn in one go, at the most."""


@dataclass(frozen=True)
class NodeStep:
    """A step and the rank slots of it that this rank serves."""

    step: int
    rank_slots: range


def load(job: LoadJob, epochs: Iterable[EpochPart], own: Resources) -> Generator[Batch, None, None]:
    """Yield the batches of this process in order, epoch after epoch. Close `own` at the end."""
    pictures, counter = job.pictures, own.counter
    most_bytes = own.pool.max_bytes
    are_single = job.config.split.batch_size is None and not job.has_transforms
    stages = (
        Stages(lambda: draw_epochs(epochs, job.config, own.team))
        .then(lambda draws: fetch_episodes(draws, own.pool, own.reads, counter))
        .then(lambda steps: delta_windows(steps, job.offsets, pictures, counter))
        .then(lambda steps: decode_video(steps, own.threads, counter, most_bytes, _again(job, own)))
        .then(single_samples if are_single else iter)
    )
    try:
        yield from stages.run()
    finally:  # here too: after an error in a later stage, its traceback keeps the others suspended
        own.close()
        counter.set(steps_ahead=0, resident_bytes=0)


def _again(job: LoadJob, own: Resources) -> Again | None:
    """Return what makes a step again without episodes that cannot be decoded; None: users want to
    be told of them.
    """

    def again(draw: Draw, spoiled: Collection[Any], error: RoboshardError) -> WindowedStep:
        positions = {episode.position for episode in spoiled}
        own.pool.tell(positions, error)
        drawn = own.pool.step(draw, positions)
        (windowed,) = delta_windows([drawn], job.offsets, job.pictures, own.counter)
        return windowed

    return again if own.pool.substitutes else None


def draw_epochs(epochs: Iterable[EpochPart], config: LoaderConfig, team: Team) -> Iterator[Draw]:
    """Yield what each step of this process takes, of one epoch after the other."""
    for plan, first_step in epochs:
        yield from draw_epoch(plan, first_step, config, team).run()
        return_freed_memory()


def draw_epoch(
    plan: Plan, first_step: int, config: LoaderConfig, team: Team = ALONE
) -> Stages[Draw]:
    """Return the stages from an epoch's plan to what each step of this process takes."""
    return (
        Stages(lambda: plan_steps(plan, first_step))
        .then(lambda steps: split_by_node(steps, config))
        .then(lambda steps: split_by_worker(steps, team))
        .then(lambda steps: draw_samples(steps, plan, team))
    )


def plan_steps(plan: Plan, first_step: int) -> Iterator[int]:
    """Yield the numbers of an epoch's steps from `first_step` on."""
    yield from range(first_step, plan.num_steps)


def split_by_node(steps: Iterable[int], config: LoaderConfig) -> Iterator[NodeStep]:
    """Yield every step with this rank's slots of it: each rank has an equal, contiguous share of
    them.
    """
    split = config.split
    share = split.max_world_size // split.world_size
    slots = range(split.rank * share, (split.rank + 1) * share)
    for step in steps:
        yield NodeStep(step, slots)


def split_by_worker(steps: Iterable[NodeStep], team: Team) -> Iterator[NodeStep]:
    """Yield the steps of a worker's team: the teams take turns, the first one first, as torch's
    DataLoader asks them.
    """
    yield from itertools.islice(steps, team.number, None, team.number_of_teams)


def draw_samples(steps: Iterable[NodeStep], plan: Plan, team: Team) -> Iterator[Draw]:
    """Yield which rows of which episodes a member of the team takes of each step.

    Steps are drawn several in one go: one at first, then twice as many each time, but no more than
    have `DRAWN_SAMPLES` samples.
    """
    remaining, at_once, most = iter(steps), 1, DRAWN_STEPS
    while several := list(itertools.islice(remaining, min(at_once, most))):
        draws = plan.steps([step.step for step in several], several[0].rank_slots)
        at_once = 2 * len(several)
        most = min(DRAWN_STEPS, DRAWN_SAMPLES // max(1, len(draws[0].rows))) or 1
        yield from team.parts(draws, plan.epoch)

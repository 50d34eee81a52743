"""What `make_loader` returns: an iterable of batches that knows its length, its place and its
dataset.
"""

import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from roboshard.common.caller import warn_caller
from roboshard.common.errors import OptionError
from roboshard.common.option_values import whole_number
from roboshard.loader import topology
from roboshard.loader.job import LoadJob
from roboshard.loader.long_gops import LongGopWarning
from roboshard.loader.meta import DatasetMeta
from roboshard.loader.pipeline import draw_epoch
from roboshard.loader.resume.current import current_state
from roboshard.loader.resume.cursor import LaneCursor, lane_cursors
from roboshard.loader.resume.epoch_lengths import EpochLengths, checked_step
from roboshard.loader.resume.growth import Recipe
from roboshard.loader.resume.state import LoaderState, as_state, check_state, nearest_state
from roboshard.loader.running.runner import EpochRunner
from roboshard.loader.running.scratch import ScratchFolder
from roboshard.loader.running.shared_frames import SharedFrames
from roboshard.loader.samples.rows import Batch
from roboshard.loader.selection.digest import selection_digest
from roboshard.loader.statistics.measure import MeasuredStatistics, Metas
from roboshard.loader.stats import LoaderStats


class Loader:
    """Iterates over one epoch at a time.

    An iteration that reaches its end moves the loader on to the next epoch.
    """

    def __init__(
        self,
        job: LoadJob,
        scratch: ScratchFolder | None = None,
        frames: SharedFrames | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """Plan the first epoch; nothing is read, and no process started, before iteration.

        `scratch` is what the job's datasets are read through, and is removed with the loader; so
        are the `frames` that it keeps in memory, when no other process uses them. With a `recipe`
        it loads states that were saved before its datasets grew.
        """
        self._job = job
        self._recipe = recipe
        self._runner = EpochRunner(job)
        # In this order, also where nobody calls `close`: what reads through a folder ends before it
        # goes. At the end of the program each of the three ends by itself. Copies have none: they
        # own none.
        self._release_all = weakref.finalize(self, _release_all, self._runner, [scratch, frames])
        self._release_all.atexit = False
        self._measured = MeasuredStatistics(job)
        self._plan = self._runner.plan(0)
        self._lengths = EpochLengths(job, self._plan)
        self._epoch = 0
        self._received = 0  # steps of the epoch that the user has
        self._resume_at = 0  # where the next iteration begins
        self._loaded_end: int | None = None  # the epoch that a loaded state was at the end of
        self._iterations = 0  # begun so far
        self._running: int | None = None  # which of them is running
        self._long_gops = LongGopWarning(job.config.order, job.num_teams)

    def __getstate__(self) -> dict[str, Any]:
        """Leave folders to this loader: a copy does not remove them, nor is it made anew."""
        return vars(self) | {"_release_all": None, "_recipe": None}

    @cached_property
    def meta(self) -> DatasetMeta:
        """Features, stats of what is loaded, fps, tasks, camera keys; see also `MixtureMeta`."""
        return replace(self._job.meta, _statistics=self._measured.of(self._measured.everything))

    @cached_property
    def metas(self) -> Metas:
        """Features and statistics of each dataset as loaded, by `dataset_index` and by robot."""
        return Metas.of(self._job.metas, self._job.meta.features, self._measured)

    @property
    def batch_size(self) -> int | None:
        """Samples per rank and step; None: single samples."""
        return self._job.config.split.batch_size

    @property
    def epoch(self) -> int:
        """The epoch that is being loaded, or comes next."""
        return self._epoch

    @property
    def num_padded(self) -> int:
        """Samples of this epoch's last step, over all ranks, that repeat others to fill it."""
        return self._lengths.of(self._epoch).num_padded

    @property
    def num_episodes(self) -> int:
        """How many episodes were chosen; in a mixture, of all its datasets."""
        return sum(len(source.episodes) for source in self._job.sources)

    @property
    def episodes(self) -> list[int]:
        """Indices of the chosen episodes, ascending; of a mixture, dataset by dataset."""
        index = [source.dataset.index.episode_index for source in self._job.sources]
        return [
            int(number)
            for own, source in zip(index, self._job.sources, strict=True)
            for number in own[source.episodes.position - source.first]
        ]

    def stats(self) -> LoaderStats:
        """Return what the loader has done so far; workers' numbers come with their batches.

        `(later - earlier).as_dict()` has plain numbers of the time between two of them, for W&B or
        TensorBoard.
        """
        return self._runner.stats()

    def trace(self, path: str | os.PathLike[str], *, steps: int = 20, skip: int = 0) -> None:
        """Record what every thread and worker does during the coming steps, for ui.perfetto.dev.

        The file is written when the step after the last one is asked for, and at the end of each
        iteration before that. Several ranks write a file each: trace.rank0.json, …

        Args:
            path: a JSON file in Chrome's trace format; one that is there is replaced.
            steps: how many.
            skip: steps before those.

        Raises:
            OptionError: no such number of steps, or no such folder.
        """
        self._runner.steps.trace(Path(path), num_steps=steps, skip=skip)

    def __len__(self) -> int:
        """Steps of this epoch on every rank; others have as many, unless weights are fractions."""
        return self._lengths.steps(self._epoch)

    def __getitem__(self, _: object) -> NoReturn:
        """Refuse to be the dataset of torch's DataLoader, which asks for samples by number."""
        raise TypeError(
            "a loader is iterated over: `for batch in loader`, without a DataLoader around it; it "
            "has batches and workers of its own (batch_size=, num_workers=). Samples by number are "
            "what open_dataset gives"
        )

    def set_epoch(self, epoch: int) -> None:
        """Iterate over this epoch (from 0) next. A loaded state of the same epoch keeps its step.

        An iteration over another epoch that is still running is ended.
        """
        epoch = whole_number("epoch", epoch)
        if epoch < 0:
            raise OptionError(f"epoch must not be negative: {epoch}")
        if self._received == len(self):  # all steps were given, and it is asked for no more
            self._end(self._running)
        # A trainer that counts epochs itself: of this one nothing is left.
        if epoch == self._loaded_end:
            self._epoch = epoch
            self._received = self._resume_at = len(self)
        elif epoch != self._epoch:
            self._epoch, self._received, self._resume_at = epoch, 0, 0
            self._running = None
        self._loaded_end = None

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands, in steps the user has received; equal on all ranks."""
        return self._state(self._epoch, self._received).as_dict()

    def state_at(self, step: int, *, world_size: int, batch_size: int) -> dict[str, Any]:
        """Return the state after `step` steps, for checkpoints with nothing but a trainer's step.

        Args:
            step: steps that the trainer has made since its start, over all epochs.
            world_size: of the run that made them.
            batch_size: per rank, of the run that made them.

        Raises:
            OptionError: that run's global batches were of another size, so that its steps mean
                other samples.
        """
        ours = self._job.slots.global_batch_size
        step = checked_step(step, ours, world_size=world_size, batch_size=batch_size)
        return self._state(*self._lengths.place_after(step)).as_dict()

    def cursor(self) -> list[LaneCursor]:
        """Return, for each lane of this rank, the next sample: its shard, episode and frame."""
        place = self._lengths.next_step(self._epoch, self._received)
        if place is None:
            return []
        epoch, step = place
        split = self._job.config.split
        share = split.max_world_size // split.world_size
        slots = range(split.rank * share, (split.rank + 1) * share)
        return lane_cursors(self._runner.plan(epoch), step, slots, self._job.sources)

    def load_state_dict(self, state: dict[str, Any], *, strict: bool = True) -> None:
        """Begin the next iteration after the step where the state was taken. Used once.

        After the last step of an epoch that is the first step of the next. A dataset that has grown
        since is loaded as it was when the state was saved, unless `snapshot=` says otherwise.

        Args:
            state: What `state_dict` returned, here or elsewhere.
            strict: False: go on near the place of a state of the same data whose order or batches
                are others, and warn of what is repeated or left out.

        Raises:
            OptionError: no state, or one of another dataset, order, or shape of the plan, each
                difference named; or an iteration is running, which would go on from where it is.
        """
        if self._running is not None:
            raise OptionError(
                "load_state_dict during an iteration comes too late: load before `iter(loader)`"
            )
        state = as_state(state)
        recipe, saved_on = self._recipe, state.get("fingerprint")
        made = None if recipe is None else recipe.for_state(saved_on, self._job.sources)
        if made is None:
            given = self._given(state, strict)
        else:
            given = Loader(made[0])._given(state, strict)  # or an error, and this one is as it was
            self._release_all()
            steps = self._runner.steps
            vars(self).clear()  # what was found out of the other snapshot too
            Loader.__init__(self, *made, recipe)
            self._runner.steps.take_over(steps)
        self._epoch, self._received, self._resume_at = given.epoch, given.step, given.step
        self._loaded_end = None
        if given.step and given.step == self._lengths.steps(given.epoch):
            self._loaded_end = given.epoch
            self._epoch, self._received, self._resume_at = given.epoch + 1, 0, 0

    def _given(self, state: dict[str, Any], strict: bool) -> LoaderState:
        given = self._checked(state) if strict else self._checked_or_nearest(state)
        if given != self._state(given.epoch, given.step):  # what a mixture had drawn
            raise OptionError(
                "the state is not whole: its `drawn` is not what its epoch and step say"
            )
        return given

    def _checked(self, state: dict[str, Any]) -> LoaderState:
        return check_state(state, self._state(0, 0), self._lengths.steps)

    def _checked_or_nearest(self, state: dict[str, Any]) -> LoaderState:
        try:
            return self._checked(state)
        except OptionError:
            nearest, told = nearest_state(state, self._state(0, 0), self._lengths.steps)
        warn_caller(told)
        return self._state(nearest.epoch, nearest.step)

    def close(self) -> None:
        """Stop threads, worker processes and a running iteration; a later one starts them again.

        Once epochs follow each other the next one is begun ahead, and would wait in memory to be
        iterated over.
        """
        self._runner.close()
        self._running = None

    def __iter__(self) -> Iterator[Batch]:
        """Yield the epoch, or what a loaded state leaves of it: dicts of tensors, a batch each.

        A new iteration ends one that is still running.
        """
        if topology.in_worker():
            raise OptionError(
                "this loader is iterated in a worker of another DataLoader, where its state would "
                "be lost: iterate over it directly; it has workers of its own (num_workers=)"
            )
        self._runner = self._runner.here()
        self._end(self._running)
        self._received, self._resume_at, self._loaded_end = self._resume_at, 0, None
        self._iterations += 1
        iteration = self._running = self._iterations
        try:
            yield from self._received_by_user(iteration)
        finally:
            self._end(iteration)

    def draws(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield what each step takes, instead of its batch: (episode indices, rows in them), of
        shape (n,) both.

        Nothing is read. Begins where an iteration would, and moves the loader on to the next epoch
        at the end. Of one dataset, not of a mixture.
        """
        epoch, first_step = self._epoch, self._resume_at
        self._received, self._resume_at, self._loaded_end = first_step, 0, None
        plan = self._runner.plan(epoch)
        for draw in draw_epoch(plan, first_step, self._job.config).run():
            yield self._job.dataset.index.episode_index[draw.positions], draw.rows
        if self._epoch == epoch:
            self._epoch, self._received = epoch + 1, 0

    def _end(self, iteration: int | None) -> None:
        """Leave an iteration if it is running; one that gave all its steps has ended its epoch.

        Trainers that count steps by `len` (Lightning) let go of it there, and ask for no more.
        """
        if iteration is not None and self._running == iteration:
            self._running = None
            self._runner.steps.end()
            if self._received == len(self):
                self._epoch, self._received = self._epoch + 1, 0

    def _received_by_user(self, iteration: int) -> Iterator[Batch]:
        steps, batches = self._runner.steps, self._runner.batches(self._epoch, self._received)
        steps.end()  # those of an iteration that this one replaces
        while True:
            steps.ask()
            batch = next(batches, None)
            if batch is None:
                return
            num_samples = self._lengths.num_samples(self._epoch, self._received)
            steps.give(self._epoch, self._received, num_samples)
            self._received += 1
            self._long_gops.judge(self._runner.counter)
            given, batch = [batch], None
            # when the user lets go of it, its memory is free: nothing here may hold it
            yield given.pop()
            if self._running != iteration:
                raise OptionError(
                    "this iteration is over: another one has begun since, or set_epoch or close "
                    "was called; a loader serves one iteration at a time"
                )

    def _state(self, epoch: int, step: int) -> LoaderState:
        return current_state(self._job, self._plan, self._selection_digests, epoch=epoch, step=step)

    @cached_property
    def _selection_digests(self) -> str:
        return ",".join(selection_digest(source.episodes) for source in self._job.sources)


def _release_all(runner: EpochRunner, folders: list[ScratchFolder | SharedFrames | None]) -> None:
    runner.close()
    folders.clear()

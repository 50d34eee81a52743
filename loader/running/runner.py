"""Where batches are made: by threads of this process, one step ahead, or by worker processes."""

import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import count, starmap
from typing import Any

from roboshard.loader.batches.buffers import Buffers, DeviceBuffers, PinnedBuffers, ReusedBuffers
from roboshard.loader.epochs import EpochPart, epochs_from, num_own_steps
from roboshard.loader.frame_cache.frames import FrameCache
from roboshard.loader.job import LoadJob, Plan
from roboshard.loader.order.teams import ALONE
from roboshard.loader.pipeline import load
from roboshard.loader.resources import Resources
from roboshard.loader.running.background import run_in_background
from roboshard.loader.running.device import Copies, decodes_on_gpu, pin_batch, should_pin
from roboshard.loader.running.in_worker import FromWorker
from roboshard.loader.running.program_end import daemon_threads_stand_still
from roboshard.loader.running.shared_frames import open_cache
from roboshard.loader.running.steps import UserSteps
from roboshard.loader.running.stream import EpochStream
from roboshard.loader.running.workers import WorkerPool
from roboshard.loader.samples.rows import Batch
from roboshard.loader.stats import LoaderStats, StatsCounter
from roboshard.loader.transforms.apply import Transforms


class EpochRunner:
    """Runs one epoch at a time; workers, threads and memory are kept from epoch to epoch."""

    def __init__(self, job: LoadJob) -> None:
        """Start nothing before the first epoch."""
        self._process = os.getpid()
        self._job = job
        self._config = job.config
        self._workers: WorkerPool | None = None
        self._of_workers: dict[int, LoaderStats] = {}  # the last word of each on how it stands
        self.counter = StatsCounter()
        self._warned: set[int] = set()
        """Positions of episodes in whose place others come, of which the user was told."""
        self._copies = Copies(job.config.read.device, self.counter)
        split = job.config.split
        self.steps = UserSteps(self.counter, split.rank if split.world_size > 1 else None)
        self.plan: Callable[[int], Plan] = lru_cache(maxsize=2)(job.plan)
        """Returns the plan of an epoch; kept of this one and of the next one, which is begun beside
        it.
        """
        buffers = _buffers(job)
        self._transforms = Transforms(job, buffers, self.counter) if job.has_transforms else None
        own = _InThreads(
            job=job,
            plan_of=self.plan,
            copies=self._copies if self._transforms is None else Copies(None, self.counter),
            buffers=buffers,
            counter=self.counter,
            cache=cache(partial(open_cache, job, self.counter)),
        )
        self._stream = EpochStream(own.begin)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy starts anew: threads, processes and memory belong to this one."""
        return EpochRunner, (self._job,)

    def here(self) -> "EpochRunner":
        """Return this runner; in a fork, which has none of its threads and workers, and its locks
        for ever as they were, another one.
        """
        return self if os.getpid() == self._process else EpochRunner(self._job)

    def batches(self, epoch: int, first_step: int) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from `first_step` on, where the user wants them."""
        if self._config.split.num_workers:
            arriving = self._of_processes(epoch, first_step)
        else:
            arriving = self._stream.items(
                epoch, first_step, num_own_steps(self.plan(epoch), first_step, ALONE)
            )
            if self._transforms is not None:
                arriving = self._transformed(arriving, self._transforms, epoch, first_step)
        with daemon_threads_stand_still(), closing(arriving):
            yield from starmap(self._finished, iter(partial(self._next, arriving), None))

    def _next(self, arriving: Iterator[tuple[Batch, Any]]) -> tuple[Batch, Any]:
        """Return what arrives next, or raise StopIteration."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "a fork goes on with an iterator of its parent, whose threads and workers it does "
                "not have: iterate over the loader anew, with iter(loader)"
            )
        return next(arriving)

    def _finished(self, batch: Batch, arrived: Any) -> Batch:
        self._warn_of_skipped()
        return self._copies.finish(batch, arrived)

    def _warn_of_skipped(self) -> None:
        """Tell the user, once for each, which episodes others take the place of."""
        while self.counter.skipped:
            position, error = self.counter.skipped.popitem()
            if position not in self._warned:
                self._warned.add(position)
                warnings.warn(
                    f"on_error='skip': {error}; another episode takes its place",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _transformed(
        self,
        arriving: Generator[tuple[Batch, Any], None, None],
        transforms: Transforms,
        epoch: int,
        first_step: int,
    ) -> Generator[tuple[Batch, Any], None, None]:
        """Yield the batches after the user's transforms, on their way to where they are wanted.

        They run in the thread that iterates, which can draw no random numbers meanwhile: see
        `TransformGenerators`.
        """
        steps = count(first_step)

        def transformed(batch: Batch, _: Any) -> tuple[Batch, Any]:
            return self._copies.begin(transforms(batch, epoch, next(steps)))

        with closing(arriving):
            yield from starmap(transformed, arriving)

    def stats(self) -> LoaderStats:
        """Return the loader's numbers so far."""
        stats = self.counter.snapshot()
        of_workers = self._of_workers.values()
        stats.steps_ahead += sum(own.steps_ahead for own in of_workers) // self._job.members
        stats.resident_bytes += sum(own.resident_bytes for own in of_workers)
        return stats

    def close(self) -> None:
        """Stop the threads and the worker processes; the next epoch starts them again."""
        if os.getpid() != self._process:
            return  # they are the parent's
        self.steps.end()
        self._stream.close()
        if self._workers is not None:
            self._workers.close()
            self._workers = None
            self._of_workers.clear()

    def _num_steps_of(self, epoch: int) -> int:
        return self.plan(epoch).num_steps

    def _of_processes(
        self, epoch: int, first_step: int
    ) -> Generator[tuple[Batch, Any], None, None]:
        workers = self._workers = self._workers or WorkerPool(
            self._job, self._num_steps_of, self.steps.switch_of_workers()
        )
        try:
            yield from starmap(self._arrived, workers.run(epoch, first_step))
        except GeneratorExit:
            raise
        except Exception:  # what is left of them is in no state to go on
            self.close()
            raise
        except BaseException:  # Ctrl-C: neither are torch's locks, so that none may be waited for
            workers.kill()
            self.close()
            raise
        self._of_workers.clear()

    def _arrived(self, batch: Batch, members: Sequence[FromWorker]) -> tuple[Batch, Any]:
        """Count what a batch took, and send it on its way to where it is wanted."""
        for done in members:
            self.counter.merge(done.stats)
            self._of_workers[done.worker] = done.stats
            self.counter.skipped |= done.skipped
            self.steps.collect(done.worker, done.spans)
        if not self._config.read.pin_memory:
            return self._copies.begin(batch)
        started = time.perf_counter()
        pinned = pin_batch(batch)
        self.counter.spans.add("pin", started)
        return self._copies.begin(pinned)


@dataclass(frozen=True, kw_only=True)
class _InThreads:
    """Batches made by threads of this process; without the runner, whose end must be theirs."""

    job: LoadJob
    plan_of: Callable[[int], Plan]
    copies: Copies
    buffers: Buffers
    counter: StatsCounter
    cache: Callable[[], FrameCache | None]
    """Pictures of earlier epochs, opened when they are first needed."""

    def begin(
        self, epoch: int, first_step: int, goes_on: bool
    ) -> Generator[tuple[Batch, Any], None, None]:
        """Yield batches on their way to where they are wanted, as `EpochStream` asks for them."""
        own = Resources(self.job, self.buffers, self.counter, cache=self.cache())
        epochs = epochs_from(self.plan_of, epoch, first_step, goes_on, own.team)
        batches = self._on_their_way(epochs, own)
        with closing(run_in_background(batches, own.reads.stop)) as coming:
            yield from coming

    def _on_their_way(
        self, epochs: Iterator[EpochPart], own: Resources
    ) -> Generator[tuple[Batch, Any], None, None]:
        with closing(load(self.job, epochs, own)) as batches:
            yield from map(self.copies.begin, batches)


def _buffers(job: LoadJob) -> Buffers:
    if decodes_on_gpu(job.config):
        return DeviceBuffers(job.config.read.decode_device)
    return PinnedBuffers() if should_pin(job.config) else ReusedBuffers()

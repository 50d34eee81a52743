"""Worker processes that load an epoch's steps, in teams, kept from epoch to epoch."""

import atexit
import os
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_byte
from itertools import count
from multiprocessing import get_context
from multiprocessing import process as processes
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import Lock, current_thread, main_thread
from typing import Any, cast

import torch.utils.data
from torch.random import fork_rng
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from roboshard.common import interrupts
from roboshard.loader.episodes.shared import SharedEpisodes
from roboshard.loader.job import LoadJob
from roboshard.loader.look_ahead.decode_ahead import LOOK_AHEAD_STEPS
from roboshard.loader.order.teams import by_step, steps_on_their_way
from roboshard.loader.resources import shared_bytes
from roboshard.loader.running.failure import Failure, arrived
from roboshard.loader.running.in_worker import FromWorker, Message, Shared, StepDataset
from roboshard.loader.running.joining import join
from roboshard.loader.running.segment_pool import SegmentPlan, SegmentReceiver
from roboshard.loader.running.shared_batches import EpochStep, SharedBatches, SharedBatchesPlan
from roboshard.loader.running.worker_start import START_METHOD, begin, workers_may_start
from roboshard.loader.samples.rows import Batch

PREFETCHED_PER_WORKER = 1  # beside what each decodes ahead by itself
DEATH_TAKES_S = 1.0
START_TAKES_S = 30.0
"""Seconds that an interrupted start may take to end, on a machine that is busy: a process reads
what it is sent only once it has imported it all.
"""


class WorkerPool:
    """torch DataLoader workers. Their teams serve the steps in turn; torch collects them in order,
    of each the parts of the team's members.
    """

    def __init__(self, job: LoadJob, num_steps_of: Callable[[int], int], switch: c_byte) -> None:
        """Start no process before the first epoch.

        Args:
            job: What they load.
            num_steps_of: Returns how many steps an epoch has.
            switch: In shared memory, that of their spans.
        """
        self._process = os.getpid()
        self._starting = Lock()
        self._members, self._num_teams = job.members, job.num_teams
        self._num_steps_of = num_steps_of
        # Read when an epoch starts. Without a lock, which a worker that is killed would keep.
        self._place = get_context(START_METHOD).RawArray("q", 3)
        self._next: EpochStep | None = None
        """What follows, where workers go on to it by themselves."""
        batches = SharedBatchesPlan.make(
            start_method=START_METHOD,
            num_workers=job.config.split.num_workers,
            keys=[picture.key for picture in job.pictures] if self._members > 1 else [],
            waiting=steps_on_their_way(job.num_teams, job.steps_of_message),
        )
        self._batches = SharedBatches(batches)
        segments = SegmentPlan.make(
            start_method=START_METHOD,
            num_workers=job.config.split.num_workers,
            num_keys=max(
                2 * (len(source.features) + len(source.membership.missing) + 1)
                + len(source.membership.optional)
                + len(source.membership.pad_to)
                for source in job.sources
            ),
            batches_ahead=(1 + PREFETCHED_PER_WORKER) * job.steps_of_message + LOOK_AHEAD_STEPS[1],
            steps_of_message=job.steps_of_message,
        )
        self._receiver = SegmentReceiver(segments)
        shared = Shared(
            place=self._place,
            members=self._members,
            steps_of_message=job.steps_of_message,
            segments=segments,
            batches=batches,
            episodes=_shared_episodes(job),
            switch=switch,
        )
        self._steps = StepDataset(job, shared)
        self._loader = torch.utils.data.DataLoader(
            self._steps,
            batch_size=None,
            num_workers=job.config.split.num_workers,
            collate_fn=_as_it_is,
            multiprocessing_context=START_METHOD,
            prefetch_factor=PREFETCHED_PER_WORKER,
            persistent_workers=True,
        )
        # Torch has just said what it thinks of their number, and would again when they start.
        vars(self._loader)["check_worker_number_rationality"] = _nothing
        _POOLS.add(self)
        atexit.register(
            _close, weakref.ref(self)
        )  # or multiprocessing would terminate them, whatever they are at

    def run(self, epoch: int, first_step: int) -> Iterator[tuple[Batch, Sequence[FromWorker]]]:
        """Yield the batches of an epoch from `first_step` on, in order, each with its workers and
        what it cost them.

        An exception in a worker is raised here as it is, with the worker's traceback as a note; so
        is a worker's death.
        """
        if not all(
            process.is_alive() for process in self._processes()
        ):  # killed since, or while they started
            self.close()
        generation = self._place[2]
        if (epoch, first_step) != self._next:
            generation = self._batches.begin(self._coming(epoch, first_step))
        self._next = None
        # In this order: who reads meanwhile is of the generation before, and told to leave it.
        self._place[:2] = [epoch, first_step]
        self._place[2] = generation
        try:
            yield from self._collected(map(arrived, self._begin()), epoch, first_step)
        except (
            EOFError,
            OSError,
        ) as error:  # so it looks when a batch was shared by a worker that is no more
            wait([process.sentinel for process in self._processes()], timeout=DEATH_TAKES_S)
            if not (deaths := self._deaths()):
                raise
            raise RuntimeError(f"DataLoader worker exited unexpectedly: {deaths}") from error
        except RuntimeError as error:  # torch's, which knows no more of it than that
            if deaths := self._deaths():
                error.add_note(deaths)
            raise

    def _coming(self, epoch: int, first_step: int) -> Iterator[EpochStep]:
        """Yield the steps from here on, of all epochs."""
        while num_steps := self._num_steps_of(epoch):
            yield from ((epoch, step) for step in range(first_step, num_steps))
            epoch, first_step = epoch + 1, 0

    def _collected(
        self, arriving: Iterator[Message], epoch: int, first_step: int
    ) -> Iterator[tuple[Batch, Sequence[FromWorker]]]:
        """Yield what arrives, step by step: the parts of one, put together."""
        last = self._num_steps_of(epoch) - 1
        coming = by_step(arriving, self._num_teams, self._members)
        for step in count(first_step):
            if self._members > 1:
                self._batches.grant()
            found = next(coming, None)
            if found is None:
                if step <= last:
                    raise RuntimeError(f"workers ended before step {step} of {last + 1}")
                return
            parts, done = found
            given = [self._joined(parts, (epoch, step))]
            if step == last:
                self._next = epoch + 1, 0
            del found, parts
            yield given.pop(), done

    def _joined(self, parts: Sequence[Any], place: EpochStep) -> Batch:
        """Return the batch that these are the parts of."""
        if self._members == 1:
            (batch,) = parts
            return cast(Batch, batch)
        self._batches.take(place)
        return join(parts, place[1], self._batches)

    def _begin(self) -> Iterator[Message | Failure]:
        """Begin an epoch; start the processes if there are none."""
        if current_thread() is not main_thread():
            return self._start()
        # Aside, since torch's iterator cannot be tidied up where an interrupt left it half made.
        return interrupts.run_aside(self._start, START_TAKES_S)

    def _start(self) -> Iterator[Message | Failure]:
        # torch draws the workers' seed here; what a training draws next must not depend on that.
        with (
            self._starting,
            fork_rng(devices=[]),
            workers_may_start(),
            self._steps.pickled_once(),
        ):
            self._loader.worker_init_fn = begin()
            batches = iter(self._loader)
        try:
            interrupts.check()
        except KeyboardInterrupt:
            self.kill()
            raise
        return batches

    def kill(self) -> None:
        """End the processes at once; whatever they were at, and whoever holds torch's locks."""
        self._next = None
        iterator, self._loader._iterator = self._loader._iterator, None
        if not isinstance(iterator, _MultiProcessingDataLoaderIter):
            return
        _let_go(iterator)
        for process in iterator._workers:
            process.terminate()
        for process in iterator._workers:
            process.join(DEATH_TAKES_S)
            process.kill()
            process.join()
        for queue in (*iterator._index_queues, iterator._worker_result_queue):
            queue.cancel_join_thread()
            queue.close()
        _join_feeders(iterator)

    def close(self) -> None:
        """Stop the processes, also under an iterator that somebody still holds; torch has no public
        way to.

        In work that was asked to stop there is no time to let each end what it is at.
        """
        if os.getpid() != self._process:
            return  # they are the parent's, and wait for memory that it grants
        if interrupts.is_stopping():
            self.kill()
            return
        self._next = None
        self._batches.end()  # whoever waits for the memory of a step waits no longer
        iterator, self._loader._iterator = self._loader._iterator, None
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()
            _join_feeders(iterator)

    def close_with_the_program(self) -> None:
        """Stop the processes, also those that a daemon thread is about to start."""
        if os.getpid() == self._process:
            self._starting.acquire(timeout=START_TAKES_S)
        self.close()

    def leave_to_the_parent(self) -> None:
        """Own, in a fork, none of the processes."""
        iterator, self._loader._iterator = self._loader._iterator, None
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            _let_go(iterator)  # as it goes it would tell them to end
            # At its end multiprocessing terminates these, whosever children they are.
            vars(processes)["_children"].difference_update(iterator._workers)

    def _deaths(self) -> str:
        """Return which workers are no more, and why, as far as that is known; empty: none."""
        codes = {process.pid: process.exitcode for process in self._processes()}
        return "; ".join(
            f"process {pid} was ended by signal {-code} ({signal.strsignal(-code)}), out of memory?"
            if code < 0
            else f"process {pid} ended with exit code {code}"
            for pid, code in codes.items()
            if code is not None
        )

    def _processes(self) -> Sequence[BaseProcess]:
        iterator = self._loader._iterator
        return iterator._workers if isinstance(iterator, _MultiProcessingDataLoaderIter) else []


def _shared_episodes(job: LoadJob) -> SharedEpisodes | None:
    """Return what workers share of what they have read. One alone has nobody to share it with."""
    return SharedEpisodes(shared_bytes(job)) if job.config.split.num_workers > 1 else None


def _let_go(iterator: _MultiProcessingDataLoaderIter) -> None:
    """Have torch neither end the processes of an iterator nor take their deaths for an error; it
    has no public way to.
    """
    iterator._shutdown = True
    vars(signal_handling)["_remove_worker_pids"](id(iterator))
    iterator._worker_pids_set = False


def _join_feeders(iterator: _MultiProcessingDataLoaderIter) -> None:
    """Wait for the threads that fill the queues of an iterator, which have been told to end.

    Each frees its queue's semaphore if it holds it last. A process that ends meanwhile has removed
    the semaphore and not said so, and multiprocessing warns of a leak.
    """
    for queue in iterator._index_queues:
        feeder = vars(queue)["_thread"]
        if feeder is not None and feeder is not current_thread():  # where garbage is collected
            feeder.join(DEATH_TAKES_S)


def _close(pool: weakref.ref[WorkerPool]) -> None:
    found = pool()
    if found is not None:
        found.close_with_the_program()


def _as_it_is(value: Any) -> Any:
    return value


def _nothing() -> None:
    pass


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in _POOLS:
        pool.leave_to_the_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)

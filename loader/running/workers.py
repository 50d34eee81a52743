"""Worker processes that load an epoch's steps in turn, kept from epoch to epoch."""

import atexit
import os
import shutil
import signal
import time
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_byte
from functools import lru_cache
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import get_temp_dir
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, NamedTuple

import torch.utils.data
from torch.random import fork_rng
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from roboshard.common import interrupts
from roboshard.common.processes import without_main
from roboshard.loader import topology
from roboshard.loader.episodes.shared import SharedEpisodes
from roboshard.loader.epochs import epochs_from, num_own_steps
from roboshard.loader.job import LoadJob
from roboshard.loader.look_ahead.decode_ahead import LOOK_AHEAD_STEPS
from roboshard.loader.pipeline import load
from roboshard.loader.resources import Resources, shared_bytes
from roboshard.loader.running.segment_pool import (
    Message,
    SegmentPlan,
    SegmentReceiver,
    SegmentSender,
)
from roboshard.loader.running.shared_frames import open_cache
from roboshard.loader.running.shared_pickle import SharedPickle
from roboshard.loader.running.stream import EpochStream
from roboshard.loader.samples.rows import Batch
from roboshard.loader.spans import Span, SpanRecorder
from roboshard.loader.stats import LoaderStats, StatsCounter
from roboshard.loader.transforms.apply import Transforms

PREFETCHED_PER_WORKER = 1  # beside what each decodes ahead by itself
DEATH_TAKES_S = 1.0
START_TAKES_S = 30.0
"""Seconds that an interrupted start may take to end, on a machine that is busy: a process reads
what it is sent only once it has imported it all.
"""
START_METHOD = "spawn"  # decoders, file systems and thread pools do not survive a fork


class FromWorker(NamedTuple):
    """What comes with a batch of a worker."""

    worker: int
    stats: LoaderStats
    """What the worker has done since its last batch."""
    spans: list[Span]
    """Spans of what the worker has done since its last batch, if they are recorded."""


class WorkerPool:
    """torch DataLoader workers. They serve the steps in turn; torch collects them in order."""

    def __init__(self, job: LoadJob, switch: c_byte) -> None:
        """Start no process before the first epoch. The switch, in shared memory, is that of their
        spans.
        """
        self._place = get_context(START_METHOD).Array(
            "q", 2
        )  # epoch and first step, read when an epoch starts
        segments = SegmentPlan.make(
            start_method=START_METHOD,
            num_workers=job.config.split.num_workers,
            num_keys=max(
                2 * (len(source.features) + len(source.membership.missing) + 1)
                + len(source.membership.optional)
                + len(source.membership.pad_to)
                for source in job.sources
            ),
            batches_ahead=PREFETCHED_PER_WORKER + LOOK_AHEAD_STEPS[1],
        )
        self._receiver = SegmentReceiver(segments)
        self._steps = _StepDataset(job, self._place, segments, _shared(job), switch)
        self._loader = torch.utils.data.DataLoader(
            self._steps,
            batch_size=None,
            num_workers=job.config.split.num_workers,
            collate_fn=_as_it_is,
            multiprocessing_context=START_METHOD,
            prefetch_factor=PREFETCHED_PER_WORKER,
            persistent_workers=True,
            worker_init_fn=_leave_interrupts_to_the_parent,
        )
        atexit.register(
            _close, weakref.ref(self)
        )  # or multiprocessing would terminate them, whatever they are at

    def run(self, epoch: int, first_step: int) -> Iterator[tuple[Batch, FromWorker]]:
        """Yield the batches of an epoch from `first_step` on, in order, each with its worker and
        what it cost.

        An exception in a worker is raised here with its type and its traceback; so is a worker's
        death.
        """
        if not all(
            process.is_alive() for process in self._processes()
        ):  # killed since, or while they started
            self.close()
        self._place[:] = [epoch, first_step]
        try:
            yield from self._begin()
        except (
            EOFError,
            OSError,
        ) as error:  # so it looks when a batch was shared by a worker that is no more
            dead = wait([process.sentinel for process in self._processes()], timeout=DEATH_TAKES_S)
            if not dead:
                raise
            raise RuntimeError("DataLoader worker exited unexpectedly; out of memory?") from error

    def _begin(self) -> Iterator[tuple[Batch, FromWorker]]:
        """Begin an epoch; start the processes if there are none."""
        if current_thread() is not main_thread():
            return self._start()
        # Aside, since torch's iterator cannot be tidied up where an interrupt left it half made.
        return interrupts.run_aside(self._start, START_TAKES_S)

    def _start(self) -> Iterator[tuple[Batch, FromWorker]]:
        # torch draws the workers' seed here; what a training draws next must not depend on that.
        with (
            fork_rng(devices=[]),
            interrupts.signals_for_the_parent(),
            without_main(),
            self._steps.pickled_once(),
        ):
            batches = iter(self._loader)
        try:
            interrupts.check()
        except KeyboardInterrupt:
            self.kill()
            raise
        return batches

    def kill(self) -> None:
        """End the processes at once; whatever they were at, and whoever holds torch's locks."""
        iterator, self._loader._iterator = self._loader._iterator, None
        if not isinstance(iterator, _MultiProcessingDataLoaderIter):
            return
        iterator._shutdown = True
        forget = vars(signal_handling)["_remove_worker_pids"]  # torch has no public way to
        forget(id(iterator))  # their deaths are no error
        iterator._worker_pids_set = False
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
        if interrupts.is_stopping():
            self.kill()
            return
        iterator, self._loader._iterator = self._loader._iterator, None
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()
            _join_feeders(iterator)

    def _processes(self) -> Sequence[BaseProcess]:
        iterator = self._loader._iterator
        return iterator._workers if isinstance(iterator, _MultiProcessingDataLoaderIter) else []


class _StepDataset(torch.utils.data.IterableDataset[tuple[Message, FromWorker]]):
    """A worker's share of the steps."""

    def __init__(
        self,
        job: LoadJob,
        place: Any,
        segments: SegmentPlan,
        shared: SharedEpisodes | None,
        switch: c_byte,
    ) -> None:
        self._job = job
        self._place = place
        self._segments = segments
        self._shared = shared
        self._switch = switch
        self._here: _InWorker | None = None
        self._pickled: SharedPickle | None = None

    @contextmanager
    def pickled_once(self) -> Iterator[None]:
        """Pickle the job for all processes that are started meanwhile, if any are."""
        try:
            yield
        finally:
            self._pickled = None

    def __getstate__(self) -> dict[str, Any]:
        # By value what the user's program defines, a lambda too: a worker does not import it.
        self._pickled = self._pickled or SharedPickle(self._job)
        return vars(self) | {"_job": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _job=state["_pickled"].load(), _pickled=None)

    def __iter__(self) -> Iterator[tuple[Message, FromWorker]]:
        here = self._here = self._here or _InWorker(
            self._job, self._segments, self._shared, StatsCounter(SpanRecorder(self._switch))
        )
        try:
            yield from here.messages(*self._place)
        except Exception as error:
            if _can_be_sent(type(error)):
                raise
            raise RuntimeError(f"{type(error).__qualname__}: {error}") from error


class _InWorker:
    """What a worker keeps from epoch to epoch."""

    def __init__(
        self,
        job: LoadJob,
        segments: SegmentPlan,
        shared: SharedEpisodes | None,
        counter: StatsCounter,
    ) -> None:
        self._job = job
        self._shared = shared
        self._plan_of = lru_cache(maxsize=2)(job.plan)
        self._worker, self._num_workers = topology.worker()
        self._sender = SegmentSender(segments, self._worker)
        self._counter = counter
        self._cache = open_cache(job, self._counter)
        self._transforms = (
            Transforms(job, self._sender, self._counter) if job.has_transforms else None
        )
        self._stream = EpochStream(self._begin)

    def messages(self, epoch: int, first_step: int) -> Iterator[tuple[Message, FromWorker]]:
        """This worker's batches of an epoch, packed, and what it has done since the last one."""
        batches = self._stream.items(
            epoch, first_step, num_own_steps(self._plan_of(epoch), first_step)
        )
        steps = count(first_step + self._worker, self._num_workers)

        def message(batch: Batch) -> tuple[Message, FromWorker]:
            if self._transforms is not None:
                batch = self._transforms(batch, epoch, next(steps))
            started = time.perf_counter()
            packed = self._sender.pack(batch)
            self._counter.spans.add("pack", started)
            done = FromWorker(self._worker, self._counter.take(), self._counter.spans.take())
            return packed, done

        yield from map(message, batches)

    def _begin(self, epoch: int, first_step: int, goes_on: bool) -> Generator[Batch, None, None]:
        own = Resources(
            self._job, self._sender, self._counter, shared=self._shared, cache=self._cache
        )
        return load(self._job, epochs_from(self._plan_of, epoch, first_step, goes_on), own)


def _shared(job: LoadJob) -> SharedEpisodes | None:
    """Return what workers share of what they have read. One alone has nobody to share it with."""
    return SharedEpisodes(shared_bytes(job)) if job.config.split.num_workers > 1 else None


def _join_feeders(iterator: _MultiProcessingDataLoaderIter) -> None:
    """Wait for the threads that fill the queues of an iterator, which have been told to end.

    Each frees its queue's semaphore if it holds it last. A process that ends meanwhile has removed
    the semaphore and not said so, and multiprocessing warns of a leak.
    """
    for queue in iterator._index_queues:
        feeder = vars(queue)["_thread"]
        if feeder is not None:
            feeder.join(DEATH_TAKES_S)


def _can_be_sent(kind: type[Exception]) -> bool:
    """Whether the parent can have an error of this type: pickle must find its class by name."""
    try:
        ForkingPickler.dumps(kind)
    except Exception:  # noqa: BLE001 - whatever the class does when it is pickled
        return False
    return True


def _close(pool: weakref.ref[WorkerPool]) -> None:
    found = pool()
    if found is not None:
        found.close()


def _leave_interrupts_to_the_parent(_worker: int) -> None:
    """Ignore Ctrl-C, which reaches the whole process group: the parent decides, and is not told of
    dead workers first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_tidily)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.FOR_THE_PARENT)


def _end_tidily(_number: int, _frame: FrameType | None) -> None:
    """End a worker without waiting for anything; its sockets go with it."""
    shutil.rmtree(get_temp_dir(), ignore_errors=True)
    os._exit(0)


def _as_it_is(value: Any) -> Any:
    return value

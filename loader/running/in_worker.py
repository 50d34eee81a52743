"""What runs in a worker process: its part of the steps, packed for its parent."""

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from ctypes import c_byte
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import torch.utils.data

from roboshard.loader import topology
from roboshard.loader.batches.pending_batch import PartialBatch
from roboshard.loader.episodes.shared import SharedEpisodes
from roboshard.loader.epochs import epochs_from, num_own_steps
from roboshard.loader.job import LoadJob
from roboshard.loader.order.plan import Share
from roboshard.loader.order.teams import Team, in_messages
from roboshard.loader.pipeline import load
from roboshard.loader.resources import Resources
from roboshard.loader.running.failure import Failure
from roboshard.loader.running.joining import Part
from roboshard.loader.running.segment_pool import SegmentPlan, SegmentSender
from roboshard.loader.running.shared_batches import MemberBuffers, SharedBatchesPlan
from roboshard.loader.running.shared_frames import open_cache
from roboshard.loader.running.shared_pickle import SharedPickle
from roboshard.loader.running.stream import EpochStream
from roboshard.loader.samples.rows import Batch
from roboshard.loader.spans import Span, SpanRecorder
from roboshard.loader.stats import LoaderStats, StatsCounter
from roboshard.loader.transforms.apply import Transforms


class Shared(NamedTuple):
    """What the parent and its workers have in shared memory."""

    place: Any
    """Words: the epoch, its first step, and the generation of what is asked for."""
    members: int
    """Workers that make a step together."""
    steps_of_message: int
    """Parts of how many steps a worker sends together."""
    segments: SegmentPlan
    batches: SharedBatchesPlan
    episodes: SharedEpisodes | None
    """What workers share of what they have read; None: there is but one."""
    switch: c_byte
    """Whether spans are recorded."""


class FromWorker(NamedTuple):
    """What comes with a batch of a worker."""

    worker: int
    stats: LoaderStats
    """What the worker has done since its last batch."""
    spans: list[Span]
    """Spans of what the worker has done since its last batch, if they are recorded."""
    skipped: dict[int, str]
    """As `StatsCounter.skipped` has it, since its last batch."""


Message = tuple[list[Any], FromWorker]
"""Batches, or `Part`s, as they arrive."""


class StepDataset(torch.utils.data.IterableDataset[Message | Failure]):
    """A worker's part of the steps, or an error at last."""

    def __init__(self, job: LoadJob, shared: Shared) -> None:
        """Load nothing before a worker iterates."""
        self._job = job
        self._shared = shared
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

    def __iter__(self) -> Iterator[Message | Failure]:
        try:
            here = self._here = self._here or _InWorker(self._job, self._shared)
            generation = self._shared.place[2]  # first: it is written last
            epoch, first_step = self._shared.place[:2]
            yield from here.messages(epoch, first_step, generation)
            return
        except Exception as error:  # noqa: BLE001 - of whatever kind, it is raised in the parent
            failure = Failure.of(error, topology.worker()[0])
        yield failure


class _InWorker:
    """What a worker keeps from epoch to epoch."""

    def __init__(self, job: LoadJob, shared: Shared) -> None:
        self._job = job
        self._shared = shared
        self._plan_of = lru_cache(maxsize=2)(job.plan)
        self._worker, num_workers = topology.worker()
        self._team = Team.of(self._worker, num_workers, shared.members)
        self._sender = SegmentSender(shared.segments, self._worker)
        self._buffers = MemberBuffers(shared.batches, self._sender, self._worker)
        self._counter = StatsCounter(SpanRecorder(shared.switch))
        self._cache = open_cache(job, self._counter)
        self._transforms = (
            Transforms(job, self._buffers, self._counter) if job.has_transforms else None
        )
        self._stream = EpochStream(self._begin)
        self._generation = 0
        # Python has no public way to come before executors, which may start nothing from then on,
        # and whose threads it waits for; multiprocessing's own comes after them from 3.13 on.
        threading._register_atexit(self._end)  # type: ignore[attr-defined]

    def _end(self) -> None:
        """End what is decoded ahead of the last epoch: the interpreter, as it ends, waits for the
        threads without telling them.
        """
        self._stream.close()

    def messages(self, epoch: int, first_step: int, generation: int) -> Iterator[Message]:
        """This worker's part of an epoch, packed, and what it has done since the last message."""
        if generation != self._generation:
            self._stream.close()
            self._stream = EpochStream(self._begin)
            self._generation = generation
            self._buffers.reach(generation)
        number = num_own_steps(self._plan_of(epoch), first_step, self._team)
        batches = self._stream.items(epoch, first_step, number)
        steps = count(first_step + self._team.number, self._team.number_of_teams)

        def packed(batch: Batch) -> Any:
            step = next(steps)
            share = batch.share if isinstance(batch, PartialBatch) else None
            if self._transforms is not None and batch:
                batch = self._transforms(batch, epoch, step, share)
            started = time.perf_counter()
            part = self._sender.pack(batch) if share is None else self._part(batch, share)
            self._counter.spans.add("pack", started)
            return part

        for parts in in_messages(map(packed, batches), number, self._shared.steps_of_message):
            counter = self._counter
            skipped, counter.skipped = counter.skipped, {}
            yield parts, FromWorker(self._worker, counter.take(), counter.spans.take(), skipped)

    def _part(self, batch: Batch, share: Share) -> Part:
        """Return this worker's part of a batch: of pictures that lie where they belong, where that
        is.
        """
        for picture in self._job.pictures:
            if picture.key in batch:
                region = self._buffers.region(picture.key, batch[picture.key], share)
                batch[picture.key] = batch[picture.key] if region is None else region
        return Part(self._sender.pack(batch), share.step, share.places, share.size)

    def _begin(self, epoch: int, first_step: int, goes_on: bool) -> Generator[Batch, None, None]:
        own = Resources(
            self._job,
            self._buffers,
            self._counter,
            shared=self._shared.episodes,
            cache=self._cache,
            team=self._team,
        )
        epochs = epochs_from(self._plan_of, epoch, first_step, goes_on, self._team)
        return load(self._job, epochs, own)

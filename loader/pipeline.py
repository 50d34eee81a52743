"""The whole chain from plan to batch, stage by stage: the file to read first.

    plan              which steps there are                                order/
    split by node     which rank slots of a step are this rank's           here
    split by worker   which steps are this worker's                        here
    draw              which rows of which episodes a step takes            order/
    fetch             those episodes, read ahead, verified, in memory      episodes/fetch.py
    windows           rows and delta windows of the step's samples         samples/rows.py
    decode            pictures of this step and the next ones, by threads  batches/decode_ahead.py, decoding/decode.py
    images            the user's transform, if there is one                batches/images.py
    batch             as it is, or its samples one by one                  batches/batch.py

Each stage takes an iterator and gives one. WebDataset's DataPipeline joins them: the first four for each epoch anew,
the others once, so that the first batches of an epoch are decoded beside the last ones of the one before.
"""

import ctypes
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import webdataset as wds
from numpy.typing import NDArray

from roboshard.loader import topology
from roboshard.loader.batches.batch import single_samples
from roboshard.loader.batches.buffers import Buffers
from roboshard.loader.batches.decode_ahead import decode_video
from roboshard.loader.batches.decode_threads import DecodeThreads
from roboshard.loader.batches.images import transform_images
from roboshard.loader.config import LoaderConfig
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.episodes.fetch import EpisodePool, fetch_episodes
from roboshard.loader.episodes.read_ahead import ReadAhead
from roboshard.loader.meta import DatasetMeta
from roboshard.loader.order.mixture import MixturePlan, pool_sizes
from roboshard.loader.order.plan import Draw, Episodes, EpochPlan, Slots
from roboshard.loader.order.schedule import Schedule
from roboshard.loader.samples.rows import Batch, PictureKey, delta_windows
from roboshard.loader.sources import SideBySide, Source
from roboshard.loader.stats import Counter
from roboshard.shards import storage
from roboshard.shards.reader import ShardedDataset

LOCAL_READING = (2, 128 << 20)
"""Threads that read ahead in each process, and bytes that they read ahead, over all workers of a rank."""
REMOTE_READING = (16, 512 << 20)

MAX_LOOK_BACK = 32
"""Pictures kept of each slice for the windows of coming steps; of wider windows none are."""

EARLY_BYTES = 128 << 20
"""Pictures kept until their step begins, over all workers of a rank; in uniform order, where that saves decoding."""

Plan = EpochPlan | MixturePlan
EpochPart = tuple[Plan, int]
"""An epoch, and the first step of it that is loaded."""


@dataclass(frozen=True, kw_only=True)
class LoadJob:
    """All that a process needs to know to load an epoch. Picklable; opens nothing before it is run."""

    sources: tuple[Source, ...]
    """One, or those of a mixture."""
    config: LoaderConfig
    offsets: dict[str, NDArray[np.int64]]
    """Feature key -> delta window in frames; in a mixture one for each dataset."""
    cameras: tuple[str, ...]
    """Video features to decode."""
    image_keys: tuple[str, ...]
    meta: DatasetMeta
    schedule: Schedule | None = None
    """Of a mixture."""

    @property
    def dataset(self) -> ShardedDataset:
        """The one dataset, or the first."""
        return self.sources[0].dataset

    @property
    def episodes(self) -> Episodes:
        """Of the one dataset, or the first."""
        return self.sources[0].episodes

    @property
    def pictures(self) -> tuple[PictureKey, ...]:
        """Everything that is decoded into pictures."""
        keys = [(key, True) for key in self.cameras] + [(key, False) for key in self.image_keys]
        windows = {key: np.atleast_2d(offsets)[0] for key, offsets in self.offsets.items()}
        return tuple(
            PictureKey(key=key, is_video=video, offsets=windows.get(key)) for key, video in keys
        )

    @property
    def transformed(self) -> tuple[str, ...]:
        """Keys of the pictures that `image_transforms` is for: depth is left alone, as LeRobot does."""
        return tuple(
            picture.key for picture in self.pictures if picture.key not in self.meta.depth_keys
        )

    @property
    def slots(self) -> Slots:
        """The shape of the plan."""
        split = self.config.split
        return Slots(
            rank_slots=split.max_world_size,
            worker_slots=split.max_workers if self.config.order.shuffle else 1,
            global_batch_size=split.global_batch_size,
        )

    def plan(self, epoch: int) -> Plan:
        """The order of an epoch."""
        if self.schedule is not None:
            episodes = [source.episodes for source in self.sources]
            return MixturePlan(episodes, self.config.order, self.slots, self.schedule, epoch)
        return EpochPlan(self.episodes, self.config.order, self.slots, epoch)


@dataclass(frozen=True)
class NodeStep:
    """A step and the rank slots of it that this rank serves."""

    step: int
    rank_slots: range


class Resources:
    """What reads and decodes in this process: threads, and the episodes in memory."""

    def __init__(self, job: LoadJob, buffers: Buffers, counter: Counter) -> None:
        """Nothing is read before it is needed. Batches are made in `buffers`, and counted in `counter`."""
        config, sample = job.config, job.config.sample
        self.buffers = buffers
        self.counter = counter
        dataset = job.dataset if job.schedule is None else SideBySide(job.sources)
        self.reads = ReadAhead(dataset, job.cameras, *_reading(job), counter)
        self.pool = EpisodePool(
            sources=job.sources,
            reads=self.reads,
            pictures=PictureSettings(
                image_size=sample.image_size,
                device=config.read.decode_device,
                look_back=_look_back(job),
            ),
            capacity=_resident_episodes(job),
            on_error=config.read.on_error,
            counter=counter,
        )
        self.threads = DecodeThreads(
            num_threads=config.read.decode_threads
            or topology.default_threads(config.split.num_workers),
            pictures=job.pictures,
            as_float=not sample.return_uint8,
            buffers=buffers,
            counter=counter,
            early_bytes=_early_bytes(job),
        )

    def close(self) -> None:
        """End the threads, and give the memory that they freed back."""
        self.reads.close()
        self.threads.close()
        _return_freed_memory()


def load(job: LoadJob, epochs: Iterable[EpochPart], own: Resources) -> Generator[Batch, None, None]:
    """The batches of this process, in order, epoch after epoch. Closes `own` at the end."""
    counter = own.counter
    try:
        yield from wds.DataPipeline(
            partial(draw_epochs, epochs, config=job.config),
            partial(fetch_episodes, pool=own.pool, reads=own.reads, counter=counter),
            partial(delta_windows, offsets=job.offsets, pictures=job.pictures, counter=counter),
            partial(decode_video, threads=own.threads, counter=counter),
            partial(
                transform_images,
                keys=job.transformed,
                transform=job.config.sample.image_transforms,
                buffers=own.buffers,
                counter=counter,
            ),
            single_samples if job.config.split.batch_size is None else iter,
        ).iterator1()
    finally:  # here too: after an error in a later stage, its traceback keeps the others suspended
        own.close()
        counter.set(steps_ahead=0, resident_bytes=0)


def _return_freed_memory() -> None:
    """Give the system what is free in the heaps: glibc has one per thread, and they would fill up in turn."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _early_bytes(job: LoadJob) -> int:
    """Of this process. A GPU's memory is the user's."""
    is_cpu = job.config.read.decode_device == "cpu"
    return (
        0 if _is_forward(job) or not is_cpu else EARLY_BYTES // max(1, job.config.split.num_workers)
    )


def _look_back(job: LoadJob) -> dict[str, int]:
    """Camera -> frames by which windows of neighbouring samples overlap, where those are loaded in a row."""
    windows = {key: np.atleast_2d(job.offsets[key]) for key in job.cameras if key in job.offsets}
    spans = {key: int(np.ptp(frames, axis=1).max()) for key, frames in windows.items()}
    return {
        key: span for key, span in spans.items() if _is_forward(job) and 0 < span <= MAX_LOOK_BACK
    }


def _is_forward(job: LoadJob) -> bool:
    """Whether the frames of an episode come in their order."""
    return job.config.order.frame_order == "sweep" or not job.config.order.shuffle


def _reading(job: LoadJob) -> tuple[int, int]:
    """(threads, bytes) that read ahead in this process."""
    is_local = all(storage.is_local(source.dataset.root) for source in job.sources)
    threads, num_bytes = LOCAL_READING if is_local else REMOTE_READING
    return threads, num_bytes // max(1, job.config.split.num_workers)


def draw_epochs(epochs: Iterable[EpochPart], config: LoaderConfig) -> Iterator[Draw]:
    """What each step of this process takes, of one epoch after the other."""
    for plan, first_step in epochs:
        yield from wds.DataPipeline(
            partial(plan_steps, plan, first_step),
            partial(split_by_node, config=config),
            partial(split_by_worker, plan=plan, first_step=first_step),
            partial(draw_samples, plan=plan),
        ).iterator1()
        _return_freed_memory()


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
    turn, num_workers = _turn(plan, first_step)
    slots, first_slot = plan.num_worker_slots, plan.worker_slot(first_step)
    return sum(
        len(range(first_step + (slot - first_slot) % slots, plan.num_steps, slots))
        for slot in range(turn, slots, num_workers)
    )


def plan_steps(plan: Plan, first_step: int) -> Iterator[int]:
    """The numbers of the epoch's steps."""
    yield from range(first_step, plan.num_steps)


def split_by_node(steps: Iterable[int], config: LoaderConfig) -> Iterator[NodeStep]:
    """Every rank has every step; of its rank slots each rank has an equal, contiguous share."""
    split = config.split
    share = split.max_world_size // split.world_size
    slots = range(split.rank * share, (split.rank + 1) * share)
    for step in steps:
        yield NodeStep(step, slots)


def split_by_worker(steps: Iterable[NodeStep], plan: Plan, first_step: int) -> Iterator[NodeStep]:
    """A worker serves the steps of its worker slots."""
    turn, num_workers = _turn(plan, first_step)
    for step in steps:
        if plan.worker_slot(step.step) % num_workers == turn:
            yield step


def _turn(plan: Plan, first_step: int) -> tuple[int, int]:
    """(turn, number of workers): this process serves the worker slots that are equal to `turn` modulo the number.

    torch's DataLoader asks worker 0 first, then 1, 2, …: the first step's worker slot decides who is 0.
    """
    worker, num_workers = topology.worker()
    return (plan.worker_slot(first_step) + worker) % num_workers, num_workers


def draw_samples(steps: Iterable[NodeStep], plan: Plan) -> Iterator[Draw]:
    """Which rows of which episodes each step takes."""
    for step in steps:
        yield plan.step(step.step, step.rank_slots)


def _resident_episodes(job: LoadJob) -> int:
    """Episodes to keep: the pools of this process's lanes, and one more each for the pool that follows."""
    split = job.config.split
    lanes = job.slots.worker_slots // max(1, split.num_workers if job.config.order.shuffle else 1)
    per_lane = [max(1, job.config.order.pool_episodes // job.slots.worker_slots)]
    if job.schedule is not None:
        per_lane = pool_sizes(job.config.order, job.slots, job.schedule)
    rank_slots = split.max_world_size // split.world_size
    return rank_slots * max(1, lanes) * sum(size + 1 for size in per_lane)

"""What loads in one process: threads that read and decode, the episodes in memory, their
budgets.
"""

import ctypes
from contextlib import suppress

import numpy as np

from roboshard import storage
from roboshard.loader import topology
from roboshard.loader.batches.buffers import Buffers
from roboshard.loader.decoding.open_decoders import KeptDecoders
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.episodes.fetch import EpisodePool
from roboshard.loader.episodes.prefetch import EpisodePrefetcher
from roboshard.loader.episodes.shared import SharedEpisodes
from roboshard.loader.frame_cache.frames import FrameCache
from roboshard.loader.job import LoadJob
from roboshard.loader.look_ahead.decode_threads import DecodeThreads
from roboshard.loader.look_ahead.thread_limit import ThreadLimit
from roboshard.loader.order.mixture import pool_sizes
from roboshard.loader.order.teams import ALONE, Team
from roboshard.loader.sources import ConcatDataset
from roboshard.loader.stats import StatsCounter

LOCAL_READING = (2, 128 << 20)
"""Threads that read ahead in each process, and bytes that they read ahead, over all workers of a
rank.
"""
REMOTE_READING = (16, 512 << 20)

KEPT_FRACTION = 0.5
"""Share of `memory_bytes` for pictures: those that decoders hold which stay open between two visits
of their slices, and those of `EARLY_FRACTION`.
"""
READING_FRACTION = 0.25
"""Share of `memory_bytes` that is read ahead at the most, beside the rest."""

SHARED_FRACTION = 0.125
"""Share of `memory_bytes` for rows that one worker has parsed, for the others."""

SMALL_DATASET_BYTES = 64 << 20
"""Bytes of episodes of earlier pools that stay in memory, over all workers of a rank: what is read
again costs as much as decoding a few of its frames, which shows where episodes are short.
"""

MAX_LOOK_BACK = 32
"""Pictures kept of each slice for the windows of coming steps; of wider windows none are."""

EARLY_FRACTION = 0.25
"""Share of `memory_bytes`, out of `KEPT_FRACTION`, for pictures kept until their step begins; in
uniform order, where that saves decoding.
"""


class Resources:
    """What reads and decodes in this process: threads, and the episodes in memory."""

    def __init__(  # noqa: PLR0913 - keyword-only
        self,
        job: LoadJob,
        buffers: Buffers,
        counter: StatsCounter,
        *,
        shared: SharedEpisodes | None = None,
        cache: FrameCache | None = None,
        least_threads: int = 0,
        team: Team = ALONE,
    ) -> None:
        """Make what loads a job; nothing is read before it is needed.

        Args:
            job: What to load.
            buffers: Where batches are made.
            counter: What counts.
            shared: What this rank's workers share of what they have read; None: nothing.
            cache: Pictures of earlier epochs; None: none are kept.
            least_threads: Threads that decode, at least. 0: the one that waits for a batch may
                decode it itself; no interrupt may reach it, which would leave a decoder half-way.
            team: Which workers make steps together, and which of them this process is.
        """
        self.team = team
        config, sample = job.config, job.config.sample
        self.buffers = buffers
        self.counter = counter
        dataset = job.dataset if job.schedule is None else ConcatDataset(job.sources)
        memory = config.read.memory_bytes - (0 if shared is None else shared_bytes(job))
        memory //= max(1, config.split.num_workers)
        pictures, early = int(memory * KEPT_FRACTION), int(memory * _early_fraction(job))
        self.reads = EpisodePrefetcher(dataset, job.cameras, *_reading(job), counter)
        self.pool = EpisodePool(
            sources=job.sources,
            reads=self.reads,
            pictures=PictureSettings(
                image_size=sample.image_size,
                device=config.read.decode_device,
                look_back=_look_back(job),
                kept=KeptDecoders(pictures - early),
            ),
            most=_resident_episodes(job),
            max_bytes=memory - pictures,
            more_bytes=SMALL_DATASET_BYTES // max(1, config.split.num_workers),
            on_error=config.read.on_error,
            counter=counter,
            shared=shared,
        )
        self.threads = DecodeThreads(
            limit=_thread_limit(job, least_threads),
            pictures=job.pictures,
            as_float=not sample.return_uint8,
            buffers=buffers,
            counter=counter,
            early_bytes=early,
            cache=cache,
        )

    def close(self) -> None:
        """End the threads, and give the memory that they freed back."""
        self.reads.close()
        self.threads.close()
        return_freed_memory()


def shared_bytes(job: LoadJob) -> int:
    """Return how many bytes the workers of a rank share at the most for episodes that one of them
    has read.
    """
    return int(job.config.read.memory_bytes * SHARED_FRACTION)


def return_freed_memory() -> None:
    """Give the system what is free in the heaps: glibc has one per thread, and they would fill up
    in turn.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _thread_limit(job: LoadJob, least: int) -> ThreadLimit:
    """Return a limit: the threads that were asked for, else as many of the rank's cores as gain
    something.
    """
    read = job.config.read
    most = read.decode_threads or topology.default_threads(job.config.split.num_workers)
    sizes = [size for _, size in job.picture_sizes]
    is_free = read.decode_threads is None and read.decode_device == "cpu" and bool(sizes)
    return ThreadLimit(most, sum(sizes) / len(sizes) if is_free else None, least)


def _early_fraction(job: LoadJob) -> float:
    """Return the share of memory for pictures that are kept until their step begins. A GPU's memory
    is the user's.
    """
    is_cpu = job.config.read.decode_device == "cpu"
    return EARLY_FRACTION if is_cpu and not job.config.order.is_forward else 0.0


def _look_back(job: LoadJob) -> dict[str, int]:
    """Return camera -> frames by which windows of neighbouring samples overlap, where those are
    loaded in a row.
    """
    windows = {key: np.atleast_2d(job.offsets[key]) for key in job.cameras if key in job.offsets}
    spans = {key: int(np.ptp(frames, axis=1).max()) for key, frames in windows.items()}
    return {
        key: span
        for key, span in spans.items()
        if job.config.order.is_forward and 0 < span <= MAX_LOOK_BACK
    }


def _reading(job: LoadJob) -> tuple[int, int]:
    """Return how many threads read ahead in this process, and how many bytes."""
    is_local = all(storage.is_local(source.dataset.root) for source in job.sources)
    threads, num_bytes = LOCAL_READING if is_local else REMOTE_READING
    most = min(num_bytes, int(job.config.read.memory_bytes * READING_FRACTION))
    return threads, most // max(1, job.config.split.num_workers)


def _resident_episodes(job: LoadJob) -> int:
    """Return how many episodes to keep: the pools of this process's lanes, and one more each for
    the pool that follows.
    """
    split = job.config.split
    per_lane = [job.config.order.pool_episodes]
    if job.schedule is not None:
        per_lane = pool_sizes(job.config.order, job.schedule)
    lanes = split.max_world_size // split.world_size
    return lanes * sum(size + 1 for size in per_lane)

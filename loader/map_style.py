"""Map-style access: any sample by its number, without an order, an epoch or a state.

For evaluation and looking.
"""

import operator
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch.utils.data

from roboshard.common.errors import OptionError
from roboshard.common.option_values import whole_number
from roboshard.loader.batches.buffers import ReusedBuffers
from roboshard.loader.config import (
    ImageTransform,
    LoaderConfig,
    OnMissingByNumber,
    OrderConfig,
    ReadConfig,
    SampleConfig,
    SplitConfig,
)
from roboshard.loader.episode_table import EpisodeTable
from roboshard.loader.job import LoadJob, make_job
from roboshard.loader.meta import MapMeta
from roboshard.loader.missing import with_none
from roboshard.loader.mixtures.job import is_mixture
from roboshard.loader.order.plan import Draw
from roboshard.loader.resources import Resources
from roboshard.loader.samples.rows import Batch, delta_windows
from roboshard.loader.selection.config import EpisodePredicate, SelectionConfig, Split
from roboshard.loader.statistics.measure import DeclaredStatistics
from roboshard.loader.stats import StatsCounter
from roboshard.loader.transforms.images import transform_images
from roboshard.shards.locate import Urls
from roboshard.shards.snapshots import SnapshotName

RESIDENT_EPISODES = 8
"""Episodes kept in memory with their decoders: neighbours are mostly asked for in a row."""
ROWS_AT_ONCE = 16
"""Rows decoded together when an episode is gone through."""


def open_dataset(  # noqa: PLR0913 - keyword-only, the same names as make_loader's
    urls: Urls,
    *,
    delta_timestamps: Mapping[str, Sequence[float]] | None = None,
    episodes: Sequence[int] | EpisodePredicate | None = None,
    exclude_episodes: Sequence[int] | None = None,
    tasks: Collection[str] | None = None,
    split: Split | None = None,
    snapshot: SnapshotName | None = None,
    image_transforms: ImageTransform | None = None,
    return_uint8: bool = True,
    image_size: tuple[int, int] | None = None,
    tolerance_s: float = 1e-4,
    cameras: Sequence[str] | None = None,
    decode_threads: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int = 100 * 10**9,
    retry_seconds: float = 120.0,
    on_missing: OnMissingByNumber = "none",
) -> "MapDataset":
    """Open a dataset for access by number: `dataset[i]` is the sample that LeRobotDataset(...)[i]
    is.

    Args are those of `make_loader`. For training that is faster: samples asked for at random here
    cost a read and a decode each. One more choice for values that rows lack is the default here:
    `on_missing="none"` gives None for them, as LeRobot does. A `split` is that of a loader whose
    `seed` is 0, or the one that it names.

    Args:
        urls: the dataset's root, one shard, a brace pattern, or a list of shards.

    Returns:
        Samples by number, in dataset order.

    Raises:
        OptionError: an argument that cannot be used with this dataset.
        MissingError, FormatError, VersionError, DamageError, StorageError: no usable dataset at
            `urls`.

    Example:
        >>> dataset = open_dataset("my_dataset_shards", delta_timestamps={"action": [0.0, 0.1]})
        >>> dataset[3]["action"].shape
        torch.Size([2, 2])
    """
    config = LoaderConfig(
        order=OrderConfig(shuffle=False, pool_episodes=RESIDENT_EPISODES),
        selection=SelectionConfig(
            episodes=episodes, exclude_episodes=exclude_episodes, tasks=tasks, split=split
        ),
        sample=SampleConfig(
            delta_timestamps={} if delta_timestamps is None else delta_timestamps,
            tolerance_s=tolerance_s,
            cameras=cameras,
            image_transforms=image_transforms,
            return_uint8=return_uint8,
            image_size=image_size,
            on_missing=on_missing,
        ),
        split=SplitConfig(batch_size=None),
        read=ReadConfig(
            decode_threads=decode_threads,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            cache_bytes=cache_bytes,
            retry_s=retry_seconds,
        ),
    )
    if is_mixture(urls):
        raise OptionError("a mixture has no samples by number: open its datasets one by one")
    is_lenient = on_missing in ("none", "fill")
    return MapDataset(make_job(urls, config, snapshot=snapshot, is_lenient=is_lenient))


class MapDataset(torch.utils.data.Dataset[Batch]):
    """Samples by number, in dataset order.

    For any number of threads, which take turns; and processes.
    """

    absolute_to_relative_idx: None = None
    """LeRobot's trainer asks for it: the boundaries in `meta.episodes` are numbers of samples as
    they stand.
    """

    def __init__(self, job: LoadJob) -> None:
        """Read nothing before the first sample is asked for."""
        self._job = job
        chosen = job.dataset.index.episode_index[job.episodes.position]
        table = EpisodeTable(chosen, job.episodes.num_rows)
        self._meta = MapMeta(job.meta.manifest, table, _statistics=DeclaredStatistics(job))
        self._starts = np.concatenate([[0], np.cumsum(job.episodes.num_rows)]).astype(np.int64)
        self._of_process: dict[int, _OneProcess] = {}
        """Process id -> what loads there. A fork has those of its parent, and touches none of
        them.
        """

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy starts anew: threads and decoders belong to this one."""
        return MapDataset, (self._job,)

    @property
    def meta(self) -> MapMeta:
        """Features, stats, fps, tasks and camera keys of the dataset, and where each episode's
        samples lie.
        """
        return self._meta

    @property
    def episodes(self) -> list[int] | None:
        """Indices of the episodes that were chosen, ascending; None: all."""
        chosen: list[int] = self._meta.episodes.episode_index.tolist()
        return chosen if self._job.sources[0].is_chosen else None

    @property
    def num_episodes(self) -> int:
        """How many episodes were chosen."""
        return len(self._job.episodes)

    @property
    def num_frames(self) -> int:
        """How many samples there are: one per row."""
        return len(self)

    def __len__(self) -> int:
        """Return how many samples there are: one per row."""
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Batch:
        """Return the sample with this number, counted over the chosen episodes; negative ones from
        the end.

        Raises IndexError; DamageError, FormatError, MissingError, StorageError naming shard and
        episode.
        """
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Batch]:
        """Return several samples, decoded together: torch's DataLoader asks for a batch so."""
        if not len(numbers):
            return []
        batch = self._load(numbers, with_pictures=True)
        return [{key: values[i] for key, values in batch.items()} for i in range(len(numbers))]

    def rows(self, numbers: Sequence[int]) -> Batch:
        """Return several samples as one batch without their pictures, so that nothing is decoded.

        Key -> tensor (n, ...), or a list of n values: strings, or tensors with None among them
        where values are missing. Of no numbers too, (0, ...): their keys and types are those of the
        first sample.
        """
        return self._load(numbers, with_pictures=False)

    def episode(self, episode_index: int) -> "EpisodeView":
        """Return the samples of one episode, by its `episode_index`.

        Raises OptionError where it is not among the chosen.
        """
        found = self._meta.episodes.episode_index
        episode_index = whole_number("episode_index", episode_index)
        place = int(np.searchsorted(found, episode_index))
        if place == len(found) or found[place] != episode_index:
            raise OptionError(
                f"episode {episode_index} is not in the dataset (or not among the chosen "
                f"episodes), which has {len(found)} episodes from {found[0]} to {found[-1]}"
            )
        return EpisodeView(self, range(int(self._starts[place]), int(self._starts[place + 1])))

    def close(self) -> None:
        """End the threads and drop what is in memory; the next sample starts them again."""
        own = self._of_process.get(os.getpid())
        if own is not None:
            own.close()

    def _load(self, numbers: Sequence[int], *, with_pictures: bool) -> Batch:
        checked = [self._checked(number) for number in numbers]
        wanted = np.asarray(checked or [0], dtype=np.int64)  # which keys there are, a row tells
        place = np.searchsorted(self._starts, wanted, side="right") - 1
        episodes = self._job.episodes
        draw = Draw(
            step=0,
            positions=episodes.position[place],
            rows=episodes.rows(place, wanted - self._starts[place]),
        )
        process = os.getpid()
        own = self._of_process.get(process)
        if own is None:
            own = self._of_process.setdefault(process, _OneProcess(self._job))
        batch = own.load(draw, with_pictures=with_pictures)
        if not checked:
            batch = {key: values[:0] for key, values in batch.items()}
        fills = self._job.config.sample.on_missing != "none"
        return batch if fills else with_none(batch, self._meta.features)

    def _checked(self, number: int) -> int:
        number = operator.index(number)
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        return number % len(self)


class _OneProcess:
    """What loads samples in one process, for any number of its threads, which take turns."""

    def __init__(self, job: LoadJob) -> None:
        """Start nothing before the first sample is asked for."""
        self._job = job
        self._lock = threading.Lock()
        self._counter = StatsCounter()
        self._buffers = ReusedBuffers()
        self._resources: Resources | None = None
        self._close: Callable[[], object] | None = None
        """Ends the threads, if there are any; done too when nobody holds this any more."""

    def close(self) -> None:
        """End the threads and drop what is in memory; the next sample starts them again."""
        with self._lock:
            if self._close is not None:
                self._close()
            self._resources = self._close = None

    def load(self, draw: Draw, *, with_pictures: bool) -> Batch:
        """Return the samples of a draw as a batch: the stages of `pipeline.load`, for one step."""
        with self._lock:
            if self._resources is None:
                own = Resources(self._job, self._buffers, self._counter, least_threads=1)
                self._close = weakref.finalize(self, own.close)
                self._resources = own
            return self._load(draw, self._resources, with_pictures=with_pictures)

    def _load(self, draw: Draw, own: Resources, *, with_pictures: bool) -> Batch:
        job, counter = self._job, self._counter
        pictures = job.pictures if with_pictures else ()
        own.pool.expect([draw])
        step = own.pool.step(draw)
        (windowed,) = delta_windows([step], offsets=job.offsets, pictures=pictures, counter=counter)
        if not pictures:
            return windowed.values
        decoded = own.threads.wait_for(own.threads.begin(own.threads.announce(windowed))).batch()
        transform = job.config.sample.image_transforms
        if transform is None:
            return decoded
        return transform_images(
            decoded, keys=job.transformed, transform=transform, buffers=self._buffers
        )


class EpisodeView(Sequence[Batch]):
    """The samples of one episode, in order."""

    def __init__(self, dataset: MapDataset, numbers: range) -> None:
        self._dataset = dataset
        self.numbers = numbers
        """Numbers of the episode's samples in the dataset."""

    def __len__(self) -> int:
        """Return how many rows the episode has."""
        return len(self.numbers)

    @overload
    def __getitem__(self, row: int) -> Batch: ...

    @overload
    def __getitem__(self, row: slice) -> list[Batch]: ...

    def __getitem__(self, row: int | slice) -> Batch | list[Batch]:
        """Return the sample of a row, or the samples of a slice, decoded together."""
        if isinstance(row, slice):
            return self._dataset.__getitems__(self.numbers[row])
        return self._dataset[self.numbers[row]]

    def __iter__(self) -> Iterator[Batch]:
        """Yield the samples row by row, decoded a few at a time."""
        for first in range(0, len(self), ROWS_AT_ONCE):
            yield from self[first : first + ROWS_AT_ONCE]

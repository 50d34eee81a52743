"""A search for idle frames, stage by stage: open the dataset, read rows, find standstills, write
the ranges.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common import interrupts, jsonio
from roboshard.common.errors import FormatError, OptionError, RoboshardError
from roboshard.shards.features import SCALAR_DTYPES
from roboshard.shards.missing import is_list
from roboshard.shards.read_ahead import read_rows_ahead
from roboshard.shards.reader import EpisodeData, ShardedDataset
from roboshard.shards.rows import decode_rows
from roboshard.shards.schema import DatasetManifest
from roboshard.tools.idle.config import IdleConfig
from roboshard.tools.idle.motion import Ranges, kept_ranges

DEFAULT_FEATURES = ("action", "observation.state")

OnEpisode = Callable[[int, int], None]
"""A function that is told, after each episode, how many are done, of how many."""


@dataclass(frozen=True, kw_only=True)
class IdleEpisode:
    """An episode with idle frames."""

    episode_index: int
    length: int
    """How many frames the episode has."""
    kept: Ranges
    """(first, stop) of the frames that are left; none where nothing ever moves."""

    @property
    def dropped(self) -> int:
        """How many frames of the episode are dropped."""
        return self.length - sum(stop - first for first, stop in self.kept)


@dataclass(frozen=True, kw_only=True)
class IdleReport:
    """What a search for idle frames found."""

    features: tuple[str, ...]
    episodes: int
    """How many episodes were looked at."""
    frames: int
    """How many frames the episodes have that were looked at."""
    idle: list[IdleEpisode]
    """The episodes with idle frames, in order."""
    output: Path | None
    """The file that was written; None: none was."""

    @property
    def dropped(self) -> int:
        """How many frames are dropped in all episodes."""
        return sum(episode.dropped for episode in self.idle)


@interrupts.interruptible
def find_idle(config: IdleConfig, on_episode: OnEpisode | None = None) -> IdleReport:
    """Find frames in which nothing moves for long, and write the ranges of the others.

    Args:
        config: the dataset, what counts as motion, and where to write.
        on_episode: told of each episode that was looked at.

    Returns:
        What was found. Episodes without idle frames are in neither the report nor the file: they
        are used whole.

    Raises:
        OptionError: a feature that there is not, or that is of no numbers.
        MissingError, FormatError, VersionError, DamageError, StorageError: as opening and reading
            the dataset does.

    Example:
        >>> report = find_idle(IdleConfig(url="my_dataset_shards", seconds=0.5, dry_run=True))
        >>> (report.episodes, report.features)
        (14, ('action',))
    """
    dataset = ShardedDataset.open(config.url)
    features = _features(dataset.manifest, config)
    threshold = np.concatenate(
        [_threshold(dataset.manifest, feature, config) for feature in features]
    )
    most_still = config.seconds * dataset.manifest.fps * (1 + 1e-9)
    idle, count = [], len(dataset.index)
    for done, data in enumerate(read_rows_ahead(dataset, range(count)), start=1):
        interrupts.check()
        if isinstance(data, RoboshardError):
            raise data
        length, values = data.record.length, _values(data, features)
        if values.shape[1] != len(threshold) and len(threshold) != 1:
            raise FormatError(
                f"{data.where}: {values.shape[1]} numbers a row, the statistics have "
                f"{len(threshold)}"
            )
        kept = kept_ranges(values, threshold, most_still)
        if kept != [(0, length)]:
            index = data.record.episode_index
            idle.append(IdleEpisode(episode_index=index, length=length, kept=kept))
        if on_episode is not None:
            on_episode(done, count)
    if not config.dry_run:
        storage.write_bytes(config.output, _file(idle, config.output))
    return IdleReport(
        features=features,
        episodes=count,
        frames=int(dataset.index.length.sum()),
        idle=idle,
        output=None if config.dry_run else config.output,
    )


def _features(manifest: DatasetManifest, config: IdleConfig) -> tuple[str, ...]:
    there = [key for key, spec in manifest.features.items() if spec.get("dtype") in SCALAR_DTYPES]
    chosen = config.feature or tuple(key for key in DEFAULT_FEATURES if key in there)[:1]
    unknown = [key for key in chosen if key not in there]
    if unknown or not chosen:
        named = f"{unknown[0]!r} is not one" if unknown else "name one by --feature"
        raise OptionError(f"motion is that of a feature of numbers: {named}; there are {there}")
    return chosen


def _threshold(manifest: DatasetManifest, feature: str, config: IdleConfig) -> NDArray[np.float64]:
    """Return how much each number of a feature may change and be still."""
    if config.absolute:
        return np.full(1, config.threshold)
    stats: jsonio.Json = (manifest.stats or {}).get(feature)
    try:
        low, high = (np.asarray(stats[name], dtype=np.float64).ravel() for name in ("min", "max"))
        span = high - low
    except (TypeError, KeyError, ValueError):
        span = np.full(1, np.nan)
    if not np.isfinite(span).all():
        raise OptionError(
            f"the dataset's statistics have no range of {feature!r}: give a threshold in its own "
            "unit, as in --absolute --threshold 0.001"
        )
    return config.threshold * span


def _values(data: EpisodeData, features: Sequence[str]) -> NDArray[np.float64]:
    """Return the numbers of an episode's rows, (rows, numbers of all features)."""
    table = decode_rows(data.rows, data.where, data.record.length, features)
    columns = []
    for feature in features:
        if feature not in table.column_names:
            raise OptionError(f"{data.where}: the rows have no {feature!r}: name another --feature")
        values, has_gaps = table[feature].combine_chunks(), False
        while is_list(values.type):
            has_gaps |= values.null_count > 0
            values = values.flatten()
        if has_gaps or len(values) % max(1, table.num_rows):
            raise OptionError(
                f"{data.where}: rows lack {feature!r}, or have different numbers of values: name "
                "another --feature"
            )
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        columns.append(numbers.reshape(table.num_rows, -1))
    return np.concatenate(columns, axis=1)


def _file(idle: Sequence[IdleEpisode], output: Path) -> bytes:
    if output.suffix == ".json":
        return jsonio.dump({str(episode.episode_index): episode.kept for episode in idle})
    rows: list[tuple[int, int | None, int | None]] = []
    for episode in idle:
        if not episode.kept:
            rows.append((episode.episode_index, None, None))
        rows += [(episode.episode_index, first, stop) for first, stop in episode.kept]
    columns = {
        name: pa.array([row[place] for row in rows], pa.int64())
        for place, name in enumerate(("episode_index", "first", "stop"))
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return bytes(sink.getvalue())

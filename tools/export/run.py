"""An export from start to end: the file to read first.

open       dataset.json and the index, local or remote         shards.reader
choose     which episodes; whether they are numbered anew      shards.selection
episodes   one after the other, the next is read meanwhile:
  rows       into data files, a row group each                 rows.py
  videos     slices laid end to end, packets copied            video.py, timing.py
  metadata   the episode's own row, with where all that lies   meta.py, statistics.py
publish    info.json and the rest; the folder is renamed       meta.py, destination.py
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common import interrupts, jsonio
from roboshard.common.errors import OptionError, SourceError
from roboshard.common.selection import check_tasks, parse_episodes, select_episodes
from roboshard.shards.episode_tasks import read_episode_tasks
from roboshard.shards.reader import EpisodeData, ShardedDataset
from roboshard.shards.rows import read_episode_row
from roboshard.shards.scalars import scalars
from roboshard.shards.schema import DatasetManifest
from roboshard.shards.snapshots import parse_snapshot
from roboshard.tools.export.config import ExportConfig
from roboshard.tools.export.destination import whole_or_not_at_all
from roboshard.tools.export.layout import DATA_PATH, MATROSKA_VIDEO_PATH, VIDEO_PATH, Limits
from roboshard.tools.export.meta import (
    EpisodeRows,
    Row,
    as_format_errors,
    info_of,
    write_json,
    write_tasks,
)
from roboshard.tools.export.rows import TableFiles, numbered, rows_of, timestamps_of
from roboshard.tools.export.statistics import Statistics, completed, lacks, renumbered
from roboshard.tools.export.video import VideoFiles

OnEpisode = Callable[[int, int], None]
"""A function that is told, after each episode, how many are done, of how many."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export did."""

    destination: Path
    episodes: int
    frames: int
    data_files: int
    video_files: int
    renumbered: bool
    """Whether episodes are fewer than the source had, and count from 0 anew."""


@interrupts.interruptible
def export(config: ExportConfig, on_episode: OnEpisode | None = None) -> ExportReport:
    """Write a LeRobot v3 dataset from shards.

    Args:
        config: the shards, the destination, and which episodes.
        on_episode: told of each episode that was written.

    Returns:
        What was written.

    Raises:
        OptionError: options that cannot be used, or a destination that is not empty.
        SourceError: an episode cannot be put back exactly; with its number and the camera.
        DamageError, FormatError, MissingError, StorageError: of the shards, as `ShardedDataset`
            raises them.

    Example:
        >>> config = ExportConfig(
        ...     source="my_dataset_shards", destination="exported", episodes="0:3"
        ... )
        >>> export(config).episodes
        3
    """
    dataset = ShardedDataset.open(config.source, snapshot=parse_snapshot(config.snapshot))
    positions = _chosen(dataset, config)
    destination = storage.local_path(config.destination).resolve()
    with whole_or_not_at_all(destination) as folder:
        writer = _Writer(
            dataset,
            folder,
            num_rows=int(dataset.index.length[positions].sum()),
            is_whole=len(positions) == _total_episodes(dataset.manifest),
        )
        try:
            for done, episode in enumerate(_read_ahead(dataset, positions.tolist()), start=1):
                interrupts.check()
                writer.add(episode)
                if on_episode is not None:
                    on_episode(done, len(positions))
            return writer.finish(destination)
        finally:
            writer.close()


def _chosen(dataset: ShardedDataset, config: ExportConfig) -> NDArray[np.int64]:
    """Return the positions of the chosen episodes in the index."""
    index = dataset.index.episode_index
    wanted, excluded = (
        None if text is None else parse_episodes(text)
        for text in (config.episodes, config.exclude_episodes)
    )
    positions = np.searchsorted(index, select_episodes(index, wanted, excluded))
    if not config.tasks:
        return positions
    tasks = read_episode_tasks(dataset)
    check_tasks(config.tasks, tasks.texts)
    positions = positions[tasks.have_one_of(frozenset(config.tasks))[positions]]
    if not positions.size:
        raise OptionError(
            "no episode is left: none of those that were chosen has one of these tasks"
        )
    return positions


class _Writer:
    """A LeRobot dataset while it is written, episode by episode."""

    def __init__(
        self, dataset: ShardedDataset, folder: Path, *, num_rows: int, is_whole: bool
    ) -> None:
        self._source = dataset.manifest
        self._folder = folder
        self._is_whole = is_whole
        self._limits = Limits.of(self._source.info)
        _check_keys(dataset.camera_keys)
        self._rows = TableFiles(folder, DATA_PATH, self._limits)
        self._videos = {
            key: VideoFiles(folder, key, self._source.fps, self._limits)
            for key in dataset.camera_keys
        }
        self._metadata = EpisodeRows(folder, dataset.camera_keys)
        self._statistics = (
            None if self._holds_stats() else Statistics(dataset.manifest.features, num_rows)
        )
        self._episodes = self._frames = 0

    def add(self, episode: EpisodeData) -> None:
        """Write one episode: its rows, its videos, and its row of meta/episodes."""
        table = rows_of(episode)
        kept = read_episode_row(episode.rows, episode.where)
        if not self._is_whole:
            with as_format_errors(f"{episode.where}: its row of meta/episodes"):
                table, kept = self._renumber(table, kept)
        place = self._rows.place_for(table)
        self._rows.write(table)
        row = {
            "episode_index": self._episodes if not self._is_whole else episode.record.episode_index,
            "tasks": list(episode.record.tasks),
            "length": table.num_rows,
            "data/chunk_index": place.chunk,
            "data/file_index": place.file,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + table.num_rows,
            **self._add_videos(episode, table),
            "meta/episodes/chunk_index": 0,  # known when it is written
            "meta/episodes/file_index": 0,
        }
        others = {
            name: value
            for name, value in kept.items()
            if not name.startswith(("data/", "videos/", "meta/"))
        }
        row = {name: row.get(name, value) for name, value in (row | others).items()}
        with as_format_errors(f"{episode.where}: its row of meta/episodes"):
            self._metadata.add(row)
            if self._statistics is not None:
                self._statistics.add(row, table)
        self._episodes += 1
        self._frames += table.num_rows

    def finish(self, destination: Path) -> ExportReport:
        """Finish all files, write meta/, and return what was written."""
        self._rows.close()
        for videos in self._videos.values():
            videos.close()
        with as_format_errors("the rows of meta/episodes"):
            self._metadata.write(self._limits)
        meta = self._folder / "meta"
        info = info_of(
            self._source,
            episodes=self._episodes,
            frames=self._frames,
            is_whole=self._is_whole,
            video_path=self._name_videos(),
        )
        write_json(meta / "info.json", info)
        stats = self._stats()
        if stats is not None:
            write_json(meta / "stats.json", stats)
        write_tasks(meta / "tasks.parquet", self._source.task_texts, self._source.task_columns)
        return ExportReport(
            destination=destination,
            episodes=self._episodes,
            frames=self._frames,
            data_files=self._rows.count,
            video_files=sum(videos.count for videos in self._videos.values()),
            renumbered=not self._is_whole,
        )

    def _holds_stats(self) -> bool:
        """Whether the source's statistics are those of what is written: a v3 dataset comes back as
        it was.
        """
        source = self._source
        is_v3 = source.source.codebase_version.startswith("v3.")
        return self._is_whole and (is_v3 or not lacks(source.stats or {}, source.features))

    def _stats(self) -> dict[str, jsonio.Json] | None:
        """Return the statistics of what was written; None: there are none."""
        if self._statistics is None:
            return self._source.stats
        with as_format_errors("the statistics of the episodes"):
            found = self._statistics.result()
            return (completed(self._source.stats or {}, found) if self._is_whole else found) or None

    def _name_videos(self) -> str:
        """Return the template of the videos' paths, which are `.mkv` where one of them is a
        Matroska file.
        """
        if not any(videos.has_matroska for videos in self._videos.values()):
            return VIDEO_PATH
        for path in list((self._folder / "videos").rglob("chunk-*/file-*.mp4")):
            path.rename(path.with_suffix(".mkv"))
        return MATROSKA_VIDEO_PATH

    def close(self) -> None:
        """Close all files, after an error too."""
        self._rows.close()
        self._metadata.close()
        for videos in self._videos.values():
            videos.abandon()

    def _add_videos(self, episode: EpisodeData, table: pa.Table) -> Row:
        row: Row = {}
        cameras = {camera.key: camera for camera in episode.record.cameras}
        timestamps = timestamps_of(table) if self._videos else np.zeros(0)
        for key, files in self._videos.items():
            try:
                place, span = files.add(episode.videos[key], cameras[key], timestamps)
            except SourceError as error:
                raise SourceError(f"{episode.where}, camera {key!r}: {error}") from error
            row |= {
                f"videos/{key}/chunk_index": place.chunk,
                f"videos/{key}/file_index": place.file,
                f"videos/{key}/from_timestamp": span.from_s,
                f"videos/{key}/to_timestamp": span.to_s,
            }
        return row

    def _renumber(self, table: pa.Table, kept: Row) -> tuple[pa.Table, Row]:
        for name, first in (("episode_index", self._episodes), ("index", self._frames)):
            stored = scalars(table.column(name)) if name in table.column_names else None
            if stored is not None and np.isfinite(stored[0]):
                kept = renumbered(kept, name, first - int(stored[0]))
        return numbered(table, self._episodes, self._frames), kept


def _total_episodes(manifest: DatasetManifest) -> object:
    """Return how many episodes the source has that shards were made of."""
    return manifest.counted.get("total_episodes", manifest.info.get("total_episodes"))


def _check_keys(camera_keys: Sequence[str]) -> None:
    """Refuse keys that would lead out of the folder: they name folders there."""
    for key in camera_keys:
        if ".." in PurePosixPath(key).parts or "\0" in key or not key:
            raise OptionError(f"camera key {key!r} cannot name a folder of a LeRobot dataset")


def _read_ahead(dataset: ShardedDataset, positions: Sequence[int]) -> Iterator[EpisodeData]:
    """Yield the episodes in this order; while one is in use, the next is read."""
    with interrupts.thread_pool(1, "export-read") as reader:
        coming = reader.submit(dataset.read_episode, positions[0])
        for position in positions[1:]:
            episode, coming = coming.result(), reader.submit(dataset.read_episode, position)
            yield episode
        yield coming.result()

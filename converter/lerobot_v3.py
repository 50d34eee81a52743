"""Reading the metadata of a LeRobot v3 dataset.

Layout as lerobot 0.4 writes it: meta/info.json, meta/stats.json, meta/tasks.parquet, meta/episodes/**.parquet,
data files and video files that hold many episodes each, under the path templates that info.json gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard.converter.lerobot_common import (
    TAR_OVERHEAD,
    camera_keys,
    contradiction,
    fill,
    fingerprint_of,
    read_stats,
    size_of,
    total_problems,
)
from roboshard.converter.source import Episode, SourceMeta, VideoSpan
from roboshard.converter.source_files import SourceFiles
from roboshard.shards.errors import MissingError, SourceError
from roboshard.shards.names import MAX_EPISODES
from roboshard.shards.parquet_limits import check_source

TASKS, EPISODES = "meta/tasks.parquet", "meta/episodes/"
MAX_SECONDS = 1e9  # of a video file

_COLUMNS = {
    "episode_index": pa.int64(),
    "length": pa.int64(),
    "tasks": pa.list_(pa.string()),
    "data/chunk_index": pa.int64(),
    "data/file_index": pa.int64(),
    "dataset_from_index": pa.int64(),
}
_VIDEO_COLUMNS = {
    "chunk_index": pa.int64(),
    "file_index": pa.int64(),
    "from_timestamp": pa.float64(),
    "to_timestamp": pa.float64(),
}


class LeRobotV3Source:
    """A LeRobot v3.x dataset."""

    def __init__(self, files: SourceFiles, info: dict[str, Any]) -> None:
        """Read the metadata beside `info`. Raises MissingError or SourceError, naming file and field."""
        self.meta = SourceMeta(
            files=files,
            name=files.name,
            revision=files.revision,
            fingerprint="",
            codebase_version=str(info["codebase_version"]),
            fps=float(info["fps"]),
            features=info["features"],
            tasks=_read_tasks(files),
            tasks_path=TASKS,
            info=info,
            stats=read_stats(files),
            camera_keys=camera_keys(info),
        )
        self._table = _read_episodes(files, self.meta.camera_keys)
        self._check_totals()
        videos = (path for paths in self._video_paths.values() for path in paths.tolist())
        self.meta = replace(
            self.meta, fingerprint=fingerprint_of(files, (*self._rows_paths.tolist(), *videos))
        )

    @property
    def episode_indices(self) -> NDArray[np.int64]:
        """Indices of all episodes, ascending."""
        return self._column("episode_index")

    def episodes(self, indices: Sequence[int]) -> list[Episode]:
        """The episodes with these indices, in this order."""
        positions = np.searchsorted(self.episode_indices, indices)
        return [self._episode(row) for row in self._table.take(pa.array(positions)).to_pylist()]

    def estimated_bytes(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """An episode's share of each file that it lies in, by duration and by rows.

        Raises MissingError or SourceError where a file that one of them needs is not there.
        """
        lengths = self._column("length").astype(np.float64)
        chosen = np.searchsorted(self.episode_indices, indices)
        total = np.full(len(lengths), float(TAR_OVERHEAD))
        for paths, weights in self._file_shares(lengths):
            names, which = np.unique(paths, return_inverse=True)
            needed = np.unique(which[chosen])
            sizes = np.zeros(len(names))
            sizes[needed] = [self._size_of(name) for name in names[needed]]
            sums = np.bincount(which, weights=weights)
            total += sizes[which] * weights / sums[which]
        return total[chosen].astype(np.int64)

    def most_needed_at_once(self, indices: NDArray[np.int64]) -> tuple[int, int]:
        """(bytes of the data and video files that the neediest of these episodes lies in, its index)."""
        chosen = np.searchsorted(self.episode_indices, indices)
        total = np.zeros(len(chosen))
        for paths in (self._rows_paths, *self._video_paths.values()):
            names, which = np.unique(paths[chosen], return_inverse=True)
            total += np.array([self._size_of(name) for name in names], dtype=np.float64)[which]
        neediest = int(np.argmax(total))
        return int(total[neediest]), int(indices[neediest])

    def _file_shares(
        self, lengths: NDArray[np.float64]
    ) -> list[tuple[NDArray[np.str_], NDArray[np.float64]]]:
        shares = [
            (self._rows_paths, lengths),
            (self._column("metadata_path"), np.ones(len(lengths))),
        ]
        for key in self.meta.camera_keys:
            durations = self._column(f"videos/{key}/to_timestamp") - self._column(
                f"videos/{key}/from_timestamp"
            )
            shares.append((self._video_paths[key], np.maximum(durations, 1 / self.meta.fps)))
        return shares

    def _episode(self, row: dict[str, Any]) -> Episode:
        videos = {
            key: VideoSpan(
                path=self._video_path(
                    key, row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"]
                ),
                from_s=row[f"videos/{key}/from_timestamp"],
                to_s=row[f"videos/{key}/to_timestamp"],
            )
            for key in self.meta.camera_keys
        }
        return Episode(
            index=row["episode_index"],
            length=row["length"],
            tasks=tuple(row["tasks"]),
            rows_path=self._rows_path(row["data/chunk_index"], row["data/file_index"]),
            first_row=row["dataset_from_index"],
            videos=videos,
            metadata_path=row["metadata_path"],
            metadata_row=row["metadata_row"],
        )

    def _column(self, name: str) -> NDArray[Any]:
        return np.asarray(self._table.column(name).to_numpy())

    def _rows_path(self, chunk: int, file: int) -> str:
        return fill(self.meta.info, "data_path", chunk_index=chunk, file_index=file)

    def _video_path(self, key: str, chunk: int, file: int) -> str:
        return fill(self.meta.info, "video_path", video_key=key, chunk_index=chunk, file_index=file)

    @cached_property
    def _rows_paths(self) -> NDArray[np.str_]:
        chunks, files = self._column("data/chunk_index"), self._column("data/file_index")
        return np.array([self._rows_path(c, f) for c, f in zip(chunks, files, strict=True)])

    @cached_property
    def _video_paths(self) -> dict[str, NDArray[np.str_]]:
        return {
            key: np.array(
                [
                    self._video_path(key, chunk, file)
                    for chunk, file in zip(
                        self._column(f"videos/{key}/chunk_index"),
                        self._column(f"videos/{key}/file_index"),
                        strict=True,
                    )
                ]
            )
            for key in self.meta.camera_keys
        }

    def _size_of(self, path: str) -> int:
        return size_of(
            self.meta.files, path, lambda: f"meta/episodes names it for {self._users_of(path)}"
        )

    def _users_of(self, path: str) -> str:
        used = self._rows_paths == path
        for paths in self._video_paths.values():
            used = used | (paths == path)
        indices = self.episode_indices[used].tolist()
        return f"episode {', '.join(map(str, indices[:5]))}" + (", …" if len(indices) > 5 else "")

    def _check_totals(self) -> None:
        info, lengths, indices = self.meta.info, self._column("length"), self.episode_indices
        problems = []
        if len(set(indices.tolist())) != len(indices):
            problems.append("an episode_index occurs twice in meta/episodes")
        if lengths.size == 0 or lengths.min() < 1:
            problems.append("meta/episodes holds no episode, or one of length 0")
        problems += total_problems(info, len(indices), int(lengths.sum()), "meta/episodes")
        if indices.size and not (indices.min() >= 0 and indices.max() < MAX_EPISODES):
            problems.append(f"an episode_index is outside 0..{MAX_EPISODES - 1}")
        times = [
            f"videos/{key}/{end}_timestamp"
            for key in self.meta.camera_keys
            for end in ("from", "to")
        ]
        problems += [
            f"{name} is not between -{MAX_SECONDS:g} and {MAX_SECONDS:g} s everywhere"
            for name in times
            if not np.all(np.abs(self._column(name)) < MAX_SECONDS)  # nor is NaN
        ]
        if problems:
            raise contradiction(self.meta.files, problems)


def _read_tasks(files: SourceFiles) -> tuple[str, ...]:
    """Task texts in file order: LeRobot looks them up by position. They are the pandas index, whatever its name."""
    if TASKS not in files.metadata():
        return ()
    table = _read_parquet(files, TASKS)
    texts = [name for name in table.column_names if name != "task_index"]
    if len(texts) != 1:
        raise SourceError(
            f"{files.where(TASKS)}: expected task_index and one column of texts, found {table.column_names}"
        )
    return tuple(str(text) for text in table.column(texts[0]).to_pylist())


def _read_episodes(files: SourceFiles, camera_keys: Sequence[str]) -> pa.Table:
    """The needed columns of meta/episodes, ascending by episode_index, with where each row came from."""
    paths = [
        path for path in files.metadata() if path.startswith(EPISODES) and path.endswith(".parquet")
    ]
    if not paths:
        raise MissingError(f"{files.where('meta/episodes')}: no parquet file")
    columns = _COLUMNS | {
        f"videos/{key}/{name}": kind for key in camera_keys for name, kind in _VIDEO_COLUMNS.items()
    }
    tables = []
    for path in paths:
        table = _read_parquet(files, path, columns)
        tables.append(
            table.append_column("metadata_path", pa.array([path] * table.num_rows)).append_column(
                "metadata_row", pa.array(np.arange(table.num_rows))
            )
        )
    table = pa.concat_tables(tables).sort_by("episode_index")
    for name in table.column_names:
        if table.column(name).null_count:
            raise SourceError(
                f"{files.where('meta/episodes')}: column {name!r} has rows without a value"
            )
    return table


def _read_parquet(
    files: SourceFiles, path: str, columns: Mapping[str, pa.DataType] | None = None
) -> pa.Table:
    """The whole file, or `columns` of it, cast to these types."""
    try:
        file = pq.ParquetFile(files.metadata_path(path))
        check_source(file, files.metadata_path(path), files.where(path))
        names = file.schema_arrow.names if columns is None else list(columns)
        wrong = [name for name in names if file.schema_arrow.names.count(name) != 1]
        if wrong:
            raise SourceError(
                f"{files.where(path)}: no column {', '.join(map(repr, wrong))}, or several of that name"
            )
        table = file.read(columns=names).select(names)
        if columns is not None:
            table = table.cast(pa.schema(list(columns.items())))
        table.validate(full=True)
        return table
    except MissingError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{files.where(path)}: unreadable parquet: {error}") from error

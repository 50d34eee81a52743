"""Reading the metadata of a LeRobot v3 dataset from a local folder.

Layout as lerobot 0.4 writes it: meta/info.json, meta/stats.json, meta/tasks.parquet, meta/episodes/**.parquet,
data files and video files that hold many episodes each, under the path templates that info.json gives.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard.converter.source import Episode, SourceMeta, VideoSpan
from roboshard.shards import jsonio
from roboshard.shards.errors import MissingError, SourceError
from roboshard.shards.names import MAX_EPISODES

MAX_JSON_BYTES = 256 << 20
TAR_OVERHEAD = 4096  # headers, padding and record of a sample

MAX_SECONDS = 1e9  # of a video file

_FIELD = re.compile(r"\{\w+(:\d{1,2}d?)?\}")  # of a path template; format() itself can be made to fill the memory
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
    """A LeRobot v3.x dataset in a local folder."""

    def __init__(self, root: Path) -> None:
        """Read the metadata. Raises MissingError or SourceError, naming file and field."""
        info = _read_info(root)
        self.meta = SourceMeta(
            root=root,
            name=root.resolve().name,
            revision=None,
            fingerprint="",
            codebase_version=str(info["codebase_version"]),
            fps=float(info["fps"]),
            features=info["features"],
            tasks=_read_tasks(root),
            info=info,
            stats=_read_stats(root),
            camera_keys=tuple(key for key, spec in info["features"].items() if spec.get("dtype") == "video"),
        )
        self._table = _read_episodes(root, self.meta.camera_keys)
        self._check_totals()
        self.meta = replace(self.meta, fingerprint=self._fingerprint())

    @property
    def episode_indices(self) -> NDArray[np.int64]:
        """Indices of all episodes, ascending."""
        return self._column("episode_index")

    def episodes(self, indices: Sequence[int]) -> list[Episode]:
        """The episodes with these indices, in this order."""
        positions = np.searchsorted(self.episode_indices, indices)
        return [self._episode(row) for row in self._table.take(pa.array(positions)).to_pylist()]

    def estimated_bytes(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """An episode's share of each file that it lies in, by duration and by rows."""
        lengths = self._column("length").astype(np.float64)
        total = np.full(len(lengths), float(TAR_OVERHEAD))
        for paths, weights in self._file_shares(lengths):
            names, which = np.unique(paths, return_inverse=True)
            sizes = np.array([self._size_of(name) for name in names], dtype=np.float64)
            sums = np.bincount(which, weights=weights)
            total += sizes[which] * weights / sums[which]
        return total[np.searchsorted(self.episode_indices, indices)].astype(np.int64)

    def _file_shares(self, lengths: NDArray[np.float64]) -> list[tuple[NDArray[np.str_], NDArray[np.float64]]]:
        shares = [(self._rows_paths, lengths), (self._column("metadata_path"), np.ones(len(lengths)))]
        for key in self.meta.camera_keys:
            durations = self._column(f"videos/{key}/to_timestamp") - self._column(f"videos/{key}/from_timestamp")
            shares.append((self._video_paths[key], np.maximum(durations, 1 / self.meta.fps)))
        return shares

    def _episode(self, row: dict[str, Any]) -> Episode:
        videos = {
            key: VideoSpan(
                path=self._video_path(key, row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"]),
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
        return _fill(self.meta.info, "data_path", chunk_index=chunk, file_index=file)

    def _video_path(self, key: str, chunk: int, file: int) -> str:
        return _fill(self.meta.info, "video_path", video_key=key, chunk_index=chunk, file_index=file)

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
        try:
            return (self.meta.root / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(
                f"{self.meta.root / path}: missing, though meta/episodes names it for {self._users_of(path)}"
            ) from None
        except OSError as error:
            raise SourceError(
                f"{self.meta.root / path}: {error.strerror}; meta/episodes names it for {self._users_of(path)}"
            ) from error

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
        for name, found in (("total_episodes", len(indices)), ("total_frames", int(lengths.sum()))):
            if info.get(name) != found:
                problems.append(f"info.json says {name} {info.get(name)}, meta/episodes adds up to {found}")
        if indices.size and not (indices.min() >= 0 and indices.max() < MAX_EPISODES):
            problems.append(f"an episode_index is outside 0..{MAX_EPISODES - 1}")
        times = [f"videos/{key}/{end}_timestamp" for key in self.meta.camera_keys for end in ("from", "to")]
        problems += [
            f"{name} is not between -{MAX_SECONDS:g} and {MAX_SECONDS:g} s everywhere"
            for name in times
            if not np.all(np.abs(self._column(name)) < MAX_SECONDS)  # nor is NaN
        ]
        if problems:
            raise SourceError("\n  - ".join([f"{self.meta.root}: metadata contradicts itself:", *problems]))

    def _fingerprint(self) -> str:
        """SHA-256 over metadata contents and over names and sizes of data and video files."""
        digest = hashlib.sha256()
        meta_files = sorted(p for p in (self.meta.root / "meta").rglob("*") if p.suffix in (".json", ".parquet"))
        for path in meta_files:
            relative = path.relative_to(self.meta.root).as_posix()
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{relative} {content}\n".encode())
        others = {*self._rows_paths.tolist(), *(p for v in self._video_paths.values() for p in v.tolist())}
        for name in sorted(others):
            digest.update(f"{name} {self._size_of(name)}\n".encode())
        return digest.hexdigest()


def _read_info(root: Path) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise MissingError(
            f"{path}: no such file; SOURCE must be a LeRobot dataset folder with meta/, data/, videos/"
        )
    info = jsonio.load(path.read_bytes(), str(path), MAX_JSON_BYTES)
    version = info.get("codebase_version")
    if not (isinstance(version, str) and version.startswith("v3.")):
        raise SourceError(
            f"{path}: codebase_version {version!r}; this release reads v3.x. Bring older datasets up to date "
            "with `python -m lerobot.datasets.v30.convert_dataset_v21_to_v30`"
        )
    problems = []
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        problems.append(f"fps must be a positive number, not {fps!r}")
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(spec, dict) for spec in features.values()):
        problems.append("features must be an object of objects")
    elif any(spec.get("dtype") == "video" for spec in features.values()) and not info.get("video_path"):
        problems.append("video_path is missing, though there are video features")
    if not isinstance(info.get("data_path"), str):
        problems.append("data_path is missing")
    if problems:
        raise SourceError("\n  - ".join([f"{path}: not usable:", *problems]))
    return info


def _read_stats(root: Path) -> dict[str, Any] | None:
    path = root / "meta" / "stats.json"
    return jsonio.load(path.read_bytes(), str(path), MAX_JSON_BYTES) if path.is_file() else None


def _read_tasks(root: Path) -> tuple[str, ...]:
    """Task texts in file order: LeRobot looks them up by position. They are the pandas index, whatever its name."""
    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        return ()
    table = _read_parquet(path)
    texts = [name for name in table.column_names if name != "task_index"]
    if len(texts) != 1:
        raise SourceError(f"{path}: expected task_index and one column of texts, found {table.column_names}")
    return tuple(str(text) for text in table.column(texts[0]).to_pylist())


def _read_episodes(root: Path, camera_keys: Sequence[str]) -> pa.Table:
    """The needed columns of meta/episodes, ascending by episode_index, with where each row came from."""
    paths = sorted((root / "meta" / "episodes").glob("**/*.parquet"))
    if not paths:
        raise MissingError(f"{root / 'meta' / 'episodes'}: no parquet file")
    columns = _COLUMNS | {
        f"videos/{key}/{name}": kind for key in camera_keys for name, kind in _VIDEO_COLUMNS.items()
    }
    tables = []
    for path in paths:
        table = _read_parquet(path, columns)
        tables.append(
            table.append_column(
                "metadata_path", pa.array([path.relative_to(root).as_posix()] * table.num_rows)
            ).append_column("metadata_row", pa.array(np.arange(table.num_rows)))
        )
    table = pa.concat_tables(tables).sort_by("episode_index")
    for name in table.column_names:
        if table.column(name).null_count:
            raise SourceError(f"{root / 'meta' / 'episodes'}: column {name!r} has rows without a value")
    return table


def _read_parquet(path: Path, columns: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """The whole file, or `columns` of it, cast to these types."""
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names if columns is None else list(columns)
        wrong = [name for name in names if file.schema_arrow.names.count(name) != 1]
        if wrong:
            raise SourceError(f"{path}: no column {', '.join(map(repr, wrong))}, or several of that name")
        table = file.read(columns=names).select(names)
        if columns is not None:
            table = table.cast(pa.schema(list(columns.items())))
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: unreadable parquet: {error}") from error


def _fill(info: dict[str, Any], template: str, **values: object) -> str:
    """A path from one of info.json's templates. It must stay inside the dataset."""
    try:
        if "{" in _FIELD.sub("", str(info[template])):
            raise ValueError("fields are {name} or {name:03d}")
        path = str(info[template]).format(**values)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise SourceError(f"info.json: {template} {info.get(template)!r} cannot be filled: {error!r}") from None
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
        raise SourceError(f"info.json: {template} leads outside the dataset: {path!r}")
    return path

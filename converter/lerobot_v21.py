"""Reading the metadata of a LeRobot v2.1 dataset, or a v2.0 one.

Layout as lerobot 0.1 to 0.3 write it: meta/info.json, meta/tasks.jsonl, meta/episodes.jsonl, a parquet file per
episode, an MP4 file per episode and camera, under the path templates that info.json gives. Statistics are in
meta/episodes_stats.jsonl, of each episode (v2.1), or in meta/stats.json, of them all (v2.0); the rest is the same.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.converter.lerobot_common import (
    INFO,
    TAR_OVERHEAD,
    camera_keys,
    contradiction,
    fill,
    fingerprint_of,
    read_stats,
    size_of,
    total_problems,
)
from roboshard.converter.lerobot_stats import FeatureStats, read_feature
from roboshard.converter.source import Episode, SourceMeta, VideoSpan
from roboshard.converter.source_files import SourceFiles
from roboshard.shards import jsonio
from roboshard.shards.errors import SourceError
from roboshard.shards.names import MAX_EPISODES
from roboshard.shards.schema import MAX_FRAMES

TASKS, EPISODES, EPISODES_STATS = (
    "meta/tasks.jsonl",
    "meta/episodes.jsonl",
    "meta/episodes_stats.jsonl",
)
MAX_LINE_BYTES = (
    7 << 20
)  # two of them, an episode and its statistics, fit into what a shard holds of it
MAX_TASKS = 10**6


class LeRobotV21Source:
    """A LeRobot v2.1 or v2.0 dataset."""

    def __init__(self, files: SourceFiles, info: dict[str, Any]) -> None:
        """Read the metadata beside `info`. Raises MissingError or SourceError, naming file, line and field."""
        self._files, self._info = files, info
        self._keys = camera_keys(info)
        self._chunk_size = _chunk_size(files, info)
        lengths: dict[int, int] = {}
        self._lines = _EpisodeLines.scan(
            files, EPISODES, lambda line: lengths.update({line.episode: _check_episode(line)})
        )
        self._indices = self._lines.indices
        self._lengths = np.array(
            [lengths[index] for index in self._indices.tolist()], dtype=np.int64
        )
        self._first_rows = np.cumsum(self._lengths) - self._lengths
        problems = total_problems(info, len(self._indices), int(self._lengths.sum()), EPISODES)
        if not self._indices.size:
            problems.insert(0, f"{EPISODES} holds no episode")
        if problems:
            raise contradiction(files, problems)
        self._stats_lines: _EpisodeLines | None = None
        self.meta = SourceMeta(
            files=files,
            name=files.name,
            revision=files.revision,
            fingerprint=fingerprint_of(files, self._all_paths()),
            codebase_version=str(info["codebase_version"]),
            fps=float(info["fps"]),
            features=info["features"],
            tasks=_read_tasks(files),
            tasks_path=TASKS,
            info=info,
            stats=self._read_stats(),
            camera_keys=self._keys,
        )

    @property
    def episode_indices(self) -> NDArray[np.int64]:
        """Indices of all episodes, ascending."""
        return self._indices

    def episodes(self, indices: Sequence[int]) -> list[Episode]:
        """The episodes with these indices, in this order."""
        lines = self._lines.read(indices)
        stats = self._stats_lines.read(indices) if self._stats_lines else [None] * len(indices)
        return [self._episode(line, of_stats) for line, of_stats in zip(lines, stats, strict=True)]

    def estimated_bytes(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sizes of each episode's files, and of what is said of it.

        Raises MissingError or SourceError where a file that one of them needs is not there.
        """
        total = np.array([self._bytes_of(index) for index in indices.tolist()], dtype=np.int64)
        for lines in (self._lines, self._stats_lines):
            if lines:
                total += lines.sizes[np.searchsorted(self._indices, indices)]
        return total + TAR_OVERHEAD

    def most_needed_at_once(self, indices: NDArray[np.int64]) -> tuple[int, int]:
        """(bytes of the data and video files of the neediest of these episodes, its index)."""
        needed = [self._bytes_of(index) for index in indices.tolist()]
        neediest = int(np.argmax(needed))
        return needed[neediest], int(indices[neediest])

    def _episode(self, line: "_Line", stats: "_Line | None") -> Episode:
        position = int(np.searchsorted(self._indices, line.episode))
        rows, *videos = self._paths(line.episode)
        return Episode(
            index=line.episode,
            length=int(self._lengths[position]),
            tasks=tuple(line.value["tasks"]),
            rows_path=rows,
            first_row=int(self._first_rows[position]),
            videos={
                key: VideoSpan(path=path, from_s=0.0, to_s=math.inf)
                for key, path in zip(self._keys, videos, strict=True)
            },
            metadata_path=EPISODES,
            metadata_row=line.number - 1,
            metadata=line.value | _flat_stats(stats),
        )

    def _paths(self, episode: int) -> list[str]:
        """The files of an episode: rows first, then a video for each camera."""
        fields = {"episode_chunk": episode // self._chunk_size, "episode_index": episode}
        videos = (fill(self._info, "video_path", video_key=key, **fields) for key in self._keys)
        return [fill(self._info, "data_path", **fields), *videos]

    def _bytes_of(self, episode: int) -> int:
        named = f"{EPISODES} lists episode {episode}"
        return sum(size_of(self._files, path, lambda: named) for path in self._paths(episode))

    def _all_paths(self) -> list[str]:
        """Every data and video file: each is of one episode and, if it is a video, of one camera."""
        paths = [path for index in self._indices.tolist() for path in self._paths(index)]
        twice = next((path for path, count in Counter(paths).items() if count > 1), None)
        if twice is not None:
            raise SourceError(
                f"info.json: data_path and video_path give {twice!r} to several episodes or cameras"
            )
        return paths

    def _read_stats(self) -> dict[str, Any] | None:
        if self._info["codebase_version"] == "v2.0" or EPISODES_STATS not in self._files.metadata():
            return read_stats(self._files)
        features: dict[str, FeatureStats] = {}

        def add(line: _Line) -> None:
            stats = line.value.get("stats")
            if not isinstance(stats, dict):
                raise SourceError(f"{line.where}: stats must be an object, not {stats!r:.80}")
            for key, of_feature in stats.items():
                where = f"{line.where}: {key!r}"
                features.setdefault(key, FeatureStats()).add(
                    line.episode, read_feature(of_feature, where), where
                )

        self._stats_lines = _EpisodeLines.scan(self._files, EPISODES_STATS, add)
        odd = np.setxor1d(self._stats_lines.indices, self._indices)
        if odd.size:
            raise contradiction(
                self._files, [f"{EPISODES} and {EPISODES_STATS} do not both have episode {odd[0]}"]
            )
        return {key: feature.aggregate() for key, feature in features.items()}


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line of a file in JSON Lines."""

    where: str
    """File and line number, as messages name them."""
    number: int
    """From 1 on."""
    offset: int
    size: int
    value: dict[str, Any]

    @property
    def episode(self) -> int:
        """Its episode_index."""
        return self.integer("episode_index", 0, MAX_EPISODES - 1)

    def integer(self, name: str, least: int, most: int) -> int:
        """A field that must be an integer within bounds."""
        value = self.value.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise SourceError(
                f"{self.where}: {name} must be an integer in {least}..{most}, not {value!r:.80}"
            )
        return value


@dataclass(frozen=True, kw_only=True)
class _EpisodeLines:
    """A file in JSON Lines with one line for each episode: where they lie. They are read when they are needed."""

    files: SourceFiles
    path: str
    indices: NDArray[np.int64]
    """episode_index of each, ascending."""
    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    numbers: NDArray[np.int64]

    @classmethod
    def scan(cls, files: SourceFiles, path: str, use: Callable[[_Line], None]) -> "_EpisodeLines":
        """Read the whole file, and `use` each line once."""
        places: list[tuple[int, int, int, int]] = []
        for line in _read_lines(files, path):
            use(line)
            places.append((line.episode, line.size, line.offset, line.number))
        columns = np.array(sorted(places), dtype=np.int64).reshape(-1, 4).T
        indices, sizes, offsets, numbers = columns
        twice = indices[1:][np.diff(indices) == 0]
        if twice.size:
            raise contradiction(files, [f"episode_index {twice[0]} occurs twice in {path}"])
        return cls(
            files=files, path=path, indices=indices, sizes=sizes, offsets=offsets, numbers=numbers
        )

    def read(self, indices: Sequence[int]) -> list[_Line]:
        """The lines of these episodes, in this order."""
        lines = []
        with self.files.metadata_path(self.path).open("rb") as file:
            for position in np.searchsorted(self.indices, indices).tolist():
                file.seek(int(self.offsets[position]))
                data = file.read(int(self.sizes[position]))
                number = int(self.numbers[position])
                lines.append(
                    _parse(self.files, self.path, number, int(self.offsets[position]), data)
                )
        return lines


def _read_lines(files: SourceFiles, path: str) -> Iterator[_Line]:
    """All lines but empty ones."""
    number = offset = 0
    with files.metadata_path(path).open("rb") as file:
        while data := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if data.strip() or len(data) > MAX_LINE_BYTES:
                yield _parse(files, path, number, offset, data)
            offset += len(data)


def _parse(files: SourceFiles, path: str, number: int, offset: int, data: bytes) -> _Line:
    where = f"{files.where(path)}, line {number}"
    value = jsonio.load(data, where, MAX_LINE_BYTES)
    return _Line(where=where, number=number, offset=offset, size=len(data), value=value)


def _read_tasks(files: SourceFiles) -> tuple[str, ...]:
    """Task texts by task_index, whatever the order of their lines; rows look them up by position."""
    if TASKS not in files.metadata():
        return ()
    tasks: dict[int, str] = {}
    for line in _read_lines(files, TASKS):
        index, text = line.integer("task_index", 0, MAX_TASKS), line.value.get("task")
        if not isinstance(text, str):
            raise SourceError(f"{line.where}: task must be a text, not {text!r:.80}")
        if index in tasks:
            raise SourceError(f"{line.where}: task_index {index} occurs twice")
        tasks[index] = text
    missing = next((index for index in range(len(tasks)) if index not in tasks), None)
    if missing is not None:
        raise SourceError(
            f"{files.where(TASKS)}: no line has task_index {missing}, though there are higher ones"
        )
    return tuple(tasks[index] for index in range(len(tasks)))


def _chunk_size(files: SourceFiles, info: dict[str, Any]) -> int:
    """Episodes in each chunk-* folder."""
    size = info.get("chunks_size")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SourceError(
            f"{files.where(INFO)}: chunks_size must be a positive integer, not {size!r:.80}"
        )
    return size


def _check_episode(line: _Line) -> int:
    """The rows of an episode, whose line must have what is read of it later."""
    tasks = line.value.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise SourceError(f"{line.where}: tasks must be a list of texts, not {tasks!r:.80}")
    return line.integer("length", 1, MAX_FRAMES)


def _flat_stats(line: _Line | None) -> dict[str, Any]:
    """An episode's statistics under the names that LeRobot v3 gives them beside the rest of its metadata."""
    stats = line.value["stats"] if line else {}
    return {
        f"stats/{key}/{name}": value
        for key, of_feature in stats.items()
        for name, value in of_feature.items()
    }

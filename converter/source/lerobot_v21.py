"""Reading the metadata of a LeRobot v2.1 dataset, or a v2.0 one.

Layout as lerobot 0.1 to 0.3 write it: meta/info.json, meta/tasks.jsonl, meta/episodes.jsonl, a
parquet file per episode, an MP4 file per episode and camera, under the path templates that
info.json gives. Statistics are in meta/episodes_stats.jsonl, of each episode (v2.1), or in
meta/stats.json, of them all (v2.0); the rest is the same.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import SourceError
from roboshard.converter.source.api import Episode, SourceMeta, VideoSpan
from roboshard.converter.source.files import SourceFiles
from roboshard.converter.source.findings import Report, finding
from roboshard.converter.source.json_lines import EpisodeLines, Line
from roboshard.converter.source.lerobot_common import (
    INFO,
    TAR_OVERHEAD,
    camera_keys,
    fill,
    fingerprint_of,
    read_stats,
    size_of,
    unknown_dtypes,
)
from roboshard.converter.source.lerobot_v21_stats import flat_stats, read_episode_stats
from roboshard.converter.source.row_hints import Listed, RowHints
from roboshard.converter.source.tasks import read_task_lines
from roboshard.shards.documents import MAX_FRAMES, Finding

EPISODES, EPISODES_STATS = "meta/episodes.jsonl", "meta/episodes_stats.jsonl"
DEFAULT_CHUNK_SIZE = 1000
"""Episodes in each chunk-* folder by LeRobot's default."""


class LeRobotV21Source:
    """A LeRobot v2.1 or v2.0 dataset."""

    def __init__(
        self, files: SourceFiles, info: dict[str, Any], findings: Sequence[Finding] = ()
    ) -> None:
        """Read the metadata beside `info`, in which `findings` were odd.

        Raises MissingError or SourceError, naming file, line and field.
        """
        self._files, self._info = files, info
        self._keys = camera_keys(info)
        found = list(findings)
        self._chunk_size = _chunk_size(files, info, found.append)
        stated = _Stated(found.append)
        self._lines = EpisodeLines.scan(files, EPISODES, stated.add, found.append)
        stated.report()
        lengths = [stated.lengths[index] for index in self._lines.indices.tolist()]
        self._first_rows = _first_rows(lengths)
        self._stats_lines: EpisodeLines | None = None
        paths = self._all_paths()
        listed = Listed(
            indices=self._lines.indices,
            lengths=lengths,
            paths=[self._paths(index)[0] for index in self._lines.indices.tolist()],
            where=EPISODES,
            has_cameras=bool(self._keys),
        )
        self._hints = RowHints(files, None, listed)
        counted = self._hints.check(info, found.append)
        tasks = read_task_lines(files, found.append)
        stats = self._read_stats(found.append)
        self.meta = SourceMeta(
            files=files,
            fingerprint=fingerprint_of(files, {*paths, *self._hints.all_paths}),
            tasks=tasks,
            info=info,
            stats=stats,
            data_depth=None,
            counted=counted,
            findings=(*found, *unknown_dtypes(info["features"])),
        )

    @property
    def episode_indices(self) -> NDArray[np.int64]:
        """Indices of all episodes, ascending."""
        return self._hints.episodes

    def episodes(self, indices: Sequence[int]) -> list[Episode]:
        """The episodes with these indices, in this order."""
        lines = self._lines.read(indices)
        stats = self._stats_lines.read(indices) if self._stats_lines else [None] * len(indices)
        return [
            self._episode(index, line, of_stats)
            for index, line, of_stats in zip(indices, lines, stats, strict=True)
        ]

    def estimated_bytes(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of each episode's files, of what the metadata says of it, and of its tar headers.

        Raises MissingError or SourceError where a file that one of them needs is not there.
        """
        total = np.array([self._bytes_of(index) for index in indices.tolist()], dtype=np.int64)
        for lines in (self._lines, self._stats_lines):
            if lines:
                total += lines.sizes_of(indices)
        return total + TAR_OVERHEAD

    def most_needed_at_once(self, indices: NDArray[np.int64]) -> tuple[int, int]:
        """(bytes of the data and video files of the neediest of these episodes, its index)."""
        needed = [self._bytes_of(index) for index in indices.tolist()]
        neediest = int(np.argmax(needed))
        return needed[neediest], int(indices[neediest])

    def _episode(self, index: int, line: Line | None, stats: Line | None) -> Episode:
        position = int(self._hints.positions(np.array([index], dtype=np.int64))[0])
        rows, *videos = self._paths(index)
        return Episode(
            index=index,
            length=None if line is None else stated_length(line),
            tasks=None if line is None else stated_tasks(line),
            rows_path=None if line is None else rows,
            first_row=None if line is None else self._first_rows[position],
            pieces=self._hints.pieces(index),
            videos={
                key: VideoSpan(path=path, from_s=0.0, to_s=math.inf)
                for key, path in zip(self._keys, videos, strict=True)
            },
            metadata_path=EPISODES if line is not None else "",
            metadata_row=0 if line is None else line.number - 1,
            metadata=None if line is None else line.value | flat_stats(stats),
        )

    def _paths(self, episode: int) -> list[str]:
        """The files of an episode: rows first, then a video for each camera."""
        fields = {"episode_chunk": episode // self._chunk_size, "episode_index": episode}
        videos = (fill(self._info, "video_path", video_key=key, **fields) for key in self._keys)
        return [fill(self._info, "data_path", **fields), *videos]

    def _bytes_of(self, episode: int) -> int:
        rows, *videos = self._paths(episode)
        pieces = self._hints.pieces(episode)
        needed = {piece.path for piece in pieces} if pieces else {rows}
        named = f"{EPISODES} lists episode {episode}"
        return sum(size_of(self._files, path, lambda: named) for path in (*sorted(needed), *videos))

    def _all_paths(self) -> list[str]:
        """Every data and video file: each is of one episode and, if it is a video, of one
        camera.
        """
        paths = [path for index in self._lines.indices.tolist() for path in self._paths(index)]
        twice = next((path for path, count in Counter(paths).items() if count > 1), None)
        if twice is not None:
            raise SourceError(
                f"info.json: data_path and video_path give {twice!r} to several episodes or "
                "cameras; correct them"
            )
        return paths

    def _read_stats(self, report: Report) -> dict[str, Any] | None:
        if self._info["codebase_version"].endswith("2.0") or (
            EPISODES_STATS not in self._files.metadata()
        ):
            return read_stats(self._files, report)
        self._stats_lines, stats = read_episode_stats(
            self._files, EPISODES_STATS, self._lines.indices, report
        )
        return stats


class _Stated:
    """What the lines of episodes.jsonl say, and in how many of them something is missing."""

    def __init__(self, report: Report) -> None:
        self.lengths: dict[int, int | None] = {}
        self._without: dict[str, list[int]] = {"length": [], "tasks": []}
        self._report = report

    def add(self, line: Line) -> None:
        """Take in a line of episodes.jsonl."""
        self.lengths[line.episode] = stated_length(line)
        for name, value in (("length", stated_length(line)), ("tasks", stated_tasks(line))):
            if value is None or value != _exactly(line.value.get(name)):
                self._without[name].append(line.number)

    def report(self) -> None:
        """Report what is odd in all lines that were taken in."""
        for name, numbers in self._without.items():
            if numbers:
                what = (
                    f"{name} is missing, or of another type, in {len(numbers)} lines, "
                    f"the first line {numbers[0]}"
                )
                self._report(finding("metadata-missing", EPISODES, what))


def stated_length(line: Line) -> int | None:
    """An episode's rows as its line says; 6.0 is 6, and what is no number of rows says nothing."""
    try:
        return line.integer("length", 1, MAX_FRAMES)
    except SourceError:
        return None


def stated_tasks(line: Line) -> tuple[str, ...] | None:
    """An episode's tasks as its line says; a text is a task, and what is no list of texts says
    nothing.
    """
    tasks = line.value.get("tasks")
    if isinstance(tasks, str):
        return (tasks,)
    if not isinstance(tasks, list) or not all(isinstance(task, str | None) for task in tasks):
        return None
    return tuple(task or "" for task in tasks)


def _exactly(value: object) -> object:
    """A field as it compares with what was read of it, if it is of the type that LeRobot writes."""
    if isinstance(value, list):
        return tuple(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _first_rows(lengths: Sequence[int | None]) -> list[int | None]:
    """`index` of each episode's first row, as far as lengths say it."""
    first: list[int | None] = [0]
    for length in lengths:
        before = first[-1]
        first.append(None if before is None or length is None else before + length)
    return first[:-1]


def _chunk_size(files: SourceFiles, info: dict[str, Any], report: Report) -> int:
    """Episodes in each chunk-* folder."""
    size = info.get("chunks_size")
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if "chunks_size" not in info:
        report(finding("info-field-missing", INFO, "there is no chunks_size"))
        return DEFAULT_CHUNK_SIZE
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SourceError(
            f"{files.where(INFO)}: chunks_size must be a positive integer, not {size!r:.80}; "
            "correct it"
        )
    return size

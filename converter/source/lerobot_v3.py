"""Reading the metadata of a LeRobot v3 dataset.

Layout as lerobot 0.4 writes it: meta/info.json, meta/stats.json, meta/tasks.parquet,
meta/episodes/**.parquet, data files and video files that hold many episodes each, under the path
templates that info.json gives.
"""

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roboshard.common.selection import some
from roboshard.converter.source.api import Episode, SourceMeta, VideoSpan
from roboshard.converter.source.files import SourceFiles
from roboshard.converter.source.findings import Report, finding
from roboshard.converter.source.lerobot_common import (
    TAR_OVERHEAD,
    camera_keys,
    fill,
    fingerprint_of,
    read_stats,
    size_of,
    unknown_dtypes,
    with_data_path,
)
from roboshard.converter.source.lerobot_v3_episodes import MAX_SECONDS, read_episodes, read_table
from roboshard.converter.source.row_hints import Listed, RowHints
from roboshard.converter.source.tasks import read_task_table
from roboshard.shards.documents import Finding

DATA_DEPTH = 2
"""Folders that LeRobot looks for data files below: data/ and one more."""


class LeRobotV3Source:
    """A LeRobot v3.x dataset."""

    def __init__(
        self, files: SourceFiles, info: dict[str, Any], findings: Sequence[Finding] = ()
    ) -> None:
        """Read the metadata beside `info`, in which `findings` were odd.

        Raises MissingError or SourceError, naming file and field.
        """
        found = list(findings)
        self._files, self._keys = files, camera_keys(info)
        self._info = with_data_path(info, found.append)
        self._table = read_episodes(files, self._keys, found.append)
        lengths = self._stated("length")
        _check_lengths(lengths, found.append)
        listed = Listed(
            indices=self._column("episode_index"),
            lengths=[length if length and length > 0 else None for length in lengths],
            paths=self._hinted_paths(),
            where="meta/episodes",
            has_cameras=bool(self._keys),
        )
        self._hints = RowHints(files, DATA_DEPTH, listed)
        counted = self._hints.check(info, found.append)
        self._check_order(found.append)
        videos = (path for paths in self._video_paths.values() for path in paths.tolist())
        self.meta = SourceMeta(
            files=files,
            fingerprint=fingerprint_of(files, (*self._hints.all_paths, *videos)),
            tasks=read_task_table(files, read_table, found.append),
            info=info,
            stats=read_stats(files, found.append),
            data_depth=DATA_DEPTH,
            counted=counted,
            findings=(*found, *unknown_dtypes(info["features"])),
        )

    @property
    def episode_indices(self) -> NDArray[np.int64]:
        """Indices of all episodes, ascending."""
        return self._hints.episodes

    def episodes(self, indices: Sequence[int]) -> list[Episode]:
        """The episodes with these indices, in this order."""
        listed = self._hints.positions(np.asarray(indices, dtype=np.int64))
        rows = iter(self._table.take(pa.array(listed[listed >= 0])).to_pylist())
        return [
            self._episode(next(rows), position) if position >= 0 else self._unlisted(index)
            for index, position in zip(indices, listed.tolist(), strict=True)
        ]

    def estimated_bytes(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of each episode by its share of each file that it lies in, by duration and by rows.

        Raises MissingError or SourceError where a file that one of them needs is not there.
        """
        lengths = self._hints.known_lengths.astype(np.float64)
        positions = self._hints.positions(indices)
        chosen = positions[positions >= 0]
        total = np.full(len(lengths), float(TAR_OVERHEAD))
        for paths, weights in self._file_shares(lengths):
            names, which = np.unique(paths, return_inverse=True)
            needed = np.unique(which[chosen])
            sizes = np.zeros(len(names))
            sizes[needed] = [self._size_of(name) for name in names[needed]]
            sums = np.bincount(which, weights=weights)
            total += sizes[which] * weights / sums[which]
        shares = np.full(len(indices), TAR_OVERHEAD, dtype=np.int64)
        shares[positions >= 0] = total[chosen].astype(np.int64)
        return shares

    def most_needed_at_once(self, indices: NDArray[np.int64]) -> tuple[int, int]:
        """(bytes of the data and video files that the neediest of these episodes lies in, its
        index).
        """
        positions = self._hints.positions(indices)
        chosen = positions[positions >= 0]
        total = np.zeros(len(chosen))
        for paths in (self._rows_paths, *self._video_paths.values()):
            names, which = np.unique(paths[chosen], return_inverse=True)
            total += np.array([self._size_of(name) for name in names], dtype=np.float64)[which]
        if not total.size:
            return 0, int(indices[0])
        neediest = int(np.argmax(total))
        return int(total[neediest]), int(self._hints.indices[chosen[neediest]])

    def _file_shares(
        self, lengths: NDArray[np.float64]
    ) -> list[tuple[NDArray[np.str_], NDArray[np.float64]]]:
        shares = [
            (self._rows_paths, lengths),
            (self._column("metadata_path"), np.ones(len(lengths))),
        ]
        for key in self._keys:
            begin = self._column(f"videos/{key}/from_timestamp")
            durations = self._ends(key) - begin
            durations = np.where(np.isfinite(durations), durations, lengths / self._info["fps"])
            shares.append((self._video_paths[key], np.maximum(durations, 1 / self._info["fps"])))
        return shares

    def _episode(self, row: dict[str, Any], position: int) -> Episode:
        tasks = row["tasks"]
        length = row["length"]
        return Episode(
            index=row["episode_index"],
            length=length if length and length > 0 else None,
            tasks=None if tasks is None else tuple(text or "" for text in tasks),
            rows_path=self._hints.paths[position],
            first_row=row["dataset_from_index"],
            pieces=self._hints.pieces(row["episode_index"]),
            videos={key: self._span(key, position) for key in self._keys},
            metadata_path=row["metadata_path"],
            metadata_row=row["metadata_row"],
        )

    def _unlisted(self, index: int) -> Episode:
        """An episode that only the rows tell of."""
        return Episode(
            index=index,
            length=None,
            tasks=None,
            rows_path=None,
            first_row=None,
            pieces=self._hints.pieces(index),
            videos={},
            metadata_path="",
            metadata_row=0,
        )

    def _span(self, key: str, position: int) -> VideoSpan:
        return VideoSpan(
            path=str(self._video_paths[key][position]),
            from_s=float(self._column(f"videos/{key}/from_timestamp")[position]),
            to_s=float(self._ends(key)[position]),
            limit_s=float(self._limits[key][position]),
        )

    def _column(self, name: str) -> NDArray[Any]:
        return np.asarray(self._table.column(name).to_numpy())

    def _stated(self, name: str) -> list[Any]:
        """Return a column of meta/episodes in which values may be missing: they are None."""
        values: list[Any] = self._table.column(name).to_pylist()
        return values

    def _ends(self, key: str) -> NDArray[np.float64]:
        """(listed,) to_timestamp of a camera, in seconds; infinite where it says nothing."""
        ends = np.asarray(self._column(f"videos/{key}/to_timestamp"), dtype=np.float64)
        return np.where(np.abs(ends) < MAX_SECONDS, ends, np.inf)

    @cached_property
    def _limits(self) -> dict[str, NDArray[np.float64]]:
        """Camera key -> (listed,) when the next frames of another episode begin in the same file,
        in seconds; infinite: none do.
        """
        limits = {}
        for key in self._keys:
            begin, limit = self._column(f"videos/{key}/from_timestamp"), []
            paths, which = np.unique(self._video_paths[key], return_inverse=True)
            starts = [np.unique(begin[which == number]) for number in range(len(paths))]
            for time, number in zip(begin.tolist(), which.tolist(), strict=True):
                after = np.searchsorted(starts[number], time, side="right")
                limit.append(
                    float(starts[number][after]) if after < len(starts[number]) else math.inf
                )
            limits[key] = np.array(limit)
        return limits

    def _hinted_paths(self) -> list[str | None]:
        """The data file that meta/episodes names for each episode; None: it names none."""
        numbers = zip(
            self._stated("data/chunk_index"), self._stated("data/file_index"), strict=True
        )
        return [
            None
            if chunk is None or file is None
            else fill(self._info, "data_path", chunk_index=chunk, file_index=file)
            for chunk, file in numbers
        ]

    @cached_property
    def _rows_paths(self) -> NDArray[np.str_]:
        """The data file in which each episode begins, as far as that is known."""
        return np.array([path or "" for path in self._hints.begin_in])

    @cached_property
    def _video_paths(self) -> dict[str, NDArray[np.str_]]:
        return {
            key: np.array(
                [
                    fill(
                        self._info, "video_path", video_key=key, chunk_index=chunk, file_index=file
                    )
                    for chunk, file in zip(
                        self._column(f"videos/{key}/chunk_index"),
                        self._column(f"videos/{key}/file_index"),
                        strict=True,
                    )
                ],
                dtype=np.str_,
            )
            for key in self._keys
        }

    def _size_of(self, path: str) -> int:
        if not path:  # of rows that have to be looked for
            return 0
        return size_of(
            self._files, path, lambda: f"meta/episodes names it for {self._users_of(path)}"
        )

    def _users_of(self, path: str) -> str:
        used = self._rows_paths == path
        for paths in self._video_paths.values():
            used = used | (paths == path)
        return f"episode {some(self._hints.indices[used].tolist(), 5)}"

    def _check_order(self, report: Report) -> None:
        first = [value for value in self._stated("dataset_from_index") if value is not None]
        if self._hints.is_mapped or all(a <= b for a, b in itertools.pairwise(first)):
            return
        report(
            finding(
                "rows-out-of-order",
                "meta/episodes",
                "dataset_from_index falls from one to the next",
            )
        )


def _check_lengths(lengths: Sequence[int | None], report: Report) -> None:
    none = [row for row, length in enumerate(lengths) if length is not None and length < 1]
    if none:
        what = f"{len(none)} rows have a length below 1, the first {lengths[none[0]]}"
        report(finding("metadata-missing", "meta/episodes", what))

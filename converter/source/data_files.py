"""Where the rows of each episode lie, found by what the rows say: one pass over the data files'
episode_index.

Metadata tells the same, but may be wrong. This is asked only where it is: most sources never pay
for it.
"""

import io
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard.common.errors import RoboshardError, SourceError
from roboshard.converter.source.api import RowPiece
from roboshard.converter.source.files import SourceFiles, refuse_pointer
from roboshard.shards.scalars import scalars

DATA_FOLDER = "data"
THREADS = 8
"""Files that are looked into at once."""
BLOCK_BYTES = 64 << 10
"""Bytes of a remote file that are read together: a footer and the pages of one column are small."""


def data_paths(files: SourceFiles, *, depth: int | None) -> list[str]:
    """The parquet files below data/ in the order in which LeRobot reads them.

    Args:
        files: the source.
        depth: folders that a file lies below, data/ included, as LeRobot v3 looks for them; None:
            any number.
    """
    return [
        path
        for path in files.listed(DATA_FOLDER)
        if path.endswith(".parquet") and (depth is None or path.count("/") == depth)
    ]


@dataclass(frozen=True, kw_only=True)
class RowMap:
    """Which rows of which data files belong to which episode."""

    paths: tuple[str, ...]
    """All data files, in LeRobot's order."""
    unreadable: tuple[tuple[str, str], ...]
    """Files that could not be read, and why."""
    num_unowned: int
    """How many rows have no episode_index."""
    is_in_order: bool
    """Whether the rows lie in the order of their episodes."""
    episodes: NDArray[np.int64]
    """(runs,) the episode of each run of neighbouring rows, ascending; runs of one episode in
    LeRobot's order of rows.
    """
    files: NDArray[np.int64]
    """(runs,) the number in `paths` of each run's file."""
    starts: NDArray[np.int64]
    """(runs,) the first row of each run in its file."""
    stops: NDArray[np.int64]
    """(runs,) the row after the last one of each run in its file."""

    @property
    def found(self) -> NDArray[np.int64]:
        """Episodes that have rows, ascending."""
        return np.unique(self.episodes)

    @property
    def num_rows(self) -> int:
        """How many rows all episodes have together."""
        return int((self.stops - self.starts).sum())

    def pieces(self, episode: int) -> tuple[RowPiece, ...]:
        """Return where the rows of an episode lie, in LeRobot's order."""
        first, last = np.searchsorted(self.episodes, [episode, episode + 1]).tolist()
        return tuple(
            RowPiece(
                path=self.paths[int(self.files[run])],
                start=int(self.starts[run]),
                stop=int(self.stops[run]),
            )
            for run in range(first, last)
        )


def map_rows(files: SourceFiles, depth: int | None) -> RowMap:
    """Look into all data files; the result is kept as long as they do not change.

    Args:
        files: the source.
        depth: as for `data_paths`.
    """
    paths = tuple(data_paths(files, depth=depth))
    return _mapped(_Kept(files, tuple(_state(files, path) for path in paths)), paths)


@dataclass(frozen=True)
class _Kept:
    """What a map of rows is kept for: a source's files as they are now."""

    files: SourceFiles
    states: tuple[Hashable, ...]


@lru_cache(maxsize=2)
def _mapped(kept: _Kept, paths: tuple[str, ...]) -> RowMap:
    with ThreadPoolExecutor(THREADS, "roboshard-rows") as pool:
        columns = list(pool.map(partial(_look_into, kept.files), paths))
    unreadable, runs, unowned = [], [np.zeros((0, 4), dtype=np.int64)], 0
    for number, (path, column) in enumerate(zip(paths, columns, strict=True)):
        if isinstance(column, str):
            unreadable.append((path, column))
            continue
        unowned += int(np.sum(column < 0))
        runs.append(_runs_of(number, column))
    found = np.concatenate(runs)
    order = np.argsort(found[:, 0], kind="stable")
    episodes, numbers, starts, stops = found[order].T
    return RowMap(
        is_in_order=bool(np.all(np.diff(order) > 0)),
        paths=paths,
        unreadable=tuple(unreadable),
        num_unowned=unowned,
        episodes=episodes,
        files=numbers,
        starts=starts,
        stops=stops,
    )


def _runs_of(number: int, column: NDArray[np.int64]) -> NDArray[np.int64]:
    """(runs, 4) episode, file, first row, row after the last; rows without an episode are left
    out.
    """
    starts = np.flatnonzero(np.diff(column, prepend=np.int64(-2)))
    stops = np.append(starts, len(column))[1:].astype(np.int64)
    runs = np.stack([column[starts], np.full(len(starts), number), starts, stops], axis=1)
    owned: NDArray[np.int64] = runs[runs[:, 0] >= 0]
    return owned


def _look_into(files: SourceFiles, path: str) -> NDArray[np.int64] | str:
    """The file's `episode_index`, or what is wrong with it."""
    try:
        if files.folder is not None:
            refuse_pointer(files.folder / path, path)
            return episode_column(pq.ParquetFile(files.folder / path, memory_map=True), path)
        with pa.PythonFile(RangeFile(files, path), mode="r") as file:
            return episode_column(pq.ParquetFile(file), path)
    except (RoboshardError, pa.ArrowException, OSError, UnicodeDecodeError) as error:
        return str(error)


def episode_column(file: Any, where: str) -> NDArray[np.int64]:
    """(rows,) the episode of each row of a parquet file; -1: it has none.

    Raises SourceError where there is no such column of numbers; `where` names the file.
    """
    column = None
    if file.schema_arrow.names.count("episode_index") == 1:
        column = scalars(file.read(columns=["episode_index"], use_threads=False).column(0))
    if column is None:
        raise SourceError(
            f"{where}: no column 'episode_index' of numbers, or several of that name; rows are "
            "told apart by it: write it anew"
        )
    whole = np.where(np.isfinite(column), column, -1) if column.dtype.kind == "f" else column
    numbers: NDArray[np.int64] = whole.astype(np.int64)
    return np.where(numbers == whole, numbers, -1)


class RangeFile(io.RawIOBase):
    """A file of a source as something to read and seek in, by ranges in blocks: for what is read of
    it in part.
    """

    def __init__(self, files: SourceFiles, path: str) -> None:
        """Open a file of the source. Raises SourceError where there is none."""
        size = files.size(path)
        if size is None:
            raise SourceError(f"{files.where(path)}: no such file")
        self._files, self._path, self._size = files, path, size
        self._position = 0
        self._block = (0, b"")

    def readable(self) -> bool:
        """Return True: the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: the file can be read anywhere."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position of the file, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position at which the file is read next."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, less at the file's end; return how many bytes were read."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self._size - self._position))
        view[:wanted] = self._read(wanted)
        self._position += wanted
        return wanted

    def _read(self, length: int) -> bytes:
        start, data = self._block
        if not start <= self._position <= self._position + length <= start + len(data):
            start = min(self._position, max(0, self._size - BLOCK_BYTES))  # footers: from the end
            stop = min(self._size, max(start + BLOCK_BYTES, self._position + length))
            data = self._files.read_range(self._path, start, stop - start)
            self._block = start, data
        return data[self._position - start :][:length]


def _state(files: SourceFiles, path: str) -> Hashable:
    """Return what changes when the file does: its size, and of a local file its time and inode."""
    if files.folder is None:
        return files.size(path)
    status = (files.folder / path).stat()
    return status.st_size, status.st_mtime_ns, status.st_ino

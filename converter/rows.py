"""An episode's rows from the source's data files, checked against its metadata."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard.converter.source import Episode
from roboshard.converter.source_files import HeldFiles, SourceFiles
from roboshard.shards.errors import MissingError, SourceError
from roboshard.shards.jsonio import Json
from roboshard.shards.parquet_limits import check_source
from roboshard.shards.rows import as_stored

METADATA_BLOCK = (
    64  # rows of a hundred columns: converting them together costs little more than one would
)


class RowReader:
    """Reads episodes' rows; keeps the row group read last, which consecutive episodes often share."""

    def __init__(self, files: SourceFiles, held: HeldFiles) -> None:
        """Read metadata from `files`, and rows from those of them that are `held`."""
        self._source = files
        self._held = held
        self._files: OrderedDict[str, _DataFile] = OrderedDict()
        self._metadata: tuple[str, pa.Table] | None = None
        self._metadata_block: tuple[tuple[str, int], list[dict[str, Json]]] | None = None

    def rows(self, episode: Episode) -> pa.Table:
        """All columns of the episode's rows. Raises SourceError where they contradict its metadata."""
        file = self._file(episode.rows_path)
        where = f"{self._source.where(episode.rows_path)}, episode {episode.index}"
        start, stop = file.find(episode.index, where)
        if stop - start != episode.length:
            raise SourceError(
                f"{where}: {stop - start} rows where meta/episodes says {episode.length}"
            )
        table = as_stored(file.read(start, stop, where))
        _check_rows(table, episode, where)
        return table

    def close_file(self, path: str) -> None:
        """Close a data file, if it is open."""
        file = self._files.pop(path, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close all data files."""
        for path in list(self._files):
            self.close_file(path)

    def metadata_row(self, episode: Episode) -> dict[str, Json]:
        """The episode's row of meta/episodes, verbatim."""
        if episode.metadata is not None:
            return dict(episode.metadata)
        block, row = divmod(episode.metadata_row, METADATA_BLOCK)
        if self._metadata_block is None or self._metadata_block[0] != (
            episode.metadata_path,
            block,
        ):
            table = self._metadata_table(episode.metadata_path)
            rows = table.slice(block * METADATA_BLOCK, METADATA_BLOCK).to_pylist()
            self._metadata_block = (episode.metadata_path, block), rows
        return self._metadata_block[1][row]

    def _metadata_table(self, name: str) -> pa.Table:
        if self._metadata is None or self._metadata[0] != name:
            where = self._source.where(name)
            file = _open(self._source.metadata_path(name), where)
            with _readable(where):
                self._metadata = (name, file.read(use_threads=False))
        return self._metadata[1]

    def _file(self, path: str) -> "_DataFile":
        if path not in self._files:
            where = self._source.where(path)
            self._files[path] = _DataFile(_open(self._held.path(path), where), where)
            if len(self._files) > 2:
                self._files.popitem(last=False)[1].close()
        return self._files[path]


class _DataFile:
    """One parquet file of the source: where each episode's rows are, and its row groups one at a time."""

    def __init__(self, file: Any, where: str) -> None:
        self._file = file
        _check_columns(file.schema_arrow, where)
        with _readable(where):
            self._episodes = (
                file.read(columns=["episode_index"], use_threads=False).column(0).to_numpy()
            )
        counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self._bounds = np.cumsum([0, *counts])
        self._group: tuple[int, pa.Table] | None = None

    def close(self) -> None:
        """Close the file, and forget what may lie in its mapped memory."""
        self._group = None
        self._file.close(force=True)

    def find(self, episode: int, where: str) -> tuple[int, int]:
        """First row and row after the last of an episode."""
        rows = np.flatnonzero(self._episodes == episode)
        if rows.size == 0:
            raise SourceError(f"{where}: the file holds no row of it")
        if rows[-1] - rows[0] + 1 != rows.size:
            raise SourceError(f"{where}: its rows are not adjacent")
        return int(rows[0]), int(rows[-1]) + 1

    def read(self, start: int, stop: int, where: str) -> pa.Table:
        """Rows start..stop-1."""
        first = int(np.searchsorted(self._bounds, start, side="right")) - 1
        last = int(np.searchsorted(self._bounds, stop, side="left"))
        with _readable(where):
            parts = [self._read_group(group) for group in range(first, last)]
        offset = int(self._bounds[first])
        return pa.concat_tables(parts).slice(start - offset, stop - start)

    def _read_group(self, group: int) -> pa.Table:
        if self._group is None or self._group[0] != group:
            self._group = (group, self._file.read_row_group(group, use_threads=False))
        return self._group[1]


def timestamps_of(rows: pa.Table) -> NDArray[np.float32]:
    """(rows,) float32 timestamps in seconds since the episode's start."""
    return np.asarray(rows.column("timestamp").to_numpy(), dtype=np.float32)


def _check_rows(table: pa.Table, episode: Episode, where: str) -> None:
    for name, first in (("frame_index", 0), ("index", episode.first_row)):
        values = table.column(name).to_numpy()
        wrong = np.flatnonzero(values != np.arange(first, first + episode.length))
        if wrong.size:
            row = int(wrong[0])
            raise SourceError(
                f"{where}: row {row} has {name} {values[row]} where {first + row} is expected"
            )


def _check_columns(schema: pa.Schema, where: str) -> None:
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise SourceError(f"{where}: several columns of the name {', '.join(map(repr, twice))}")
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        types = [schema.field(i).type for i in schema.get_all_field_indices(name)]
        if len(types) > 1 or (not types and name != "task_index"):
            raise SourceError(f"{where}: no column {name!r}, or several of that name")
        if types and not (pa.types.is_integer(types[0]) or pa.types.is_floating(types[0])):
            raise SourceError(f"{where}: column {name!r} holds {types[0]}, not numbers")


def _open(path: Path, where: str) -> Any:
    if not path.is_file():
        raise MissingError(f"{where}: no such file")
    with _readable(where):
        file = pq.ParquetFile(path, memory_map=True)
        check_source(file, path, where)
        return file


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Damage to a parquet file that shows while it is read, as a SourceError that names `what`."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{what}: unreadable parquet: {error}") from error

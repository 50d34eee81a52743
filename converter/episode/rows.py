"""An episode's rows from the source's data files: found by what they say, whatever the metadata
says of them.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roboshard.common.errors import MissingError, SourceError
from roboshard.common.jsonio import Json
from roboshard.converter.source.api import Episode, RowPiece
from roboshard.converter.source.data_files import data_paths, episode_column, map_rows
from roboshard.converter.source.files import HeldFiles, SourceFiles, refuse_pointer
from roboshard.converter.source.findings import finding
from roboshard.converter.source.plain import plain_row, without_nanoseconds
from roboshard.shards.documents import Finding
from roboshard.shards.parquet_limits import check_source
from roboshard.shards.rows import as_stored, unreadable

METADATA_BLOCK = (
    64  # rows of a hundred columns: converting them together costs little more than one would
)

Hold = Callable[[Set[str]], None]
"""Makes sure that these files can be opened, and no others of the episode's rows."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRows:
    """All columns of an episode's rows."""

    table: pa.Table
    where: str
    """The file that the rows begin in, and the episode, as messages name them."""
    place: str
    """File and episode as in `where`, by names that say nothing of where the source lies."""
    findings: tuple[Finding, ...]
    """What is odd in where the rows lie."""


class RowReader:
    """Reads episodes' rows; keeps the row group read last, which consecutive episodes often
    share.
    """

    def __init__(self, files: SourceFiles, held: HeldFiles, depth: int | None) -> None:
        """Read metadata from `files`, and rows from those of them that are `held`.

        `depth` says which files of data/ hold rows, as for `data_paths`.
        """
        self._source = files
        self._held = held
        self._depth = depth
        self._files: OrderedDict[str, _DataFile] = OrderedDict()
        self._metadata: tuple[str, pa.Table, list[str]] | None = None
        self._metadata_block: tuple[tuple[str, int], list[dict[str, Json]]] | None = None

    def read(self, episode: Episode, hold: Hold) -> EpisodeRows:
        """All rows of an episode.

        Raises SourceError where there are none, or they cannot be read.
        """
        pieces = self._pieces(episode, hold)
        hold({piece.path for piece in pieces})
        where = f"{self._source.where(pieces[0].path)}, episode {episode.index}"
        parts = [self._file(piece.path).read(piece.start, piece.stop, where) for piece in pieces]
        try:
            together = pa.concat_tables(
                parts, promote_options="permissive" if len(parts) > 1 else "none"
            )
        except pa.ArrowException as error:
            raise SourceError(
                f"{where}: its rows in {len(parts)} places have columns of other types: {error}; "
                "write them anew with one type a column"
            ) from error
        place = f"{pieces[0].path}, episode {episode.index}"
        return EpisodeRows(
            table=as_stored(together),
            where=where,
            place=place,
            findings=tuple(_of_places(episode, pieces, place)),
        )

    def close_file(self, path: str) -> None:
        """Close a data file, if it is open."""
        file = self._files.pop(path, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close all data files."""
        for path in list(self._files):
            self.close_file(path)

    def metadata_row(self, episode: Episode) -> tuple[dict[str, Json], list[str]]:
        """(the episode's row of meta/episodes as JSON, fields of it that JSON has no type for: they
        are text).
        """
        if not episode.metadata_path:
            return {}, []
        if episode.metadata is not None:
            return plain_row(episode.metadata)
        table, texts = self._metadata_table(episode.metadata_path)
        block, row = divmod(episode.metadata_row, METADATA_BLOCK)
        if self._metadata_block is None or self._metadata_block[0] != (
            episode.metadata_path,
            block,
        ):
            with _readable(self._source.where(episode.metadata_path)):
                rows = table.slice(block * METADATA_BLOCK, METADATA_BLOCK).to_pylist()
            self._metadata_block = (episode.metadata_path, block), rows
        plain, others = plain_row(self._metadata_block[1][row])
        return plain, [*texts, *others]

    def _pieces(self, episode: Episode, hold: Hold) -> tuple[RowPiece, ...]:
        """Where the rows lie: as it is known, as the metadata says, in the files beside that one,
        or in any.
        """
        if episode.pieces is None:
            for path in self._likely(episode):
                hold({path})
                pieces = self._file(path).pieces(episode.index, path)
                if len(pieces) == 1 and _num_rows(pieces) == episode.length:
                    return pieces
        if episode.pieces:
            return episode.pieces
        mapped = map_rows(self._source, self._depth)
        if pieces := mapped.pieces(episode.index):
            return pieces
        named = self._source.where(episode.rows_path or "data")
        unreadable = "".join(
            f"; {path} could not be read: {why}" for path, why in mapped.unreadable
        )
        raise SourceError(
            f"{named}, episode {episode.index}: no data file holds a row of it, though the "
            f"metadata lists it{unreadable}. Bring its rows, or leave it out by --episodes or "
            "--on-error skip"
        )

    def _likely(self, episode: Episode) -> Iterator[str]:
        """The file that the metadata names, then, if it has none of the rows, those beside it.

        LeRobot's converter from v2.1 names the one before, for the episode at each file boundary.
        """
        named = episode.rows_path
        if named is None or episode.length is None or self._source.size(named) is None:
            return
        yield named
        if not self._file(named).pieces(episode.index, named):
            paths = data_paths(self._source, depth=self._depth)
            if named in paths:
                at = paths.index(named)
                yield from paths[at + 1 : at + 2] + paths[max(0, at - 1) : at]

    def _metadata_table(self, name: str) -> tuple[pa.Table, list[str]]:
        if self._metadata is None or self._metadata[0] != name:
            where = self._source.where(name)
            file = _open(self._source.metadata_path(name), where)
            with _readable(where):
                self._metadata = (name, *without_nanoseconds(file.read(use_threads=False)))
        return self._metadata[1:]

    def _file(self, path: str) -> "_DataFile":
        if path not in self._files:
            where = self._source.where(path)
            self._files[path] = _DataFile(_open(self._held.path(path), where), where)
            if len(self._files) > 2:
                self._files.popitem(last=False)[1].close()
        return self._files[path]


class _DataFile:
    """One parquet file of the source: where each episode's rows are, and its row groups one at a
    time.
    """

    def __init__(self, file: Any, where: str) -> None:
        self._file = file
        self._where = where
        with _readable(where):
            self._episodes = episode_column(file, where)
        counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self._bounds = np.cumsum([0, *counts])
        self._group: tuple[int, pa.Table] | None = None

    def close(self) -> None:
        """Close the file, and forget what may lie in its mapped memory."""
        self._group = None
        self._file.close(force=True)

    def pieces(self, episode: int, path: str) -> tuple[RowPiece, ...]:
        """Return where the rows of an episode lie in the file, known as `path` in the source."""
        rows = np.flatnonzero(self._episodes == episode)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if rows.size else []
        return tuple(RowPiece(path=path, start=int(run[0]), stop=int(run[-1]) + 1) for run in runs)

    def read(self, start: int, stop: int, where: str) -> pa.Table:
        """Return rows `start` to `stop - 1` of the file."""
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


def _of_places(episode: Episode, pieces: tuple[RowPiece, ...], place: str) -> Iterator[Finding]:
    """What is odd in where an episode's rows lie."""
    paths = list(dict.fromkeys(piece.path for piece in pieces))
    if len(paths) > 1:
        yield finding("rows-in-several-files", place, f"its rows lie in {', '.join(paths)}")
    elif episode.rows_path not in (None, paths[0]):
        yield finding("rows-in-another-file", place, f"the metadata names {episode.rows_path}")
    if len(pieces) > len(paths):
        yield finding("rows-not-adjacent", place, f"its rows lie in {len(pieces)} places")
    if episode.length not in (None, _num_rows(pieces)):
        yield finding(
            "length-differs",
            place,
            f"{_num_rows(pieces)} rows where the metadata says {episode.length}",
        )


def _num_rows(pieces: tuple[RowPiece, ...]) -> int:
    return sum(piece.stop - piece.start for piece in pieces)


def _open(path: Path, where: str) -> Any:
    if not path.is_file():
        raise MissingError(f"{where}: no such file")
    refuse_pointer(path, where)
    with _readable(where):
        file = pq.ParquetFile(path, memory_map=True)
        check_source(file, path, where)
        return file


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Damage to a parquet file that shows while it is read, as a SourceError that names `what`."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        if isinstance(error, SourceError | MissingError):
            raise
        raise SourceError(unreadable(what, error)) from error

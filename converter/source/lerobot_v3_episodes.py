"""Reading meta/episodes of a LeRobot v3 dataset: what it must say of an episode, and what it
may.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roboshard.common.errors import MissingError, SourceError
from roboshard.converter.source.files import SourceFiles, refuse_pointer
from roboshard.converter.source.findings import Report, finding
from roboshard.shards.names import MAX_EPISODES
from roboshard.shards.parquet_limits import check_source

FOLDER = "meta/episodes/"
MAX_SECONDS = 1e9  # of a video file
INDEX = {"episode_index": pa.int64()}
HINTS = {
    "length": pa.int64(),
    "tasks": pa.list_(pa.string()),
    "data/chunk_index": pa.int64(),
    "data/file_index": pa.int64(),
    "dataset_from_index": pa.int64(),
}
"""Columns of meta/episodes, with their types, that say what the rows say too."""
VIDEO = {"chunk_index": pa.int64(), "file_index": pa.int64(), "from_timestamp": pa.float64()}
"""Columns of a camera in meta/episodes, with their types, that say what nothing else says."""


def read_episodes(files: SourceFiles, camera_keys: Sequence[str], report: Report) -> pa.Table:
    """The columns of meta/episodes that are used, ascending by episode_index, with where each row
    came from.

    Args:
        files: the source.
        camera_keys: its cameras.
        report: told what is odd.

    Returns:
        A table in which what `HINTS` and `to_timestamp` say may be null.

    Raises:
        MissingError, SourceError: naming file, column and episode.
    """
    paths = [
        path for path in files.metadata() if path.startswith(FOLDER) and path.endswith(".parquet")
    ]
    if not paths:
        raise MissingError(
            f"{files.where('meta/episodes')}: no parquet file; bring meta/episodes of the dataset, "
            "all of it"
        )
    needed = INDEX | {
        f"videos/{key}/{name}": kind for key in camera_keys for name, kind in VIDEO.items()
    }
    hints = HINTS | {f"videos/{key}/to_timestamp": pa.float64() for key in camera_keys}
    tables = []
    for path in paths:
        table = _read_columns(files, path, needed, hints, report)
        tables.append(
            table.append_column("metadata_path", pa.array([path] * table.num_rows)).append_column(
                "metadata_row", pa.array(np.arange(table.num_rows))
            )
        )
    table = pa.concat_tables(tables)
    for name in needed:
        if table.column(name).null_count:
            row = int(np.flatnonzero(np.asarray(table.column(name).is_null()))[0])
            at = table.slice(row, 1).to_pylist()[0]
            raise SourceError(
                f"{files.where(at['metadata_path'])}: column {name!r} has rows without a value, as "
                f"row {at['metadata_row']}; nothing else says it: write it"
            )
    order = np.argsort(np.asarray(table.column("episode_index").to_numpy()), kind="stable")
    table = _without_doubles(files, table.take(pa.array(order)), list(needed), report)
    _check_values(files, table, camera_keys)
    return table


def read_table(files: SourceFiles, path: str) -> pa.Table:
    """Return a whole parquet file of the metadata.

    Raises SourceError, which names it, if it cannot be read or a name has several columns.
    """
    table = _guarded(files, path, _read_whole)
    names: list[str] = table.column_names
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise SourceError(
            f"{files.where(path)}: several columns of the name {doubled[0]!r}; leave one of them"
        )
    return table


def _read_whole(file: Any) -> pa.Table:
    table = file.read()
    table.validate(full=True)  # texts that are not UTF-8 would be found where they are used
    return table


def _read_columns(
    files: SourceFiles,
    path: str,
    needed: Mapping[str, pa.DataType],
    hints: Mapping[str, pa.DataType],
    report: Report,
) -> pa.Table:
    """`needed` and `hints` of a file, of these types; hints that it has not, or not of such a type,
    are null.
    """

    def read(file: Any) -> pa.Table:
        names = file.schema_arrow.names
        wrong = [name for name in needed if names.count(name) != 1]
        if wrong:
            raise SourceError(
                f"{files.where(path)}: no column {', '.join(map(repr, wrong))}, or several of that "
                "name; nothing else says it: write it"
            )
        found = file.read(columns=[name for name in (*needed, *hints) if names.count(name) == 1])
        columns = {name: found.column(name).cast(kind) for name, kind in needed.items()}
        for name, kind in hints.items():
            column = found.column(name) if names.count(name) == 1 else None
            columns[name], problem = _hint(column, kind, found.num_rows)
            if problem:
                report(finding("metadata-missing", path, f"column {name!r} {problem}"))
        table = pa.table(columns)
        table.validate(full=True)
        return table

    return _guarded(files, path, read)


def _hint(
    column: pa.ChunkedArray | None, kind: pa.DataType, num_rows: int
) -> tuple[pa.ChunkedArray, str]:
    """(the column as `kind`, what is odd in it)."""
    nothing = pa.chunked_array([pa.nulls(num_rows, kind)])
    if column is None:
        return nothing, "is missing"
    if pa.types.is_list(kind) and (
        pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ):
        texts = [None if text is None else [text] for text in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, kind)]), "holds texts, not lists of them"
    try:
        cast = column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return nothing, f"holds {column.type}, not {kind}"
    return cast, f"has {cast.null_count} rows without a value" if cast.null_count else ""


def _without_doubles(
    files: SourceFiles, table: pa.Table, needed: Sequence[str], report: Report
) -> pa.Table:
    """Return the table with one row for each episode, the first of several."""
    indices = np.asarray(table.column("episode_index").to_numpy())
    second = np.flatnonzero(np.diff(indices) == 0) + 1
    if not second.size:
        return table
    facts = table.select(list(needed)).to_pylist()
    for row in second.tolist():
        if facts[row] != facts[row - 1]:
            raise SourceError(
                f"{files.where('meta/episodes')}: episode_index {indices[row]} occurs twice, with "
                "videos in two places; leave one of the rows"
            )
        place = f"meta/episodes, episode {indices[row]}"
        report(finding("episode-listed-twice", place, "its index occurs twice"))
    return table.take(pa.array(np.setdiff1d(np.arange(len(indices)), second)))


def _check_values(files: SourceFiles, table: pa.Table, camera_keys: Sequence[str]) -> None:
    where = files.where("meta/episodes")
    indices = np.asarray(table.column("episode_index").to_numpy())
    if indices.size and not (indices.min() >= 0 and indices.max() < MAX_EPISODES):
        raise SourceError(
            f"{where}: an episode_index is outside 0..{MAX_EPISODES - 1}; number the episodes anew"
        )
    for key in camera_keys:
        name = f"videos/{key}/from_timestamp"
        wrong = np.flatnonzero(~(np.abs(np.asarray(table.column(name).to_numpy())) < MAX_SECONDS))
        if wrong.size:
            raise SourceError(
                f"{where}, episode {indices[wrong[0]]}: {name} is not between -{MAX_SECONDS:g} and "
                f"{MAX_SECONDS:g} s; nothing else says it: write it"
            )


def _guarded(files: SourceFiles, path: str, read: Callable[[Any], pa.Table]) -> pa.Table:
    try:
        refuse_pointer(files.metadata_path(path), files.where(path))
        file = pq.ParquetFile(files.metadata_path(path))
        check_source(file, files.metadata_path(path), files.where(path))
        return read(file)
    except (MissingError, SourceError):
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{files.where(path)}: unreadable parquet: {error}; bring the file again"
        ) from error

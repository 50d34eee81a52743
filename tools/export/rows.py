"""Parquet files that hold the rows of many episodes, one row group each, as LeRobot's recorder
writes them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard.common.errors import FormatError, SourceError
from roboshard.shards.reader import EpisodeData
from roboshard.shards.rows import decode_rows, source_metadata
from roboshard.shards.scalars import scalars
from roboshard.tools.export.layout import FilePlace, Limits


class TableFiles:
    """Writes tables one after the other, each as a row group, into files that are closed when they
    are full.
    """

    def __init__(self, root: Path, template: str, limits: Limits) -> None:
        """Write files named after `template` below `root`."""
        self._root = root
        self._template = template
        self._limits = limits
        self._number = -1
        self._file: Any = None
        self._writer: Any = None

    def place_for(self, table: pa.Table) -> FilePlace:
        """Return where `table` will be written; a new file is begun if it has no room in this one
        or other columns.
        """
        if self._writer is None or not self._takes(table):
            self.close()
            self._number += 1
            self._file = (
                self._limits.place(self._number).path(self._root, self._template).open("wb")
            )
            self._writer = pq.ParquetWriter(
                self._file, table.schema, compression="snappy", use_dictionary=True
            )
        return self._limits.place(self._number)

    def write(self, table: pa.Table) -> None:
        """Write a table to the file that `place_for` named."""
        table = table.replace_schema_metadata(self._writer.schema.metadata)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def close(self) -> None:
        """Finish the file that is being written."""
        if self._writer is not None:
            self._writer.close()
            self._file.close()
            self._writer = self._file = None

    @property
    def count(self) -> int:
        """How many files were begun."""
        return self._number + 1

    def _takes(self, table: pa.Table) -> bool:
        same = self._writer.schema.equals(table.schema, check_metadata=False)
        return bool(same) and self._file.tell() + table.nbytes <= self._limits.data_bytes


def rows_of(episode: EpisodeData) -> pa.Table:
    """Return an episode's rows with the source's schema: what shards add to its metadata is taken
    out.
    """
    table = decode_rows(episode.rows, episode.where, episode.record.length)
    needed = ("episode_index", *(("timestamp",) if episode.record.cameras else ()))
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise SourceError(
            f"{episode.where}: its rows have no column {', '.join(map(repr, missing))}; convert "
            "the dataset again"
        )
    for name in needed:
        values = scalars(table.column(name))
        if values is None or not np.all(np.isfinite(values)):
            raise FormatError(f"{episode.where}: {name} is not a number in every row")
    return table.replace_schema_metadata(source_metadata(table) or None)


def numbered(table: pa.Table, episode_index: int, first_row: int) -> pa.Table:
    """Return the rows as those of another episode index, counted through the dataset from
    `first_row`.
    """
    for name, values in (
        ("episode_index", np.full(table.num_rows, episode_index)),
        ("index", np.arange(first_row, first_row + table.num_rows)),
    ):
        if name not in table.column_names:
            continue
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        kind = field.type if is_number else pa.int64()  # lists of one, decimals
        table = table.set_column(at, field.with_type(kind), pa.array(values).cast(kind))
    return table


def timestamps_of(table: pa.Table) -> NDArray[np.float64]:
    """Return seconds since the episode's start (rows,), rounded as float32 stores them."""
    stored = np.asarray(scalars(table.column("timestamp")), dtype=np.float32)
    return stored.astype(np.float64)

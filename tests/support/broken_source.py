"""A dataset on disk to be damaged, one file at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Change = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class BrokenSource:
    """A copy of a dataset that `lerobot_source.build` made.

    File numbers count the files that are there.
    """

    root: Path

    @classmethod
    def copy_of(cls, source: Path, root: Path) -> BrokenSource:
        shutil.copytree(source, root)
        return cls(root)

    @property
    def info(self) -> Path:
        return self.root / "meta/info.json"

    def episodes(self, number: int = 0) -> Path:
        return sorted((self.root / "meta/episodes").glob("*/*.parquet"))[number]

    def rows(self, number: int = 0) -> Path:
        return sorted((self.root / "data").glob("*/*.parquet"))[number]

    def video(self, number: int = 0) -> Path:
        return sorted((self.root / "videos").glob("*/*/*.mp4"))[number]

    def set_info(self, **values: Any) -> None:
        info = json.loads(self.info.read_text(encoding="utf-8"))
        self.info.write_text(json.dumps(info | values), encoding="utf-8")

    def change(self, path: Path, change: Change) -> None:
        """Rewrite a parquet file in one row group."""
        pq.write_table(change(pq.read_table(path)), path)

    @staticmethod
    def truncate(path: Path, part: float = 0.5) -> None:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


def put(name: str, values: Any) -> Change:
    """The table with other values in a column; of one value, in every row."""

    def change(table: pa.Table) -> pa.Table:
        full = (
            values
            if isinstance(values, pa.Array | list | np.ndarray)
            else [values] * table.num_rows
        )
        return table.set_column(table.column_names.index(name), name, pa.array(full))

    return change


def put_at(name: str, row: int, value: Any) -> Change:
    """The table with another value in one cell."""

    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        column = pa.array(values, table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), name, column)

    return change


def drop(name: str) -> Change:
    """The table without a column."""
    return lambda table: table.drop_columns([name])


def twice(name: str) -> Change:
    """The table with a column of a name that it already has."""
    return lambda table: table.append_column(name, table[name])


def take(*rows: int) -> Change:
    """Some rows of the table, in another order."""
    return lambda table: table.take(pa.array(rows, pa.int64()))

"""The numbers that features have in many rows, collected episode by episode, and their
statistics.
"""

import math
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roboshard.shards.arrow_numbers import to_numpy
from roboshard.shards.missing import Mask, is_list, missing_rows
from roboshard.shards.scalars import as_declared
from roboshard.shards.statistics import WIDEST, Numbers, Stats, statistics_of

IN_MEMORY = 256 << 20
"""Bytes of a feature's numbers; more of them lie in a file without a name, which the system pages
in and out.
"""


def make_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array that is still to be filled, in memory or, if it is large, in a temporary
    file.
    """
    if math.prod(shape) * dtype.itemsize <= IN_MEMORY:
        return np.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


class CollectedNumbers:
    """The numbers of some features in up to a number of rows."""

    def __init__(self, num_rows: int) -> None:
        """Begin with none; no more than `num_rows` rows will be added."""
        self._num_rows = num_rows
        self._columns: dict[str, _Column | None] = {}

    def add(self, key: str, values: NDArray[Any], weight: float = 1.0) -> None:
        """Add a feature's values in some rows, (rows, ...), each of which counts `weight` times.

        A feature whose values are of several shapes, or too wide, has no statistics.
        """
        if not len(values):
            return
        if key not in self._columns:
            is_wide = math.prod(values.shape[1:]) > WIDEST
            self._columns[key] = None if is_wide else _Column(values, self._num_rows)
        column = self._columns[key]
        if column is not None and not column.add(values, weight):
            self._columns[key] = None

    def numbers(self, factor: float = 1.0) -> dict[str, Numbers]:
        """Return what was collected, by feature; all rows count `factor` times what they weigh."""
        return {
            key: column.numbers(factor)
            for key, column in self._columns.items()
            if column is not None
        }

    def stats(self) -> Stats:
        """Return the statistics of all features."""
        return {key: statistics_of([numbers]) for key, numbers in self.numbers().items()}


class _Column:
    """The values of one feature, the numbers of a row one below the other."""

    def __init__(self, values: NDArray[Any], num_rows: int) -> None:
        self._shape = values.shape[1:]
        self._values = make_array((math.prod(self._shape), num_rows), values.dtype)
        self._filled = 0
        self._weights: list[float] = []
        self._lengths: list[int] = []

    def add(self, values: NDArray[Any], weight: float) -> bool:
        """Add rows; False: they do not fit those before."""
        if values.shape[1:] != self._shape or values.dtype != self._values.dtype:
            return False
        rows = slice(self._filled, self._filled + len(values))
        self._values[:, rows] = values.reshape(len(values), -1).T
        self._filled += len(values)
        self._weights.append(weight)
        self._lengths.append(len(values))
        return True

    def numbers(self, factor: float) -> Numbers:
        """Return what there is so far."""
        is_weighted = any(weight != 1.0 for weight in self._weights)
        return Numbers(
            values=self._values[:, : self._filled],
            shape=self._shape or (1,),  # LeRobot's statistics always have an axis
            weights=np.repeat(self._weights, self._lengths) if is_weighted else None,
            factor=factor,
        )


def collect_table(collected: CollectedNumbers, table: pa.Table, dtypes: Mapping[str, str]) -> None:
    """Add the rows of an episode as they would be loaded, those without a value left out.

    Args:
        collected: gains them.
        table: the rows.
        dtypes: feature key -> dtype of those that are collected.
    """
    for key, dtype in dtypes.items():
        if key in table.column_names:
            values = _loaded(table.column(key).combine_chunks(), dtype)
            if values is not None:
                collected.add(key, values)


def _loaded(values: pa.Array, dtype: str) -> NDArray[Any] | None:
    """Return the values that are there as numbers, (rows, ...); None: they are none, or of several
    shapes.
    """
    if isinstance(values.type, pa.ExtensionType):
        values = values.storage
    missing: Mask | None = missing_rows(values, dtype)
    if missing is not None:
        values = values.filter(pa.array(~missing))
    shape = [len(values)]
    while is_list(values.type):
        flat = values.flatten()
        shape.append(len(flat) // max(1, len(values)))
        if not pa.types.is_fixed_size_list(values.type) and np.any(
            np.diff(np.asarray(values.offsets)) != shape[-1]
        ):
            return None
        values = flat
    try:
        return as_declared(to_numpy(values), dtype).reshape(shape)
    except (pa.ArrowException, ValueError):  # no numbers: nothing that can be averaged
        return None

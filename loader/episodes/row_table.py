"""The numbers of an episode's rows side by side: what all columns hold of a row is fetched in one
go.

A step draws from about as many episodes as it has samples. Column by column it would take each
row's values one by one; so they lie together, row by row, and are told apart in the batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.loader.episodes.columns import Column, TensorColumn

WIDEST = 4096
"""Most bytes of a value; wider ones stay in a column of their own."""
ALIGNMENT = 8


@dataclass(frozen=True)
class Field:
    """Where the values of a feature lie in each row."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Shape of one value."""

    @property
    def end(self) -> int:
        """Offset of the byte behind the field."""
        return self.offset + self.dtype.itemsize * math.prod(self.shape)


Specs = tuple[tuple[str, str, tuple[int, ...]], ...]
"""(feature key, dtype, shape of one value) of each feature in a table."""


class Layout(dict[str, Field]):
    """Feature key -> where its values lie. Equal specs share one layout: see `layout_of`."""

    def __init__(self, specs: Specs) -> None:
        """Lay out features, one after the other, those of wide numbers first: so all are
        aligned.
        """
        self.specs = specs
        self.num_bytes = 0
        for key, name, shape in sorted(specs, key=lambda spec: -np.dtype(spec[1]).itemsize):
            self[key] = field = Field(self.num_bytes, np.dtype(name), shape)
            self.num_bytes = field.end
        self.num_bytes = -(-self.num_bytes // ALIGNMENT) * ALIGNMENT


layout_of = lru_cache(maxsize=256)(Layout)


class RowTable:
    """Values of some features, (rows, bytes of a row) uint8."""

    def __init__(self, specs: Specs, values: NDArray[np.uint8]) -> None:
        self.layout = layout_of(specs)
        self.values = values

    @classmethod
    def of(cls, columns: Mapping[str, Column], length: int) -> "RowTable":
        """Put the columns together that can be: numbers of one shape that every row has."""
        fitting = {
            key: values
            for key, column in columns.items()
            if (values := _fitting(column)) is not None
        }
        # Datasets of a mixture list their features in orders of their own.
        specs = tuple(sorted((key, it.dtype.str, it.shape[1:]) for key, it in fitting.items()))
        layout = layout_of(specs)
        table = cls(specs, np.zeros((length, layout.num_bytes), dtype=np.uint8))
        for key, values in fitting.items():
            _part(table.values, layout[key])[...] = values
        return table

    def __reduce__(self) -> tuple[Any, ...]:
        return RowTable, (self.layout.specs, self.values)

    def column(self, key: str) -> TensorColumn:
        """Return the values of a feature, which stay where they are."""
        return TensorColumn(_part(self.values, self.layout[key]))


def gather(
    tables: Sequence[RowTable], rows: Sequence[NDArray[np.int64]], places: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the values of some rows of several tables of one layout: key -> (n, ...), contiguous.

    Args:
        tables: of episodes.
        rows: for each table, which rows of it.
        places: (n,) which of all these rows, in that order, stands at each place of the result.
    """
    found = np.concatenate(
        [table.values.take(of_table, axis=0) for table, of_table in zip(tables, rows, strict=True)]
    )
    found = found.take(places, axis=0)
    return {
        key: np.ascontiguousarray(_part(found, field)) for key, field in tables[0].layout.items()
    }


def _fitting(column: Column) -> NDArray[Any] | None:
    if not isinstance(column, TensorColumn) or column.missing is not None:
        return None
    values = column.take_all()
    is_broadcast = 0 in values.strides and len(values) > 1
    is_wide = values.dtype.itemsize * math.prod(values.shape[1:]) > WIDEST
    return None if is_broadcast or is_wide or not values.size else values


def _part(values: NDArray[np.uint8], field: Field) -> NDArray[Any]:
    """Return the values of a field, (rows, ...), as a view."""
    return values[:, field.offset : field.end].view(field.dtype).reshape(len(values), *field.shape)

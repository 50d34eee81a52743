"""Numbers in a column of rows, of whichever type they are stored."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def scalars(column: pa.ChunkedArray) -> NDArray[Any] | None:
    """(rows,) a column's numbers; None: it does not hold one number a row.

    Whole numbers stay such; where there are rows without a value, they are NaN among float64. A list of one
    number is a number, as in datasets that store features of shape (1,) so.
    """
    while _is_list(column.type):
        column = _without_lists(column)
        if column is None:
            return None
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    return np.asarray(column.to_numpy())


def is_number_type(kind: pa.DataType) -> bool:
    """Whether `scalars` may find numbers in a column of this type."""
    while _is_list(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _without_lists(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """The only elements of lists; None where some list has none or several."""
    values = column.combine_chunks()
    if values.null_count or len(flat := values.flatten()) != len(values):
        return None
    if not pa.types.is_fixed_size_list(values.type) and np.any(
        np.diff(np.asarray(values.offsets)) != 1
    ):
        return None
    return pa.chunked_array([flat])

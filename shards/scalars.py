"""Numbers in a column of rows, of whichever type they are stored, and the types that they are
loaded with.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roboshard.shards.arrow_numbers import to_numpy
from roboshard.shards.features import FLOAT_DTYPES, SCALAR_DTYPES
from roboshard.shards.missing import is_list


def scalars(column: pa.ChunkedArray) -> NDArray[Any] | None:
    """(rows,) a column's numbers; None: it does not hold one number a row.

    Whole numbers stay such; where there are rows without a value, they are NaN among float64. A
    list of one number is a number, as in datasets that store features of shape (1,) so.
    """
    while is_list(column.type):
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
    return to_numpy(column)


def is_number_type(kind: pa.DataType) -> bool:
    """Whether `scalars` may find numbers in a column of this type."""
    while is_list(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def loaded_type(dtype: str) -> type[np.generic]:
    """Return the NumPy type that numbers of a feature of LeRobot's `dtype` are loaded with."""
    if dtype == "bool":
        return np.bool_
    return np.float32 if dtype in FLOAT_DTYPES else np.int64


def as_declared(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return numbers with the type of their feature, whatever they are stored as: LeRobot casts
    them so.

    Then all episodes have the same type, and a batch cuts nothing off of one that is put beside
    another.

    Raises:
        ValueError: what is no number, or not a number of that type; the text says which one.
    """
    if values.dtype.kind not in "biuf":
        raise ValueError(f"values of type {values.dtype} cannot become a tensor")
    loaded = loaded_type(dtype if dtype in SCALAR_DTYPES else str(values.dtype))
    if loaded is np.int64 and values.dtype.kind in "uf":
        wrong = values[~_fit_int64(values)]
        if wrong.size:
            raise ValueError(f"{wrong[0]} does not fit int64, which {dtype} is loaded as")
    return values.astype(loaded)


def value_problem(column: pa.ChunkedArray, dtype: str) -> str | None:
    """Return why values cannot be loaded as a feature of numbers or strings; None: they can.

    Nulls are no problem.
    """
    kind = column.type
    if dtype == "string":
        return f"strings are stored as {kind}" if pa.types.is_nested(kind) else None
    while is_list(kind):
        kind = kind.value_type
    if pa.types.is_null(kind) or _is_safe(kind, dtype):
        return None
    while is_list(column.type):
        column = pa.chunked_array([column.combine_chunks().flatten()])
    try:
        as_declared(to_numpy(column.drop_null()), dtype)
    except ValueError as error:
        return str(error)
    return None


def _is_safe(kind: pa.DataType, dtype: str) -> bool:
    """Whether all numbers of a type can be loaded, so that none has to be looked at."""
    if pa.types.is_boolean(kind) or pa.types.is_floating(kind):
        return pa.types.is_boolean(kind) or loaded_type(dtype) is not np.int64
    return bool(pa.types.is_integer(kind) and kind != pa.uint64())


def _fit_int64(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether each number, unsigned or floating-point, is an integer that int64 holds."""
    if values.dtype.kind == "u":
        return np.asarray(values <= np.uint64(np.iinfo(np.int64).max))
    wide = values.astype(np.float64)
    in_range = (wide >= -(2.0**63)) & (wide < 2.0**63)  # false for NaN
    return np.asarray(in_range & (wide == np.trunc(wide)))


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

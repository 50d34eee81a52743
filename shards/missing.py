"""Rows without a value: nulls, lists with nulls in them, and features that are declared and not
stored.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from roboshard.shards.arrow_numbers import to_numpy
from roboshard.shards.features import ROW_DTYPES, Features

Mask = NDArray[np.bool_]


def missing_values(table: pa.Table, features: Features) -> dict[str, int]:
    """Feature key -> rows without a value, of those that have such rows. Empty for healthy rows.

    Language columns are not among them: null is one of their values.
    """
    counted = {
        key: _num_missing(table, key, str(spec.get("dtype")))
        for key, spec in features.items()
        if spec.get("dtype") in ROW_DTYPES and spec.get("dtype") != "language"
    }
    return {key: count for key, count in counted.items() if count}


def total(parts: list[Mapping[str, int]]) -> dict[str, int]:
    """Return feature key -> the sum of its counts over all parts."""
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: sum(part.get(key, 0) for part in parts) for key in keys}


def missing_rows(values: pa.Array, dtype: str) -> Mask | None:
    """(rows,) which rows lack their value, or a part of it; None: none does."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    found = _rows_without_image(values) if dtype == "image" else ~_complete(values)
    return found if found.any() else None


def _num_missing(table: pa.Table, key: str, dtype: str) -> int:
    if key not in table.column_names:
        return int(table.num_rows)
    at = table.schema.get_field_index(key)
    if at < 0:  # several of that name: no reader takes one
        return 0
    found = [missing_rows(chunk, dtype) for chunk in table.column(at).chunks]
    return sum(int(np.count_nonzero(mask)) for mask in found if mask is not None)


def _complete(values: pa.Array) -> Mask:
    """(n,) whether a value is there, with every element that it should have."""
    there = np.ones(len(values), dtype=np.bool_)
    if values.null_count:
        there = to_numpy(values.is_valid())
    if not is_list(values.type):
        return there
    elements = _complete(values.flatten())
    if elements.all():
        return there
    lengths = to_numpy(pc.fill_null(pc.list_value_length(values), 0))
    ends = np.cumsum(lengths, dtype=np.int64)
    lacking = np.concatenate([[0], np.cumsum(~elements)])
    return np.asarray(there & (lacking[ends] == lacking[ends - lengths]))


def _rows_without_image(values: pa.Array) -> Mask:
    """(n,) whether a value has no image: it is null, or a struct with neither bytes nor a path."""
    null = _nulls(values)
    if pa.types.is_struct(values.type):
        places = [values.type.get_field_index(name) for name in ("bytes", "path")]
        inner = [_nulls(values.field(place)) for place in places if place >= 0]
        null = null | np.logical_and.reduce(inner) if inner else null
    return null


def _nulls(values: pa.Array) -> Mask:
    if not values.null_count:
        return np.zeros(len(values), dtype=np.bool_)
    return to_numpy(values.is_null())


def is_list(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are lists, of whatever kind."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )

"""Columns become NumPy arrays as Arrow itself makes them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.shards.arrow_numbers import to_numpy

TYPES = [
    *(pa.bool_(), pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64()),
]


@given(
    kind=st.sampled_from(TYPES),
    chunks=st.lists(st.lists(st.none() | st.integers(0, 1), max_size=20), max_size=4),
    begin=st.integers(0, 30),
)
def test_numbers_are_those_of_arrow(
    kind: pa.DataType, chunks: list[list[int | None]], begin: int
) -> None:
    """Of any type, with and without nulls, from any row on, in any number of pieces."""
    pieces = [_array(values, kind) for values in chunks]
    column = pa.chunked_array(pieces, kind).slice(begin)
    for values in (column, *(piece.slice(min(begin, len(piece))) for piece in pieces)):
        found = to_numpy(values)
        expected = _combined(values).to_numpy(zero_copy_only=False)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f")


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a", None, "b"]),
        pa.array([1, 2], pa.timestamp("us")),
        pa.array([[1], [2, 3]]),
        pa.nulls(3),
        pa.array([], pa.int64()),
        pa.chunked_array([], pa.int64()),
    ],
    ids=lambda values: str(values.type),
)
def test_what_holds_no_numbers_is_what_arrow_makes_of_it(
    values: pa.Array | pa.ChunkedArray,
) -> None:
    found, expected = to_numpy(values), _combined(values).to_numpy(zero_copy_only=False)
    assert found.dtype == expected.dtype
    assert str(found.tolist()) == str(expected.tolist())


def _array(values: list[int | None], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.int64()).cast(kind)


def _combined(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values

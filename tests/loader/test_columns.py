"""Columns become tensors by LeRobot's rules, and what does not fit them is refused by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.language import JSON_TEXT

from roboshard.common.errors import FormatError
from roboshard.loader.episodes.columns import Column, make_column
from roboshard.shards.scalars import value_problem

WHERE = "shard, episode 3, feature 'x'"
INTEGERS = (
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
)
FLOATS = (pa.float16(), pa.float32(), pa.float64())


def column(values: list[Any], kind: pa.DataType, dtype: str | None = None) -> Column:
    chunks = [pa.array(values[:1], kind), pa.array(values[1:], kind)]
    return make_column(pa.chunked_array(chunks, kind), dtype or str(kind), WHERE)


def nested(leaf: pa.DataType, *sizes: int) -> pa.DataType:
    for size in reversed(sizes):
        leaf = pa.list_(leaf, size) if size else pa.list_(leaf)
    return leaf


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_every_integer_becomes_int64(kind: pa.DataType) -> None:
    found = at(column([1, 0, 100], kind), 2)
    assert isinstance(found, torch.Tensor)
    assert (found.dtype, found.shape, found.item()) == (torch.int64, (), 100)


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_every_float_becomes_float32(kind: pa.DataType) -> None:
    values = [np.float16(v) if kind == pa.float16() else v for v in (0.1, 1e-3, 2.5)]
    found = window(column(values, kind), 0, 1, 2)
    expected = torch.tensor([float(v) for v in pa.array(values, kind).to_pylist()])
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_float64_is_rounded_as_torch_rounds_it(values: list[float]) -> None:
    with np.errstate(over="ignore"):
        found = column(values, pa.float64())
    for row, value in enumerate(values):
        assert torch.equal(torch.nan_to_num(at(found, row)), torch.nan_to_num(torch.tensor(value)))


def at(found: Column, row: int) -> Any:
    value = found.take(np.array([row]))[0]
    return torch.as_tensor(value) if isinstance(value, np.ndarray | np.generic) else value


def window(found: Column, *rows: int) -> torch.Tensor:
    values = found.take(np.array([rows]))[0]
    return torch.as_tensor(values)


def test_booleans_and_strings_stay_what_they_are() -> None:
    flags = column([True, False, True], pa.bool_(), "bool")
    assert torch.equal(window(flags, 0, 1, 1), torch.tensor([True, False, False]))
    assert at(column(["拿起", "", "🧊"], pa.string()), 2) == "🧊"


@pytest.mark.parametrize(
    "sizes", [(4,), (0,), (3, 2), (0, 2), (3, 0), (0, 0), (2, 3, 2), (0, 0, 0)], ids=str
)
def test_lists_keep_their_shape_whether_their_size_is_fixed_or_not(sizes: tuple[int, ...]) -> None:
    shape = tuple(size or 2 for size in sizes)
    rows = np.arange(5 * math.prod(shape), dtype=np.float32).reshape(5, *shape)
    found = column(rows.tolist(), nested(pa.float32(), *sizes), "float32")
    assert torch.equal(at(found, 3), torch.from_numpy(rows[3]))
    assert torch.equal(window(found, 0, 4, 4), torch.from_numpy(rows[[0, 4, 4]]))


@given(st.integers(0, 4), st.integers(1, 6))
def test_a_slice_of_a_longer_array_is_read_as_it_is(start: int, length: int) -> None:
    rows = np.arange(30, dtype=np.float64).reshape(10, 3)
    array = pa.array(rows.tolist(), pa.list_(pa.float64(), 3))[start : start + length]
    found = window(make_column(pa.chunked_array([array]), "float64", WHERE), *range(length))
    assert torch.equal(found, torch.from_numpy(rows[start : start + length]).float())


def test_rows_of_different_lengths_are_given_one_by_one() -> None:
    found = column([[1], [2, 3], [4]], pa.list_(pa.int32()), "int32")
    assert at(found, 1).tolist() == [2, 3]
    assert window(found, 0, 2).tolist() == [[1], [4]]


def test_a_value_handed_out_is_a_copy() -> None:
    found = column([1.0, 2.0], pa.float32())
    np.asarray(found.take(np.array([0, 1]))).fill(9)
    np.asarray(found.take(np.array([[0, 1]]))).fill(9)
    assert window(found, 0, 1).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "kind", "dtype", "reason"),
    [
        (
            [[[1], [2, 3]], [[4]]],
            pa.list_(pa.list_(pa.int32())),
            "int32",
            "a row's lists have no common shape",
        ),
        ([1, 2**63], pa.uint64(), "uint64", "does not fit int64"),
        (["a", "b"], pa.string(), "float32", "cannot become a tensor"),
    ],
    ids=[
        "uneven lists",
        "uint64",
        "strings",
    ],
)
def test_values_that_do_not_fit_are_refused_with_their_place(
    values: list[Any], kind: pa.DataType, dtype: str, reason: str
) -> None:
    with pytest.raises(FormatError, match=f"{WHERE}.*{reason}"):
        column(values, kind, dtype)


# -- Rows without a value --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "dtype", "filled"),
    [
        ([1.5, None, 2.5], pa.float64(), "float64", [1.5, 0.0, 2.5]),
        ([1, None, 2**40], pa.int64(), "int64", [1, 0, 2**40]),
        ([True, None, True], pa.bool_(), "bool", [True, False, True]),
        (
            [[1.0, 2.0], None, [3.0, 4.0]],
            pa.list_(pa.float32(), 2),
            "float32",
            [[1, 2], [0, 0], [3, 4]],
        ),
        (
            [[1.0, 2.0], None, [3.0, 4.0]],
            pa.list_(pa.float32()),
            "float32",
            [[1, 2], [0, 0], [3, 4]],
        ),
        (
            [[1.0, 2.0], [7.0, None], [3.0, 4.0]],
            pa.list_(pa.float32(), 2),
            "float32",
            [[1, 2], [0, 0], [3, 4]],
        ),
        (
            [[1.0, 2.0], [7.0, None], [3.0, 4.0]],
            pa.large_list(pa.float32()),
            "float32",
            [[1, 2], [0, 0], [3, 4]],
        ),
        (
            [[[1], [2]], [[3], None], [[4], [5]]],
            pa.list_(pa.list_(pa.int8())),
            "int8",
            [[[1], [2]], [[0], [0]], [[4], [5]]],
        ),
        (
            [[[1], [2]], [[3], [None]], [[4], [5]]],
            pa.list_(pa.list_(pa.int8(), 1), 2),
            "int8",
            [[[1], [2]], [[0], [0]], [[4], [5]]],
        ),
    ],
    ids=str,
)
def test_rows_without_a_value_are_zeros_and_told(
    values: list[Any], kind: pa.DataType, dtype: str, filled: list[Any]
) -> None:
    found = column(values, kind, dtype)
    assert found.missing is not None
    assert found.missing.tolist() == [False, True, False]
    taken = found.take(np.arange(3))
    assert isinstance(taken, np.ndarray)
    assert taken.tolist() == filled
    assert window(found, 0, 1).tolist() == filled[:2]


def test_a_text_without_a_value_is_empty_and_told() -> None:
    found = column(["a", None, ""], pa.string(), "string")
    assert found.take(np.array([1, 0, 2])) == ["", "a", ""]
    assert found.missing is not None
    assert found.missing.tolist() == [False, True, False]


def test_uneven_lists_may_lack_a_row() -> None:
    found = column([[1, 2], None, [3]], pa.list_(pa.int32()), "int32")
    assert [at(found, row).tolist() for row in range(3)] == [[1, 2], [0, 0], [3]]
    assert found.missing is not None
    assert found.missing.tolist() == [False, True, False]


@pytest.mark.parametrize("kind", [pa.null(), pa.float32(), pa.list_(pa.float32())], ids=str)
def test_a_column_of_nothing_has_the_shape_of_its_feature(kind: pa.DataType) -> None:
    array = pa.chunked_array([pa.nulls(4, kind)])
    found = make_column(array, "float32", WHERE, (3, 2))
    assert found.missing is not None
    assert found.missing.all()
    assert window(found, 0, 3).shape == (2, 3, 2)
    assert not window(found, 0, 3).any()


def test_nan_is_a_value() -> None:
    found = column([math.nan, 1.0], pa.float32())
    assert found.missing is None
    assert math.isnan(at(found, 0))


@given(
    st.lists(
        st.one_of(
            st.none(), st.lists(st.one_of(st.none(), st.integers(-9, 9)), min_size=2, max_size=2)
        ),
        min_size=1,
        max_size=9,
    )
)
def test_a_row_is_missing_where_any_part_of_it_is(rows: list[Any]) -> None:
    """Whatever the list's kind, and in a slice of a longer array too."""
    expected = [row is None or None in row for row in rows]
    for kind in (pa.list_(pa.int16()), pa.large_list(pa.int16()), pa.list_(pa.int16(), 2)):
        array = pa.array([[1, 2], *rows, None], kind)[1 : 1 + len(rows)]
        found = make_column(pa.chunked_array([array]), "int16", WHERE, (2,))
        missing = [False] * len(rows) if found.missing is None else found.missing.tolist()
        assert missing == expected
        for i, (row, is_missing) in enumerate(zip(rows, expected, strict=True)):
            assert at(found, i).tolist() == ([0, 0] if is_missing else row)


@pytest.mark.parametrize(
    ("stored", "dtype", "expected"),
    [
        (pa.array([1.0, -3.0]), "int64", torch.tensor([1, -3])),
        (pa.array([True, False]), "int64", torch.tensor([1, 0])),
        (pa.array([[1, 2], [3, 4]]), "float32", torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        (pa.array([1, 2**60]), "float64", torch.tensor([1.0, 2.0**60])),
        (pa.array([2, 0]), "bool", torch.tensor([True, False])),
        (pa.array([0.5, 0.0]), "bool", torch.tensor([True, False])),
    ],
    ids=str,
)
def test_numbers_have_the_declared_type_whatever_they_are_stored_as(
    stored: pa.Array, dtype: str, expected: torch.Tensor
) -> None:
    """As LeRobot from 0.4 on loads them, which has `datasets` cast them."""
    found = window(make_column(pa.chunked_array([stored]), dtype, WHERE), 0, 1)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    uneven = [stored.to_pylist(), stored.to_pylist()[:1]]
    ragged = make_column(pa.chunked_array([pa.array(uneven)]), dtype, WHERE)
    assert torch.equal(at(ragged, 0), expected)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (pa.array([1.0, 1.5]), "int64"),
        (pa.array([[0.25]]), "uint8"),
        (pa.array([math.nan]), "int32"),
        (pa.array([2.0**63]), "int64"),
        (pa.array([-math.inf]), "int64"),
        (pa.array([2**63], pa.uint64()), "int64"),
        (pa.array(["1"]), "float32"),
        (pa.array([{"a": 1}]), "float32"),
        (pa.array([["x"]]), "string"),
        (pa.array([{"a": "x"}]), "string"),
    ],
    ids=str,
)
def test_what_has_no_value_of_the_declared_type_is_refused_here_and_at_conversion(
    stored: pa.Array, dtype: str
) -> None:
    with pytest.raises(FormatError, match=WHERE):
        make_column(pa.chunked_array([stored]), dtype, WHERE)
    assert value_problem(pa.chunked_array([stored]), dtype) is not None


@pytest.mark.parametrize("dtype", ["float16", "int8", "bool"])
def test_nulls_and_nothing_are_no_problem_of_types(dtype: str) -> None:
    for values in (pa.nulls(2), pa.array([None, 1.0]), pa.array([[None, 1], [1, 0]]), pa.array([])):
        column = pa.chunked_array([values])
        make_column(column, dtype, WHERE)
        assert value_problem(column, dtype) is None


def test_text_that_is_not_utf8_is_refused_with_its_place() -> None:
    broken = pa.array([b"\xff\xfe"]).view(pa.string())
    with pytest.raises(FormatError, match=f"{WHERE}.*cannot be read"):
        make_column(pa.chunked_array([broken]), "string", WHERE)
    messages = pa.ListArray.from_arrays([0, 1], pa.StructArray.from_arrays([broken], ["content"]))
    with pytest.raises(FormatError, match=f"{WHERE}.*cannot be read"):
        make_column(pa.chunked_array([messages]), "language", WHERE)


def test_tool_calls_that_are_nested_too_deep_stay_text() -> None:
    deep = "[" * 100_000
    rows = [[{"tool_calls": [deep, "[1]"]}]]
    found = make_column(pa.chunked_array([pa.array(rows)]), "language", WHERE)
    assert found.take(np.array([0])) == [[{"tool_calls": [deep, [1]]}]]


# -- Language --------------------------------------------------------------------------------------

CALLS = ['{"say": [1, null, "ü"]}', "not JSON", "3"]


@pytest.mark.parametrize("kind", [pa.string(), JSON_TEXT], ids=str)
def test_tool_calls_are_parsed_where_they_are_json(kind: pa.DataType | pa.Field) -> None:
    plain = pa.list_(pa.struct({"content": pa.string(), "tool_calls": pa.list_(pa.string())}))
    rows = [
        [{"content": "a", "tool_calls": CALLS}, {"content": None, "tool_calls": None}],
        None,
        [],
    ]
    stored = pa.array(rows, plain).cast(
        pa.list_(pa.struct({"content": pa.string(), "tool_calls": pa.list_(kind)}))
    )
    messages = make_column(pa.chunked_array([stored[:1], stored[1:]]), "language", WHERE).take(
        np.array([2, 0, 1, 0])
    )
    said = [
        {"content": "a", "tool_calls": [{"say": [1, None, "ü"]}, "not JSON", 3]},
        {"content": None, "tool_calls": None},
    ]
    assert messages == [[], said, None, said]
    assert messages[1] is not messages[3]  # a user may change one of them


def test_tool_calls_that_were_stored_as_structs_are_objects() -> None:
    rows = [[{"tool_calls": [{"name": "say"}]}]]
    assert (
        make_column(pa.chunked_array([pa.array(rows)]), "language", WHERE).take(np.array([0]))
        == rows
    )


def test_a_message_may_be_null() -> None:
    rows = [[None, {"content": "a", "tool_calls": ["3"]}]]
    messages = make_column(pa.chunked_array([pa.array(rows)]), "language", WHERE).take(
        np.array([0])
    )
    assert messages == [[None, {"content": "a", "tool_calls": [3]}]]


@pytest.mark.parametrize(
    "values", [[[], []], [None, None], [[], None]], ids=["list of null", "null", "both"]
)
def test_an_episode_without_a_message_has_empty_lists(values: list[Any]) -> None:
    stored = pa.array(values)
    assert "null" in str(stored.type)
    assert make_column(pa.chunked_array([stored]), "language", WHERE).take(np.array([1, 0])) == [
        [],
        [],
    ]


def test_language_that_is_no_list_of_messages_is_refused() -> None:
    with pytest.raises(
        FormatError, match=f"{WHERE}: language is stored as string, not as lists of structs"
    ):
        column(["a", "b"], pa.string(), "language")

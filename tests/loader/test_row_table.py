"""Numbers of rows that lie side by side are those of their columns, whatever their types, shapes
and order.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from roboshard.loader.episodes.columns import Column, TensorColumn, TextColumn, empty_column
from roboshard.loader.episodes.row_table import WIDEST, RowTable, gather

DTYPES = st.sampled_from(["float32", "int64", "bool", "float64", "uint8", "int16"])
SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (7,)])
KINDS = st.lists(st.tuples(DTYPES, SHAPES), min_size=1, max_size=6)
LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def columns_of(
    kinds: list[tuple[str, tuple[int, ...]]], length: int, seed: int
) -> dict[str, Column]:
    draw = np.random.default_rng(seed)
    return {
        f"feature {i}": TensorColumn(draw.integers(0, 2, (length, *shape)).astype(dtype))
        for i, (dtype, shape) in enumerate(kinds)
    }


@given(KINDS, LENGTHS, st.randoms(use_true_random=False))
def test_gathered_rows_are_those_of_the_columns(kinds: Any, lengths: list[int], draw: Any) -> None:
    episodes = [columns_of(kinds, length, seed) for seed, length in enumerate(lengths)]
    tables = [
        RowTable.of(columns, length) for columns, length in zip(episodes, lengths, strict=True)
    ]
    rows = [
        np.array([draw.randrange(length) for _ in range(draw.randrange(1, 4))])
        for length in lengths
    ]
    number = sum(map(len, rows))
    places = np.array(draw.sample(range(number), number))
    found = gather(tables, rows, places)
    for key in episodes[0]:
        parts = [columns[key].take(of) for columns, of in zip(episodes, rows, strict=True)]
        expected = np.concatenate(parts)[places]
        np.testing.assert_array_equal(found[key], expected)
        assert found[key].dtype == expected.dtype
        assert found[key].flags.c_contiguous


@given(KINDS, st.integers(1, 9))
def test_columns_are_views_that_survive_the_way_to_another_process(kinds: Any, length: int) -> None:
    columns = columns_of(kinds, length, 0)
    table = RowTable.of(columns, length)
    other: RowTable = pickle.loads(pickle.dumps(table))
    assert other.layout is table.layout
    for key, column in columns.items():
        for it in (table, other):
            held = it.column(key).take_all()
            np.testing.assert_array_equal(held, column.take(np.arange(length)))
            assert np.shares_memory(held, it.values)
            assert held.flags.aligned


def test_the_order_of_features_does_not_matter() -> None:
    columns = columns_of([("float32", (3,)), ("int64", ()), ("bool", (1,))], 4, 0)
    turned = dict(reversed(columns.items()))
    assert RowTable.of(columns, 4).layout is RowTable.of(turned, 4).layout


def test_what_is_no_number_of_each_row_stays_apart() -> None:
    def in_table(column: Column) -> bool:
        return bool(RowTable.of({"x": column}, 4).layout)

    numbers: NDArray[np.float32] = np.zeros((4, 2), dtype=np.float32)
    assert in_table(TensorColumn(numbers))
    assert not in_table(TensorColumn(numbers, np.array([True, False, False, False])))
    assert not in_table(TextColumn(["a"] * 4))
    assert not in_table(empty_column("float32", (2,), 4))  # takes no memory
    assert not in_table(TensorColumn(np.zeros((4, WIDEST + 1), dtype=np.uint8)))
    assert RowTable.of({}, 4).layout is RowTable.of({"x": TextColumn(["a"] * 4)}, 4).layout

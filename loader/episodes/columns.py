"""Columns of an episode's rows as tensors, with the types that LeRobot gives them.

Features of floats become float32, of integers int64, of bool bool, whatever numbers they are stored
as; a value of one number is a 0-d tensor, lists are tensors of their shape, and strings stay
strings. Language columns are lists of messages, each a dict, decoded when a sample needs them. Rows
without a value hold zeros, or what is empty, and the column says which they are.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from roboshard.common.errors import FormatError, RoboshardError
from roboshard.shards.arrow_numbers import to_numpy
from roboshard.shards.missing import Mask, is_list, missing_rows
from roboshard.shards.scalars import as_declared, loaded_type

TOOL_CALLS = "tool_calls"


class Column(Protocol):
    """One feature's values over an episode's rows."""

    @property
    def missing(self) -> Mask | None:
        """(rows,) Which rows have no value; None: all have one."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any] | list[Any]:
        """Return copies of the values of some rows, (n,) or (n, T): an array (n, ...) or (n, T,
        ...).

        A list of n values instead where they are strings, or tensors whose shapes may differ.
        """


class TensorColumn:
    """A column of numbers or booleans: one array (rows, ...)."""

    def __init__(self, values: NDArray[Any], missing: Mask | None = None) -> None:
        self._values = values
        self.missing = missing

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all values, the rows first."""
        return self._values.shape

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return copies of the values of some rows, (n,) or (n, T): an array (n, ...) or (n, T,
        ...).
        """
        return self._values[rows]

    def take_all(self) -> NDArray[Any]:
        """Return the values of all rows, (rows, ...), not copied."""
        return self._values


class RaggedColumn:
    """A column of lists whose shape differs from row to row."""

    def __init__(self, values: list[NDArray[Any]], missing: Mask | None = None) -> None:
        self._values = values
        self.missing = missing

    def take(self, rows: NDArray[np.int64]) -> list[Any]:
        """Return a tensor for each row of (n,), or each window of (n, T), whose rows must have one
        shape.
        """
        if rows.ndim == 1:
            return [torch.from_numpy(self._values[row].copy()) for row in rows.tolist()]
        return [torch.stack(self.take(window)) for window in rows]


class TextColumn:
    """A column of strings."""

    def __init__(self, values: list[str], missing: Mask | None = None) -> None:
        self._values = values
        self.missing = missing

    def take(self, rows: NDArray[np.int64]) -> list[Any]:
        """Return the strings of rows (n,); `make_loader` refuses windows before it gets here."""
        if rows.ndim > 1:
            raise TypeError(f"strings have no delta window of {rows.shape[1]} rows")
        return [self._values[row] for row in rows.tolist()]


class LanguageColumn:
    """A column of lists of messages, as Arrow holds them: every row may repeat all that was said so
    far.
    """

    missing: Mask | None = None
    """No row counts as missing: one without messages has the value None."""

    def __init__(self, values: pa.Array) -> None:
        self._values = values

    def take(self, rows: NDArray[np.int64]) -> list[Any]:
        """Return for each row (n,) a list of dicts, or None; tool calls are parsed, as LeRobot's
        JSON feature does.
        """
        if rows.ndim > 1:
            raise TypeError(f"messages have no delta window of {rows.shape[1]} rows")
        found: list[Any] = [self._values[row].as_py() for row in rows.tolist()]
        for message in itertools.chain.from_iterable(messages or () for messages in found):
            if message and message.get(TOOL_CALLS):
                message[TOOL_CALLS] = [_parsed(call) for call in message[TOOL_CALLS]]
        return found


def make_column(
    array: pa.ChunkedArray, dtype: str, where: str, shape: Sequence[int] | None = None
) -> Column:
    """Return the column of a feature with LeRobot's `dtype`.

    Args:
        array: the stored values.
        dtype: as the feature's spec says it.
        where: names episode and feature in errors.
        shape: of one value, as the spec says it; what rows without a value have where none has one.

    Raises:
        FormatError: values that do not fit the dtype.
    """
    with unreadable(where):
        if dtype == "language":
            return LanguageColumn(_messages(array.combine_chunks(), where))
        values = stored(array)
        if pa.types.is_null(values.type):
            return empty_column(dtype, shape or (1,), len(values), is_missing=True)
        missing = missing_rows(values, dtype) if _has_nulls(values) else None
        if missing is None:
            return _column(values, dtype, where)
        if missing.all():
            return empty_column(dtype, shape or (1,), len(values), is_missing=True)
        return _spread(_column(values.filter(pa.array(~missing)), dtype, where), missing)


def empty_column(
    dtype: str, shape: Sequence[int], length: int, *, is_missing: bool = False
) -> Column:
    """Return zeros, or what is empty, for a feature that an episode lacks; they take no memory.

    `is_missing`: its rows count as rows without a value.
    """
    missing = np.broadcast_to(np.True_, length) if is_missing else None
    if dtype == "language":
        return LanguageColumn(_no_messages(length))
    if dtype == "string":
        return TextColumn([""] * length, missing)
    kind = loaded_type(dtype)
    inner = () if tuple(shape) == (1,) else tuple(shape)
    return TensorColumn(np.broadcast_to(np.zeros(inner, dtype=kind), (length, *inner)), missing)


def padded_column(column: Column, width: int, where: str) -> tuple[Column, int]:
    """Return a column of vectors with zeros behind their numbers, and how many numbers they had.

    Args:
        column: of vectors, or of single numbers.
        width: numbers that vectors are to have.
        where: names episode and feature in errors.

    Raises:
        FormatError: values that are no vectors of one length, or longer ones.
    """
    if not isinstance(column, TensorColumn):
        raise FormatError(f"{where}: its rows have no common shape, which pad_to= needs")
    shape = column.shape[1:]
    if len(shape) > 1:
        raise FormatError(f"{where}: its rows have shape {shape}, and pad_to= is for vectors")
    own = shape[0] if shape else 1
    if own > width:
        raise FormatError(
            f"{where}: its rows hold {own} numbers, more than the {width} that pad_to= makes of "
            "them, and than dataset.json says"
        )
    if own == width:
        return column, own
    values = column.take_all()
    padded = np.zeros((len(values), width), dtype=values.dtype)
    padded[:, :own] = values.reshape(len(values), own)
    return TensorColumn(padded, column.missing), own


@contextmanager
def unreadable(where: str) -> Iterator[None]:
    """Make a FormatError that names `where` of whatever Arrow and NumPy raise for values."""
    try:
        yield
    except RoboshardError:
        raise
    except (
        pa.ArrowException,
        ArithmeticError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        said = " ".join(str(error).split())[:200]
        raise FormatError(f"{where}: cannot be read: {said}") from None


def stored(array: pa.ChunkedArray) -> pa.Array:
    """Return the values in one piece, without an extension type around them."""
    values = array.combine_chunks()
    return values.storage if isinstance(values.type, pa.ExtensionType) else values


def _column(values: pa.Array, dtype: str, where: str) -> Column:
    """Return the column of values without a null."""
    if dtype == "string":
        if pa.types.is_nested(values.type):
            raise FormatError(f"{where}: strings are stored as {values.type}")
        return TextColumn([str(text) for text in values.to_pylist()])
    shape: list[int] = [len(values)]
    leaves: Any = values
    while is_list(leaves.type):
        lengths = np.unique(np.asarray(_list_lengths(leaves)))
        if len(lengths) > 1:
            return RaggedColumn([_ragged_row(row, dtype, where) for row in values.to_pylist()])
        shape.append(int(lengths[0]) if len(lengths) else 0)
        leaves = leaves.flatten()
    return TensorColumn(_numbers(to_numpy(leaves), dtype, where).reshape(shape))


def _has_nulls(values: pa.Array) -> bool:
    """Whether there is a null on any level: a look at counts that Arrow keeps."""
    while not values.null_count and is_list(values.type):
        values = values.flatten()
    return bool(values.null_count)


def _spread(column: Column, missing: Mask) -> Column:
    """Return the column with rows that have no value between those that have one."""
    there = np.flatnonzero(~missing)
    found = column.take(np.arange(len(there)))
    if isinstance(found, np.ndarray):
        values = np.zeros((len(missing), *found.shape[1:]), dtype=found.dtype)
        values[there] = found
        return TensorColumn(values, missing)
    if isinstance(column, TextColumn):
        texts = [""] * len(missing)
        for row, text in zip(there.tolist(), found, strict=True):
            texts[row] = text
        return TextColumn(texts, missing)
    arrays = [np.zeros_like(found[0].numpy())] * len(missing)
    for row, tensor in zip(there.tolist(), found, strict=True):
        arrays[row] = tensor.numpy()
    return RaggedColumn(arrays, missing)


def _messages(values: pa.Array, where: str) -> pa.Array:
    kind = values.type.value_type if is_list(values.type) else values.type
    if pa.types.is_null(
        kind
    ):  # an episode without a message, written by what takes types from values
        return _no_messages(len(values))
    if not is_list(values.type) or not pa.types.is_struct(kind):
        raise FormatError(f"{where}: language is stored as {values.type}, not as lists of structs")
    values.validate(full=True)  # now: messages are read when a sample needs them
    return values


def _no_messages(length: int) -> pa.Array:
    return pa.array([[]] * length)


def _parsed(call: Any) -> Any:
    """Return a tool call: files hold JSON as Arrow's JSON type, as text, or taken apart into
    structs.
    """
    try:
        return json.loads(call) if isinstance(call, str) else call
    except (ValueError, RecursionError):  # no JSON, or deeper than Python reads it
        return call


def _list_lengths(array: pa.Array) -> list[int]:
    if pa.types.is_fixed_size_list(array.type):
        return [array.type.list_size] if len(array) else []
    return list(np.diff(to_numpy(array.offsets)))


def _ragged_row(row: list[Any], dtype: str, where: str) -> NDArray[Any]:
    try:
        values = np.asarray(row)
    except ValueError:
        raise FormatError(f"{where}: a row's lists have no common shape") from None
    return _numbers(values, dtype, where)


def _numbers(values: NDArray[Any], dtype: str, where: str) -> NDArray[Any]:
    try:
        return as_declared(values, dtype)
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from None

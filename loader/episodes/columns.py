"""Columns of an episode's rows as tensors, with the types that LeRobot gives them.

float64 becomes float32, every integer int64, bool stays bool, a value of one number a 0-d tensor, lists tensors
of their shape, and strings stay strings. Language columns are lists of messages, each a dict. Images are files.
Messages and images are decoded when a sample needs them.
"""

import io
import itertools
import json
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from roboshard.loader.decoding.pictures import Picture
from roboshard.shards.errors import FormatError
from roboshard.shards.features import FLOAT_DTYPES

TOOL_CALLS = "tool_calls"
IMAGE_MODES = ("L", "RGB", "RGBA")
DEPTH_MODES = ("I;16", "I;16B", "I;16L", "F")
"""Of 16-bit and floating-point images, whose values LeRobot (`pil_to_chw_tensor`) leaves as they are."""


class Column(Protocol):
    """One feature's values over an episode's rows."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any] | list[Any]:
        """Copies of the values of some rows, (n,) or (n, T): an array (n, ...) or (n, T, ...).

        A list of n values instead where they are strings, or tensors whose shapes may differ.
        """


class TensorColumn:
    """Numbers and booleans: one array (rows, ...)."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """See `Column`."""
        return self._values[rows]


class RaggedColumn:
    """Lists whose shape differs from row to row."""

    def __init__(self, values: list[NDArray[Any]]) -> None:
        self._values = values

    def take(self, rows: NDArray[np.int64]) -> list[Any]:
        """See `Column`; only rows of equal shape can stand in one window."""
        if rows.ndim == 1:
            return [torch.from_numpy(self._values[row].copy()) for row in rows.tolist()]
        return [torch.stack(self.take(window)) for window in rows]


class TextColumn:
    """Strings."""

    def __init__(self, values: list[str]) -> None:
        self._values = values

    def take(self, rows: NDArray[np.int64]) -> list[Any]:
        """See `Column`; `make_loader` refuses windows of strings before it comes to this."""
        if rows.ndim > 1:
            raise TypeError(f"strings have no delta window of {rows.shape[1]} rows")
        return [self._values[row] for row in rows.tolist()]


class LanguageColumn:
    """Lists of messages, as Arrow holds them: every row may repeat all that was said so far."""

    def __init__(self, values: pa.Array) -> None:
        self._values = values

    def take(self, rows: NDArray[np.int64]) -> list[Any]:
        """See `Column`: per row a list of dicts, or None; tool calls are parsed, as LeRobot's JSON feature does."""
        if rows.ndim > 1:
            raise TypeError(f"messages have no delta window of {rows.shape[1]} rows")
        found: list[Any] = [self._values[row].as_py() for row in rows.tolist()]
        for message in itertools.chain.from_iterable(messages or () for messages in found):
            if message and message.get(TOOL_CALLS):
                message[TOOL_CALLS] = [_parsed(call) for call in message[TOOL_CALLS]]
        return found


class ImageFiles:
    """Images of an episode, one file (PNG; depth also TIFF) per row."""

    def __init__(
        self, files: Sequence[bytes], where: str, depth_factor: float | None = None
    ) -> None:
        """Keep the files; `where` names episode and feature in errors, `depth_factor` leads to millimetres.

        Without a factor they are no depth.
        """
        self._files = files
        self._where = where
        self._depth_factor = depth_factor

    def pixels(self, row: int) -> Picture:
        """(H, W, C) uint8, or float32 of depth and of `DEPTH_MODES`.

        Raises FormatError for what is no image, or one of another kind.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(self._files[row])) as image:
                    if image.mode not in (known := (*IMAGE_MODES, *DEPTH_MODES)):
                        raise FormatError(
                            f"{self._where}, row {row}: image mode {image.mode} is not one of {known}"
                        )
                    if self._depth_factor is not None or image.mode in DEPTH_MODES:
                        return _depth(image, self._depth_factor)
                    pixels = np.array(image)
        except (
            OSError,
            SyntaxError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise FormatError(f"{self._where}, row {row}: not a readable image: {error}") from None
        return pixels.reshape(*pixels.shape[:2], -1)


def _depth(image: Image.Image, factor: float | None) -> NDArray[np.float32]:
    """(H, W, C) as LeRobot has it (`pil_to_chw_tensor`, `convert_image_depth_units`): 8-bit levels over 255."""
    pixels = np.array(image, dtype=np.float32)
    if image.mode in IMAGE_MODES:
        pixels /= np.float32(255)
    if factor is not None and factor != 1.0:
        pixels *= np.float32(factor)
    return pixels.reshape(*pixels.shape[:2], -1)


def make_images(
    array: pa.ChunkedArray, where: str, depth_factor: float | None = None
) -> ImageFiles:
    """The images of a feature; see `ImageFiles`.

    Raises:
        FormatError: rows without an image, or without its bytes.
    """
    return ImageFiles(_image_bytes(_values(array, where), where), where, depth_factor)


def make_column(array: pa.ChunkedArray, dtype: str, where: str) -> Column:
    """The column of a feature with LeRobot's `dtype`; `where` names episode and feature in errors.

    Raises:
        FormatError: values that do not fit the dtype, or rows without a value.
    """
    if dtype == "language":
        return LanguageColumn(_messages(array.combine_chunks(), where))
    values = _values(array, where)
    if dtype == "string":
        return TextColumn([str(text) for text in values.to_pylist()])
    shape: list[int] = [len(values)]
    leaves: Any = values
    while _is_list(leaves.type):
        lengths = np.unique(np.asarray(_list_lengths(leaves)))
        if len(lengths) > 1:
            return RaggedColumn([_ragged_row(row, where) for row in values.to_pylist()])
        shape.append(int(lengths[0]) if len(lengths) else 0)
        leaves = leaves.flatten()
        if leaves.null_count:
            raise FormatError(f"{where}: a list has an element without a value")
    return TensorColumn(
        _as_lerobot_does(leaves.to_numpy(zero_copy_only=False), where).reshape(shape)
    )


def empty_column(dtype: str, shape: Sequence[int], length: int) -> Column:
    """A column of zeros, or of what is empty, for a feature that an episode lacks; it takes no memory."""
    if dtype == "language":
        return LanguageColumn(_no_messages(length))
    if dtype == "string":
        return TextColumn([""] * length)
    kind = np.float32 if dtype in FLOAT_DTYPES else np.bool_ if dtype == "bool" else np.int64
    inner = () if tuple(shape) == (1,) else tuple(shape)
    return TensorColumn(np.broadcast_to(np.zeros(inner, dtype=kind), (length, *inner)))


def _values(array: pa.ChunkedArray, where: str) -> pa.Array:
    values = array.combine_chunks()
    if isinstance(values.type, pa.ExtensionType):
        values = values.storage
    if values.null_count:
        raise FormatError(f"{where}: {values.null_count} rows have no value")
    return values


def _messages(values: pa.Array, where: str) -> pa.Array:
    kind = values.type.value_type if _is_list(values.type) else values.type
    if pa.types.is_null(
        kind
    ):  # an episode without a message, written by what takes types from values
        return _no_messages(len(values))
    if not _is_list(values.type) or not pa.types.is_struct(kind):
        raise FormatError(f"{where}: language is stored as {values.type}, not as lists of structs")
    return values


def _no_messages(length: int) -> pa.Array:
    return pa.array([[]] * length)


def _parsed(call: Any) -> Any:
    """A tool call: files hold JSON as Arrow's JSON type, as text, or taken apart into structs."""
    try:
        return json.loads(call) if isinstance(call, str) else call
    except ValueError:
        return call


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _list_lengths(array: pa.Array) -> list[int]:
    if pa.types.is_fixed_size_list(array.type):
        return [array.type.list_size] if len(array) else []
    return list(np.diff(array.offsets.to_numpy()))


def _ragged_row(row: list[Any], where: str) -> NDArray[Any]:
    try:
        values = np.asarray(row)
    except ValueError:
        raise FormatError(f"{where}: a row's lists have no common shape") from None
    return _as_lerobot_does(values, where)


def _as_lerobot_does(values: NDArray[Any], where: str) -> NDArray[Any]:
    if values.dtype.kind == "b":
        return values.astype(np.bool_)
    if values.dtype.kind in "iu":
        if values.size and values.dtype == np.uint64 and int(values.max()) > np.iinfo(np.int64).max:
            raise FormatError(f"{where}: {values.max()} does not fit int64")
        return values.astype(np.int64)
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    raise FormatError(f"{where}: values of type {values.dtype} cannot become a tensor")


def _image_bytes(values: pa.Array, where: str) -> list[bytes]:
    if not pa.types.is_struct(values.type) or values.type.get_field_index("bytes") < 0:
        raise FormatError(
            f"{where}: images are stored as {values.type}, not as a struct with a field 'bytes'"
        )
    files: list[bytes] = values.field("bytes").to_pylist()
    if any(file is None for file in files):
        raise FormatError(
            f"{where}: an image has no bytes; it points to a file outside the dataset"
        )
    return files

"""Columns of an episode's rows as tensors, with the types that LeRobot gives them.

float64 becomes float32, every integer int64, bool stays bool, a value of one number a 0-d tensor, lists tensors
of their shape, and strings stay strings. Images are PNG bytes, decoded when a sample needs them, to float32 in
0..1 of shape (C, H, W).
"""

import io
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from roboshard.shards.errors import FormatError

FLOAT_DTYPES = ("float16", "float32", "float64")
SCALAR_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", *FLOAT_DTYPES)
IMAGE_MODES = ("L", "RGB", "RGBA")


class Column(Protocol):
    """One feature's values over an episode's rows."""

    def at(self, row: int) -> torch.Tensor | str:
        """The value of one row."""

    def window(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """The values of several rows, stacked along a new first axis (T, ...)."""


class TensorColumn:
    """Numbers and booleans: one tensor (rows, ...)."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def at(self, row: int) -> torch.Tensor:
        """The value of one row, a copy: it must not keep the whole episode alive."""
        return self._values[row].clone()

    def window(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """(T, ...)."""
        return self._values[torch.from_numpy(rows)]


class RaggedColumn:
    """Lists whose shape differs from row to row."""

    def __init__(self, values: list[torch.Tensor]) -> None:
        self._values = values

    def at(self, row: int) -> torch.Tensor:
        """The value of one row."""
        return self._values[row].clone()

    def window(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """(T, ...); only rows of equal shape can be stacked."""
        return torch.stack([self._values[row] for row in rows.tolist()])


class TextColumn:
    """Strings."""

    def __init__(self, values: list[str]) -> None:
        self._values = values

    def at(self, row: int) -> str:
        """The value of one row."""
        return self._values[row]

    def window(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Not defined for strings; `make_loader` refuses such a window before it comes to this."""
        raise TypeError(f"strings have no delta window of {len(rows)} rows")


class ImageColumn:
    """PNG images."""

    def __init__(self, files: Sequence[bytes], where: str) -> None:
        self._files = files
        self._where = where

    def at(self, row: int) -> torch.Tensor:
        """(C, H, W) float32 in 0..1."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(self._files[row])) as image:
                    if image.mode not in IMAGE_MODES:
                        raise FormatError(
                            f"{self._where}, row {row}: image mode {image.mode} is not one of {IMAGE_MODES}"
                        )
                    pixels = np.array(image)
        except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise FormatError(f"{self._where}, row {row}: not a readable image: {error}") from None
        channels_first = np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))
        return torch.from_numpy(np.divide(channels_first, 255, dtype=np.float32))

    def window(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """(T, C, H, W) float32 in 0..1."""
        return torch.stack([self.at(row) for row in rows.tolist()])


def make_column(array: pa.ChunkedArray, dtype: str, where: str) -> Column:
    """The column of a feature with LeRobot's `dtype`; `where` names episode and feature in errors.

    Raises:
        FormatError: values that do not fit the dtype, or rows without a value.
    """
    values = array.combine_chunks()
    if isinstance(values.type, pa.ExtensionType):
        values = values.storage
    if values.null_count:
        raise FormatError(f"{where}: {values.null_count} rows have no value")
    if dtype == "image":
        return ImageColumn(_image_bytes(values, where), where)
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
    return TensorColumn(_tensor(leaves.to_numpy(zero_copy_only=False), where).reshape(shape))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _list_lengths(array: pa.Array) -> list[int]:
    if pa.types.is_fixed_size_list(array.type):
        return [array.type.list_size] if len(array) else []
    return list(np.diff(array.offsets.to_numpy()))


def _ragged_row(row: list[Any], where: str) -> torch.Tensor:
    try:
        values = np.asarray(row)
    except ValueError:
        raise FormatError(f"{where}: a row's lists have no common shape") from None
    return _tensor(values, where)


def _tensor(values: NDArray[Any], where: str) -> torch.Tensor:
    if values.dtype.kind == "b":
        return torch.from_numpy(values.astype(np.bool_))
    if values.dtype.kind in "iu":
        if values.size and values.dtype == np.uint64 and int(values.max()) > np.iinfo(np.int64).max:
            raise FormatError(f"{where}: {values.max()} does not fit int64")
        return torch.from_numpy(values.astype(np.int64))
    if values.dtype.kind == "f":
        return torch.from_numpy(values.astype(np.float32))
    raise FormatError(f"{where}: values of type {values.dtype} cannot become a tensor")


def _image_bytes(values: pa.Array, where: str) -> list[bytes]:
    if not pa.types.is_struct(values.type) or values.type.get_field_index("bytes") < 0:
        raise FormatError(f"{where}: images are stored as {values.type}, not as a struct with a field 'bytes'")
    files: list[bytes] = values.field("bytes").to_pylist()
    if any(file is None for file in files):
        raise FormatError(f"{where}: an image has no bytes; it points to a file outside the dataset")
    return files

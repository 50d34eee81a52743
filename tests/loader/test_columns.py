"""Columns become tensors by LeRobot's rules, and what does not fit them is refused by name."""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from roboshard.loader.episodes.columns import Column, ImageFiles, make_column, make_images
from roboshard.shards.errors import FormatError

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


def image_column(files: list[bytes | None], depth_factor: float | None = None) -> ImageFiles:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = pa.array([{"bytes": file, "path": "frame.png"} for file in files], kind)
    return make_images(pa.chunked_array([rows[:1], rows[1:]], kind), WHERE, depth_factor)


def png(pixels: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


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
        ([1.0, None], pa.float32(), "float32", "1 rows have no value"),
        ([[1.0], [None]], pa.list_(pa.float32(), 1), "float32", "an element without a value"),
        (
            [[[1.0]], [None]],
            pa.list_(pa.list_(pa.float32(), 1), 1),
            "float32",
            "an element without a value",
        ),
        ([[[1.0]], [None]], pa.list_(pa.list_(pa.float32())), "float32", "without a value"),
        ([[1], [2, None]], pa.list_(pa.int32()), "int32", "cannot become a tensor"),
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
        "null row",
        "null element",
        "null list of fixed size",
        "null list",
        "null among uneven lists",
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


# -- Language --------------------------------------------------------------------------------------------------

CALLS = ['{"say": [1, null, "ü"]}', "not JSON", "3"]


@pytest.mark.parametrize("kind", [pa.string(), pa.json_()], ids=str)
def test_tool_calls_are_parsed_where_they_are_json(kind: pa.DataType) -> None:
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


# -- Images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_are_read_pixel_by_pixel(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, channels), dtype=np.uint8)
    found = image_column([png(image.squeeze()) for image in pixels])
    assert np.array_equal(found.pixels(1), pixels[1])


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


GREY = png(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"not an image",
        GREY[:40],
        GREY[:-30] + bytes(18) + GREY[-12:],
        huge_png(60_000, 60_000),
    ],
    ids=["empty", "no image", "cut", "overwritten", "bomb"],
)
def test_unreadable_images_are_named(file: bytes) -> None:
    with pytest.raises(FormatError, match=f"{WHERE}, row 1: not a readable image"):
        image_column([GREY, file]).pixels(1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "float TIFF", "big-endian TIFF"])
def test_sixteen_bit_and_float_images_keep_their_values(kind: str) -> None:
    depth = np.random.default_rng(0).integers(0, 1 << 16, (8, 6), dtype=np.uint16)
    stored = Image.fromarray(depth.astype(np.float32) if kind == "float TIFF" else depth)
    if kind == "big-endian TIFF":
        stored = Image.frombytes("I;16B", (6, 8), depth.astype(">u2").tobytes())
    file = io.BytesIO()
    stored.save(file, kind.rsplit(maxsplit=1)[-1])
    found = image_column([file.getvalue()])
    assert found.pixels(0).dtype == np.float32
    assert np.array_equal(found.pixels(0), depth[:, :, None])


@pytest.mark.parametrize("factor", [1.0, 1000.0])
def test_eight_bit_depth_is_what_lerobot_makes_of_it(factor: float) -> None:
    """`pil_to_chw_tensor` divides by 255, and `convert_image_depth_units` multiplies metres."""
    levels = np.random.default_rng(0).integers(0, 256, (8, 6), dtype=np.uint8)
    found = image_column([png(levels)], factor)
    expected = (torch.from_numpy(levels).float().div(255) * factor)[:, :, None].numpy()
    assert found.pixels(0).dtype == np.float32
    assert np.array_equal(found.pixels(0), expected)


def test_images_of_other_kinds_are_refused() -> None:
    file = io.BytesIO()
    Image.new("CMYK", (4, 4)).save(file, "TIFF")
    with pytest.raises(FormatError, match="row 0: image mode CMYK is not one of"):
        image_column([file.getvalue()]).pixels(0)


def test_images_that_are_stored_otherwise_are_refused() -> None:
    with pytest.raises(FormatError, match=f"{WHERE}.*not as a struct with a field 'bytes'"):
        make_images(pa.chunked_array([pa.array([b"a", b"b"])]), WHERE)


def test_an_image_that_points_outside_the_dataset_is_refused() -> None:
    with pytest.raises(FormatError, match="points to a file outside the dataset"):
        image_column([GREY, None])

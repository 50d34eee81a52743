"""Images of an episode's rows: how they are stored, which are missing, and depth among them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from roboshard.common.errors import FormatError
from roboshard.loader.episodes.images import ImageFiles, make_images
from roboshard.shards.features import Spec

WHERE = "shard, episode 3, feature 'x'"
COLOURS: Spec = {"dtype": "image", "shape": [8, 6, 3], "names": ["height", "width", "channels"]}
DEPTH: Spec = {"dtype": "image", "shape": [8, 6, 1], "info": {"is_depth_map": True}}
METRES: Spec = {**DEPTH, "info": {"is_depth_map": True, "depth_unit": "m"}}
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


GREY = png(np.full((4, 4), 7, np.uint8))


def images(rows: list[Any], spec: Spec = COLOURS, kind: pa.DataType = STRUCT) -> ImageFiles:
    values = pa.array(rows, kind)
    return make_images(pa.chunked_array([values[:1], values[1:]], kind), spec, WHERE)


def stored(*files: bytes | None) -> list[Any]:
    return [None if file is None else {"bytes": file, "path": "frame.png"} for file in files]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_are_read_pixel_by_pixel(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, channels), dtype=np.uint8)
    found = images(stored(*(png(image.squeeze()) for image in pixels)))
    assert np.array_equal(found.pixels(1), pixels[1])
    assert found.missing is None


@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        (pa.binary(), lambda file: file),
        (pa.large_binary(), lambda file: file),
        (pa.struct({"bytes": pa.large_binary()}), lambda file: {"bytes": file}),
        (pa.struct({"path": pa.string(), "bytes": pa.binary()}), lambda file: {"bytes": file}),
    ],
    ids=["bytes", "large bytes", "struct of bytes", "other order"],
)
def test_files_may_be_stored_with_or_without_a_struct(kind: pa.DataType, wrap: Any) -> None:
    found = images([wrap(GREY), wrap(GREY)], kind=kind)
    assert found.pixels(1).shape == (4, 4, 1)


def test_an_unreadable_image_is_named() -> None:
    with pytest.raises(FormatError, match=f"{WHERE}, row 1: not a readable image"):
        images(stored(GREY, b"no image")).pixels(1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "float TIFF", "big-endian TIFF"])
def test_sixteen_bit_and_float_images_keep_their_values(kind: str) -> None:
    depth = np.random.default_rng(0).integers(0, 1 << 16, (8, 6), dtype=np.uint16)
    image = Image.fromarray(depth.astype(np.float32) if kind == "float TIFF" else depth)
    if kind == "big-endian TIFF":
        image = Image.frombytes("I;16B", (6, 8), depth.astype(">u2").tobytes())
    file = io.BytesIO()
    image.save(file, kind.rsplit(maxsplit=1)[-1])
    for spec in (COLOURS, DEPTH):
        found = images(stored(file.getvalue()), spec)
        assert found.pixels(0).dtype == np.float32
        assert np.array_equal(found.pixels(0), depth[:, :, None])


@pytest.mark.parametrize(("spec", "factor"), [(DEPTH, 1.0), (METRES, 1000.0)], ids=str)
def test_eight_bit_depth_is_what_lerobot_makes_of_it(spec: Spec, factor: float) -> None:
    """`pil_to_chw_tensor` divides by 255, and `convert_image_depth_units` multiplies metres."""
    levels = np.random.default_rng(0).integers(0, 256, (8, 6), dtype=np.uint8)
    found = images(stored(png(levels)), spec)
    expected = (torch.from_numpy(levels).float().div(255) * factor)[:, :, None].numpy()
    assert found.pixels(0).dtype == np.float32
    assert np.array_equal(found.pixels(0), expected)


def test_images_that_are_stored_otherwise_are_refused() -> None:
    with pytest.raises(FormatError, match=f"{WHERE}.*not as files or as a struct with a field"):
        images(["a.png", "b.png"], kind=pa.string())


def test_an_image_that_points_outside_the_dataset_is_refused() -> None:
    with pytest.raises(FormatError, match="points to a file outside the dataset"):
        images([*stored(GREY), {"bytes": None, "path": "/elsewhere/frame.png"}])


# -- Rows without an image -------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [None, {"bytes": None, "path": None}], ids=["null", "empty"])
def test_a_row_without_an_image_is_black_as_the_others_are_large(gone: Any) -> None:
    found = images([gone, *stored(GREY), gone])
    assert found.missing is not None
    assert found.missing.tolist() == [True, False, True]
    assert found.pixels(1).any()
    assert (found.pixels(2).shape, found.pixels(2).dtype) == ((4, 4, 1), np.uint8)
    assert not found.pixels(0).any()


@pytest.mark.parametrize("kind", [pa.null(), STRUCT, pa.binary()], ids=str)
@pytest.mark.parametrize(("spec", "dtype"), [(COLOURS, np.uint8), (DEPTH, np.float32)], ids=str)
def test_without_any_image_the_feature_says_how_large(
    kind: pa.DataType, spec: Spec, dtype: Any
) -> None:
    found = images([None, None], spec, kind)
    assert found.missing is not None
    assert found.missing.all()
    assert found.pixels(1).shape == tuple(spec["shape"])
    assert found.pixels(1).dtype == dtype


def test_without_any_image_or_size_there_is_no_picture() -> None:
    found = images([None], {"dtype": "image", "shape": ["height", "width", 3]})
    with pytest.raises(FormatError, match=r'no row has an image, .*on_missing="drop"'):
        found.pixels(0)

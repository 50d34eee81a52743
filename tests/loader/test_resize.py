"""Pictures at another size: what torch makes of whole ones, written where they are wanted and
nowhere else.
"""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from roboshard.loader.decoding.colors import reformatted
from roboshard.loader.decoding.pictures import copy_picture, resized
from roboshard.loader.decoding.resize import ResizedPicture, nearest, resize_in_floats
from roboshard.loader.decoding.rgb import DecodedFrame

sides = st.integers(1, 70)
sizes = st.tuples(sides, sides)


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(
        0, 256, (height, width, channels), dtype=np.uint8
    )


def by_torch(whole: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    pictures = torch.from_numpy(whole).permute(2, 0, 1)[None].contiguous()
    if size[1] == 1:  # wrong in bytes
        pictures = pictures.float()
    found = torch.nn.functional.interpolate(pictures, size=size, mode="bilinear", antialias=True)
    picture: NDArray[np.uint8] = found[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
    return picture


@given(had=sizes, wanted=sizes, channels=st.sampled_from([1, 3, 4]))
def test_an_array_becomes_what_torch_makes_of_it(
    had: tuple[int, int], wanted: tuple[int, int], channels: int
) -> None:
    whole = noise(*had, channels)
    memory = np.full((3, *wanted, channels), 77, dtype=np.uint8)
    copy_picture(resized(whole, wanted), memory[1])
    assert np.array_equal(memory[1], by_torch(whole, wanted))
    assert np.all(memory[[0, 2]] == 77)


@pytest.mark.parametrize("had", [(64, 96), (65, 67), (2, 2), (480, 640)], ids=str)
@pytest.mark.parametrize("wanted", [(32, 48), (224, 224), (1, 1), (37, 50)], ids=str)
def test_a_coded_picture_becomes_what_torch_makes_of_its_pixels(
    had: tuple[int, int], wanted: tuple[int, int]
) -> None:
    frame = av.VideoFrame.from_ndarray(noise(*had), format="rgb24").reformat(format="yuv444p")
    picture = resized(DecodedFrame(frame), wanted)
    assert isinstance(picture, ResizedPicture)
    expected = by_torch(reformatted(frame, "BICUBIC"), wanted)
    memory = np.full((3, *wanted, 3), 77, dtype=np.uint8)
    copy_picture(picture, memory[1])
    assert np.array_equal(memory[1], expected)
    assert np.all(memory[[0, 2]] == 77)
    levels = np.empty((*wanted, 3), dtype=np.float32)
    copy_picture(picture, levels)
    assert np.array_equal(levels, expected / np.float32(255))


def test_a_resized_picture_is_not_written_to_where_it_does_not_fit() -> None:
    """torch would resize the target, and say so in a warning only."""
    picture = ResizedPicture(noise(8, 8), (4, 6))
    for shape in ((6, 4, 3), (4, 6, 1), (1, 4, 6, 3), (72,)):
        with pytest.raises(ValueError, match=r"\(4, 6, 3\) does not fit"):
            picture.into(np.zeros(shape, dtype=np.uint8))


@given(had=sizes, wanted=sizes)
def test_on_another_device_it_is_the_same_to_rounding(
    had: tuple[int, int], wanted: tuple[int, int]
) -> None:
    whole = noise(*had)
    found = resize_in_floats(torch.from_numpy(whole), wanted)
    assert found.dtype == torch.uint8
    assert found.shape == (*wanted, 3)
    assert int(np.abs(found.numpy().astype(int) - by_torch(whole, wanted)).max()) <= 1


@given(had=sizes, wanted=sizes)
def test_depth_is_the_nearest_pixel(had: tuple[int, int], wanted: tuple[int, int]) -> None:
    depth = np.arange(had[0] * had[1], dtype=np.float32).reshape(*had, 1)
    found = resized(depth, wanted)
    assert np.array_equal(found, depth if had == wanted else nearest(depth, wanted))  # type: ignore[arg-type]
    rows, columns = np.unravel_index(found[..., 0].astype(np.int64), had)  # type: ignore[index, union-attr]
    for places, wanted_side, had_side in (
        (rows[:, 0], wanted[0], had[0]),
        (columns[0], wanted[1], had[1]),
    ):
        centers = (np.arange(wanted_side) + 0.5) / wanted_side * had_side
        assert np.all(np.abs(places + 0.5 - centers) <= 0.5 + 1e-9)


@pytest.mark.parametrize("size", [None, (5, 7)], ids=str)
def test_a_picture_of_the_size_asked_for_is_left_alone(size: tuple[int, int] | None) -> None:
    for picture in (
        noise(5, 7),
        np.zeros((5, 7, 1), np.float32),
        torch.zeros((5, 7, 3), dtype=torch.uint8),
    ):
        assert resized(picture, size) is picture

"""Pictures on their way from decoders to batches."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.loader.decoding.resize import ResizedPicture, nearest, resize_in_floats
from roboshard.loader.decoding.rgb import DecodedFrame

Picture = (
    NDArray[np.uint8]
    | NDArray[np.float32]
    | NDArray[np.int32]
    | DecodedFrame
    | ResizedPicture
    | torch.Tensor
)
"""A picture (H, W, C): an array, one that is still to be made, or a tensor where a GPU decoded it.

uint8: brightness; float32 and int32: depth, used as it is.
"""


_TO_BE_MADE = (DecodedFrame, ResizedPicture)


def is_brightness(picture: Picture) -> bool:
    """Whether a picture's values are levels of 0..255, which become 0..1 as floating-point
    numbers.
    """
    return picture.dtype.itemsize == 1


def resized(picture: Picture, size: tuple[int, int] | None) -> Picture:
    """Return a picture at a size (H, W), None: its own; depth by the nearest pixel, brightness by a
    filter.
    """
    if size is None or tuple(picture.shape[:2]) == size:
        return picture
    if isinstance(picture, torch.Tensor):
        return resize_in_floats(picture, size)
    if isinstance(picture, np.ndarray) and not is_brightness(picture):
        return nearest(picture, size)
    return ResizedPicture(picture, size)


def with_pixels(picture: Picture) -> Picture:
    """Return a picture with its values there, for where they are needed more than once."""
    return picture.pixels() if isinstance(picture, _TO_BE_MADE) else picture


def owned_copy(picture: Picture) -> "NDArray[Any] | DecodedFrame | torch.Tensor":
    """Return a picture in memory of its own, for longer than until its decoder is asked for the
    next one.
    """
    if isinstance(picture, ResizedPicture):
        return picture.pixels()
    return picture.clone() if isinstance(picture, torch.Tensor) else picture.copy()


def copy_picture(picture: Picture, target: Any) -> None:
    """Copy a picture to an array or tensor of its shape, as levels of 0..1 where that has floating
    point.
    """
    is_scaled = is_brightness(picture) and target.dtype.itemsize > 1
    if isinstance(picture, _TO_BE_MADE) and not is_scaled:
        picture.into(target)
        return
    target[...] = with_pixels(picture)
    if is_scaled:
        target /= 255  # a division that converts as it goes takes three times as long

"""Pictures on their way from decoders to batches."""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.loader.decoding.rgb import CodedPicture

Number = TypeVar("Number", np.uint16, np.float32)

Picture = NDArray[np.uint8] | NDArray[np.float32] | CodedPicture | torch.Tensor
"""(H, W, C): an array, a frame that is still to become one, or a tensor where a GPU decoded it.

uint8: brightness; float32: depth, used as it is.
"""


def is_brightness(picture: Picture) -> bool:
    """Whether a picture's values are levels of 0..255, which become 0..1 as floating-point numbers."""
    return picture.dtype.itemsize == 1


def copy_picture(picture: Picture, target: Any) -> None:
    """A picture to an array or tensor of its shape, as levels of 0..1 where that has floating point."""
    is_scaled = is_brightness(picture) and target.dtype.itemsize > 1
    if isinstance(picture, CodedPicture) and not is_scaled:
        picture.into(target)
        return
    target[...] = picture.pixels() if isinstance(picture, CodedPicture) else picture
    if is_scaled:
        target /= 255  # a division that converts as it goes takes three times as long


def nearest(pixels: NDArray[Number], size: tuple[int, int] | None) -> NDArray[Number]:
    """Pixels (H, W, ...) at another size (H, W), each the nearest one: between two depths there may be nothing."""
    if size is None:
        return pixels
    rows, columns = (
        ((np.arange(wanted) + 0.5) * had / wanted).astype(np.int64)
        for wanted, had in zip(size, pixels.shape[:2], strict=True)
    )
    resized: NDArray[Number] = pixels[rows[:, None], columns]
    return resized

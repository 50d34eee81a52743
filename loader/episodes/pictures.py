"""Pictures on their way from decoders to batches."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Number = TypeVar("Number", np.uint16, np.float32)

Picture = NDArray[np.uint8] | NDArray[np.float32] | torch.Tensor
"""(H, W, C), an array, or a tensor where a GPU decoded it. uint8: brightness; float32: depth, used as it is."""

Pictures = Sequence[Picture] | NDArray[np.uint8] | NDArray[np.float32]
"""Some of them, one after the other; one array (n, H, W, C) where they are of one kind and size and so in memory."""


def is_brightness(picture: Picture) -> bool:
    """Whether a picture's values are levels of 0..255, which become 0..1 as floating-point numbers."""
    return picture.dtype.itemsize == 1


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

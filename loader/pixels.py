"""Copying and scaling pictures, with NumPy.

torch would spread each of these small operations over threads of its own. They contend with the threads that
decode: with one other busy process on two cores, loading was measured ten times slower for it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


def pick(frames: torch.Tensor, places: NDArray[np.int64]) -> torch.Tensor:
    """Frames (n, H, W, 3) at some places, channels first: (3, H, W) of one place, else (T, 3, H, W).

    One frame is a view, several are a copy. In memory the channels stay last, as they were decoded.
    """
    if len(places) == 1:
        return frames[int(places[0])].permute(2, 0, 1)
    return torch.from_numpy(frames.numpy()[places]).permute(0, 3, 1, 2)


def to_unit_range(pictures: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) uint8 to float32 in 0..1, in the same layout in memory."""
    channels_last = pictures.movedim(-3, -1).numpy()
    return torch.from_numpy(np.divide(channels_last, 255, dtype=np.float32)).movedim(-1, -3)


def stack(pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """(..., C, H, W) tensors with channels last in memory, along a new first axis; each is one plain copy."""
    return torch.from_numpy(np.stack([picture.movedim(-3, -1).numpy() for picture in pictures])).movedim(-1, -3)

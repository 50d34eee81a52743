"""Depth video: distances as 12-bit codes, and the way back to millimetres."""

from functools import cache
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.shards.features import MM_PER_M, DepthScale

PIXEL_FORMAT = "gray12le"
NUM_CODES = 1 << 12
ULPS = 2
"""Units in the last place that torch's exponentials may be off; they are less than one."""
MAX_MM = float(np.iinfo(np.uint16).max)


@cache
def millimetres(scale: DepthScale) -> NDArray[np.float32]:
    """Return what each code stands for, in whole millimetres: (4096,) float32.

    The arithmetic is that of LeRobot's `dequantize_depth` (lerobot/datasets/depth_utils.py) for
    tensors with `output_unit="mm"`, in the same order and in float32, so that the values are equal
    to the bit.
    """
    step = (scale.end - scale.start) / (NUM_CODES - 1)
    depth = torch.arange(NUM_CODES, dtype=torch.float32).mul_(step).add_(scale.start)
    if scale.use_log:
        depth = _exp(depth).sub_(scale.shift)
    depth.clamp_(scale.depth_min, scale.depth_max)
    table: NDArray[np.float32] = depth.mul_(MM_PER_M).round_().clamp_(0, MAX_MM).numpy()
    table.setflags(write=False)
    return table


def _exp(exponents: torch.Tensor) -> torch.Tensor:
    """Return torch's exponentials, as LeRobot has them, where they are right.

    Where two threads of a process are the first to ask for some, torch's library for them now and
    then serves one of these threads with its least accurate ones, off in the fourth digit.
    """
    exact = np.exp(exponents.numpy().astype(np.float64))
    found = exponents.exp()
    if np.all(np.abs(found.numpy() - exact) <= ULPS * np.spacing(exact.astype(np.float32))):
        return found
    return torch.from_numpy(exact.astype(np.float32))


def depth_pixels(frame: av.VideoFrame, scale: DepthScale) -> NDArray[np.float32]:
    """Return the depths of a decoded frame in millimetres, (H, W, 1) float32."""
    return np.take(millimetres(scale), _codes(frame))[:, :, None]  # faster than indexing


def _codes(frame: av.VideoFrame) -> NDArray[np.uint16]:
    """Return the codes of a frame, (H, W), as stored; of a frame in another format, as FFmpeg
    converts it, which LeRobot asks for too.
    """
    plane: Any = frame.reformat(format=PIXEL_FORMAT).planes[0]
    rows = np.frombuffer(plane, dtype="<u2").reshape(-1, plane.line_size // 2)
    return rows[: frame.height, : frame.width]

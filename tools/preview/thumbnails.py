"""Pictures of samples as arrays that can be drawn and encoded."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8] | NDArray[np.float32]
"""(H, W, 3) uint8: colors. (H, W) float32: depth, in millimetres as LeRobot has it."""

JPEG_QUALITY = 85


def as_picture(values: Any, *, is_depth: bool = False) -> Picture:
    """Return what can be shown of a sample's camera.

    Args:
        values: (C, H, W) array-like: 1 to 4 channels, uint8 or float in [0, 1]; opacity is
            dropped. Of depth one channel, in millimetres.
        is_depth: Whether the dataset calls it a depth camera. One channel alone may as well be
            gray.
    """
    array = np.asarray(values)
    if is_depth:
        return np.asarray(array[0], dtype=np.float32)
    if array.dtype != np.uint8:
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    colours = np.repeat(array[:1], 3, axis=0) if len(array) < 3 else array[:3]
    return np.ascontiguousarray(colours.transpose(1, 2, 0))


def depth_range(pictures: Sequence[Picture]) -> tuple[float, float]:
    """Return from where to where most depths lie, in millimetres; 0 and what is not finite mean
    that nothing was measured.
    """
    measured = np.concatenate(
        [picture[np.isfinite(picture) & (picture > 0)] for picture in pictures]
    )
    if not measured.size:
        return 0.0, 1.0
    low, high = np.percentile(measured, [2, 98]).tolist()
    return low, high if high > low else low + 1e-6 + abs(low) * 1e-6


def depth_steps(picture: Picture) -> NDArray[np.uint16]:
    """Return depth in whole millimetres (H, W) uint16; what is not finite becomes 0, which means
    that nothing was measured.
    """
    known = np.nan_to_num(picture, nan=0.0, posinf=0.0, neginf=0.0)
    return known.round().clip(0, np.iinfo(np.uint16).max).astype(np.uint16)


def encode_jpeg(picture: Picture) -> bytes:
    """Return a picture (H, W, 3) uint8 as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()

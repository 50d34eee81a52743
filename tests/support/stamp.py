"""Frames that say which frame they are, legibly after any lossy codec."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
"""One RGB frame, uint8 (H, W, 3)."""

Codes = NDArray[np.uint16]
"""One depth frame, 12-bit codes in uint16 (H, W)."""

HIDDEN_EPISODE = 4095
"""Episode stamped on pre-roll frames, which nobody may ever be shown."""

_BITS = 12
_ROWS = 3
_BLACK, _WHITE = 16, 235
_SURE = 40  # a block must lie this far from mid-grey: a blend of two frames does not


def camera_code(key: str) -> int:
    """Twelve bits that tell cameras apart."""
    return zlib.crc32(key.encode()) & 0xFFF


def render(*, key: str, episode: int, frame: int, size: tuple[int, int], seed: int = 0) -> Frame:
    """Draw one frame: its number in bit blocks on top, something that moves below.

    Args:
        key: Camera key; colors and stamp depend on it.
        size: Height and width in pixels, at least 32 x 48 so that a block outlives the codec.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = size
    if height < 32 or width < 48:
        raise ValueError(f"frames must be at least 32 x 48 to be legible, got {size}")
    image = _background(camera_code(key) + 31 * seed + 17 * episode, frame, size)
    for row, value in enumerate((episode, frame, camera_code(key))):
        if not 0 <= value < 1 << _BITS:
            raise ValueError(f"cannot stamp {value} in {_BITS} bits")
        for bit in range(_BITS):
            image[_block(row, bit, size)] = _WHITE if value >> (_BITS - 1 - bit) & 1 else _BLACK
    return image


def render_depth(
    *, key: str, episode: int, frame: int, size: tuple[int, int], seed: int = 0
) -> Codes:
    """Draw one depth frame, noise of all codes: only what is lossless gives it back.

    Returns uint16 (H, W).
    """
    rng = np.random.default_rng((seed, camera_code(key), episode, frame))
    return rng.integers(0, 1 << 12, size, dtype=np.uint16)


def read_stamp(frame: Frame) -> tuple[int, int]:
    """Read (episode, frame number) back from a decoded frame, uint8 (H, W, 3)."""
    return _read_row(frame, 0), _read_row(frame, 1)


def read_camera(frame: Frame) -> int:
    """Read the camera's `camera_code` back from a decoded frame, uint8 (H, W, 3)."""
    return _read_row(frame, 2)


def _block(row: int, bit: int, size: tuple[int, int]) -> tuple[slice, slice]:
    """Pixels of one bit: an eighth of the height by a twelfth of the width."""
    height, width = size[0] // 8, size[1] // _BITS
    return slice(row * height, (row + 1) * height), slice(bit * width, (bit + 1) * width)


def _read_row(frame: Frame, row: int) -> int:
    value = 0
    for bit in range(_BITS):
        ys, xs = _block(row, bit, (frame.shape[0], frame.shape[1]))
        # The rim is left out: chroma and deblocking bleed across it.
        level = float(frame[ys.start + 1 : ys.stop - 1, xs.start + 1 : xs.stop - 1].mean())
        if abs(level - 128) < _SURE:
            raise ValueError(
                f"row {row} bit {bit} is grey ({level:.0f}): not a frame of this source"
            )
        value = value << 1 | (level > 128)
    return value


def _background(code: int, frame: int, size: tuple[int, int]) -> Frame:
    """A drifting gradient and a bouncing square, colored by `code`."""
    height, width = size
    ys, xs = np.mgrid[:height, :width]
    phase = np.array([0.3, 0.5, 0.7]) * frame + code % 97
    waves = np.sin(xs[..., None] * 0.05 + ys[..., None] * 0.08 + phase)
    image: Frame = (128 + 80 * waves).astype(np.uint8)
    side = height // 5
    top = _ROWS * (height // 8) + (frame * 3 + code) % (height - _ROWS * (height // 8) - side)
    left = (frame * 5 + code * 7) % (width - side)
    image[top : top + side, left : left + side] = (
        code * 40 % 256,
        code * 91 % 256,
        code * 13 % 256,
    )
    return image

"""The last pictures that a slice has shown, kept because the next steps' windows look back at them.

Played forward, an episode's windows overlap from step to step. Without this, each step would go
back to the keyframe before its first frame and decode from there.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.loader.decoding.pictures import Picture, copy_picture


class LookBackFrames:
    """The last `capacity` pictures of one slice, copied into memory that is used again.

    For one thread at a time.
    """

    def __init__(self, capacity: int) -> None:
        """Keep up to `capacity` pictures; no memory is taken up before the first one."""
        self.capacity = capacity
        self._memory: NDArray[Any] | None = None
        self._frames = [-1] * capacity

    def kept(self, frames: Iterable[int]) -> set[int]:
        """Return which of these frames are kept."""
        return {frame for frame in frames if self._frames[frame % self.capacity] == frame}

    def picture(self, frame: int) -> NDArray[Any]:
        """Return a picture (H, W, C) that is kept, until `keep` displaces it. Raises KeyError for
        others.
        """
        if self._memory is None or frame not in self.kept([frame]):
            raise KeyError(frame)
        picture: NDArray[Any] = self._memory[frame % self.capacity]
        return picture

    def with_gaps(self, frames: Sequence[int]) -> list[int]:
        """Return ascending frames, with those between them that the next steps are likely to look
        back at.

        The decoder passes them in any case.
        """
        filled: list[int] = []
        for frame in frames:
            is_near = filled and frame - filled[-1] <= self.capacity
            filled += range(filled[-1] + 1, frame + 1) if is_near else [frame]
        return filled

    def keep(self, frame: int, picture: Picture) -> None:
        """Keep a picture of the CPU's in the place of the frame that was there."""
        if self._memory is None:
            dtype: Any = picture.dtype
            self._memory = np.empty((self.capacity, *picture.shape), dtype=dtype)
        copy_picture(picture, self._memory[frame % self.capacity])
        self._frames[frame % self.capacity] = frame

"""The last pictures that a slice has shown, kept because the next steps' windows look back at them.

Played forward, an episode's windows overlap from step to step. Without this, each step would go back to the keyframe
before its first frame and decode from there.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RecentPictures:
    """The last `capacity` pictures of one slice, copied into memory that is used again. For one thread at a time."""

    def __init__(self, capacity: int) -> None:
        """Nothing is taken up before the first picture."""
        self._capacity = capacity
        self._memory: NDArray[Any] | None = None
        self._frames = [-1] * capacity

    def kept(self, frames: Iterable[int]) -> set[int]:
        """Which of these frames are kept."""
        return {frame for frame in frames if self._frames[frame % self._capacity] == frame}

    def find(self, frames: Iterable[int]) -> dict[int, NDArray[Any]]:
        """Those of these frames that are kept: copies, which `keep` does not change."""
        memory = self._memory
        if memory is None:
            return {}
        return {frame: memory[frame % self._capacity].copy() for frame in self.kept(frames)}

    def with_gaps(self, frames: Sequence[int]) -> list[int]:
        """Ascending frames, with those between them that the next steps are likely to look back at.

        The decoder passes them in any case.
        """
        filled: list[int] = []
        for frame in frames:
            is_near = filled and frame - filled[-1] <= self._capacity
            filled += range(filled[-1] + 1, frame + 1) if is_near else [frame]
        return filled

    def keep(self, frames: Sequence[int], pictures: Mapping[int, Any]) -> None:
        """Keep the last of these ascending frames."""
        for frame in frames[-self._capacity :]:
            picture = pictures[frame]
            if self._memory is None:
                self._memory = np.empty((self._capacity, *picture.shape), dtype=picture.dtype)
            self._memory[frame % self._capacity] = picture
            self._frames[frame % self._capacity] = frame

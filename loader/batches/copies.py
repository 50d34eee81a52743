"""Pictures of a step that are in the frame cache: copied into its batch, many in one call."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roboshard.loader.batches.buffers import Buffers
from roboshard.loader.batches.pending_batch import PendingBatch
from roboshard.loader.frame_cache.frames import Found, FrameCache, copy_found
from roboshard.loader.samples.rows import WindowedStep

COPIED_AT_ONCE = 32
"""Pictures that one thread copies, while others copy further ones of the same step."""

IntArray = NDArray[np.int64]


class Copy(NamedTuple):
    """What one thread is to copy."""

    pending: PendingBatch
    step: WindowedStep
    """What the pending step was made of: for pictures that turn out to be damaged."""
    found: Found

    @property
    def is_video(self) -> bool:
        """Return whether the pictures count as frames of video."""
        return any(episode.is_video(self.found.key) for episode in self.step.episodes)

    @property
    def num_pictures(self) -> int:
        """Return how many pictures there are to copy."""
        return len(self.found.places)

    def run(self, cache: FrameCache, buffers: Buffers) -> IntArray:
        """Copy the pictures, and return the places of those that are damaged and must be decoded."""
        good = cache.good(self.found.store, self.found.rows)
        intact = self.found._replace(places=self.found.places[good], rows=self.found.rows[good])
        if len(intact.places):
            like = intact.store.picture(int(intact.rows[0]))
            copy_found(intact, self.pending.memory(self.found.key, like, buffers))
        return self.found.places[~good]


def copies_of(pending: PendingBatch, step: WindowedStep, cache: FrameCache) -> Iterator[Copy]:
    """Yield what there is to copy for a step, in parts for one thread each."""
    for found in cache.find(step):
        for begin in range(0, len(found.places), COPIED_AT_ONCE):
            part = slice(begin, begin + COPIED_AT_ONCE)
            yield Copy(
                pending, step, found._replace(places=found.places[part], rows=found.rows[part])
            )


def others(step: WindowedStep, copies: Sequence[Copy]) -> dict[str, IntArray]:
    """Return key -> places of the pictures of a step that are not copied."""
    others = {}
    for key, frames in step.frames.items():
        is_left = np.ones(frames.size, dtype=np.bool_)
        for copy in copies:
            if copy.found.key == key:
                is_left[copy.found.places] = False
        others[key] = np.flatnonzero(is_left)
    return others

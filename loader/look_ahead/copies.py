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
    """What one thread is to copy: pictures of one key, of one dataset or of several."""

    pending: PendingBatch
    step: WindowedStep
    """What the pending step was made of: for pictures that turn out to be damaged."""
    found: tuple[Found, ...]

    @property
    def key(self) -> str:
        """Return the camera or image feature."""
        return self.found[0].key

    @property
    def is_video(self) -> bool:
        """Return whether the pictures count as frames of video."""
        return any(episode.is_video(self.key) for episode in self.step.episodes)

    @property
    def num_pictures(self) -> int:
        """Return how many pictures there are to copy."""
        return sum(len(found.places) for found in self.found)

    def run(self, cache: FrameCache, buffers: Buffers) -> tuple[IntArray, int]:
        """Copy the pictures; return the places of damaged ones, to be decoded, and bytes read."""
        lacking, num_bytes = [], 0
        for found in self.found:
            good = cache.good(found.store, found.rows)
            intact = found
            if not good.all():
                intact = found._replace(places=found.places[good], rows=found.rows[good])
                lacking.append(found.places[~good])
            if len(intact.places):
                like = intact.store.picture(int(intact.rows[0]))
                memory = self.pending.memory(found.key, like, buffers)
                goes_to = self.pending.places(found.key, intact.places)
                copy_found(intact._replace(places=goes_to), memory)
            num_bytes += len(intact.places) * found.store.spec.picture_bytes
        return np.concatenate([np.empty(0, dtype=np.int64), *lacking]), num_bytes


def copies_of(pending: PendingBatch, step: WindowedStep, cache: FrameCache | None) -> list[Copy]:
    """Return what there is to copy for a step, in parts for one thread each."""
    return [] if cache is None else list(_parts(pending, step, cache))


def _parts(pending: PendingBatch, step: WindowedStep, cache: FrameCache) -> Iterator[Copy]:
    parts: list[Found] = []
    for found in cache.find(step):
        for begin in range(0, len(found.places), COPIED_AT_ONCE):
            part = slice(begin, begin + COPIED_AT_ONCE)
            part_found = found._replace(places=found.places[part], rows=found.rows[part])
            together = sum(len(other.places) for other in parts) + len(part_found.places)
            if parts and (parts[0].key != found.key or together > COPIED_AT_ONCE):
                yield Copy(pending, step, tuple(parts))
                parts = []
            parts.append(part_found)
    if parts:
        yield Copy(pending, step, tuple(parts))


def others(step: WindowedStep, copies: Sequence[Copy]) -> dict[str, IntArray]:
    """Return key -> places of the pictures of a step that are not copied."""
    others = {}
    for key, frames in step.frames.items():
        is_left = np.ones(frames.size, dtype=np.bool_)
        for copy in copies:
            if copy.key == key:
                for found in copy.found:
                    is_left[found.places] = False
        others[key] = np.flatnonzero(is_left)
    return others

"""Where decoding may begin in a slice, and which decoders may serve it from there."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import FormatError
from roboshard.loader.decoding.codec import FORGETTING, Kind
from roboshard.loader.decoding.parameter_sets import NO_SETS, Start, starts_of_gops
from roboshard.shards.gop import frames_passed
from roboshard.shards.mp4 import SampleTables
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import SlicePackets


class Gops:
    """The GOPs of a slice: from each safe keyframe to the next, in decode order as in the order of
    showing.
    """

    def __init__(self, packets: SlicePackets, camera: CameraRecord) -> None:
        """Find the GOPs. Raises ValueError for packets that are not those of a decodable slice."""
        tables = packets.tables
        frames = np.asarray(camera.keyframes, dtype=np.int64)
        firsts = tables.as_shown[frames]
        is_safe = _divides(tables)[firsts]
        if not is_safe.any():
            raise FormatError("no keyframe from which decoding can start")
        self._frames: list[int] = frames[is_safe].tolist()
        self._starts = starts_of_gops(
            packets.payload, tables, firsts[is_safe].tolist(), camera.codec, camera.pix_fmt
        )
        self._description = tables.description if camera.codec in FORGETTING else None

    def of(self, frame: int) -> int:
        """Return the GOP that a frame is in. Raises FormatError for one before the first
        keyframe.
        """
        gop = bisect_right(self._frames, frame) - 1
        if gop < 0:
            raise FormatError(f"no keyframe up to frame {frame}")
        return gop

    def passed(self, frames: Sequence[int]) -> list[int]:
        """Return ascending frames with all those before them in their GOPs."""
        return frames_passed(frames, self._frames, None)

    def frame(self, gop: int) -> int:
        """Return the first frame of a GOP."""
        return self._frames[gop]

    def end_frame(self, gop: int) -> int | None:
        """Return the first frame after a GOP; None: it is the last one."""
        return self._frames[gop + 1] if gop + 1 < len(self._frames) else None

    @property
    def are_alike(self) -> bool:
        """Whether all GOPs begin with what their decoder must have seen, the same for all."""
        return self._starts is None

    def start(self, gop: int) -> Start:
        """Return what a decoder must have seen before the GOP."""
        return NO_SETS if self._starts is None else self._starts[gop]

    def kind(self, gop: int) -> Kind | None:
        """Return which decoders may serve the GOP; None: only a new one, and no other GOP after
        it.
        """
        if self._starts is None:
            return self._description
        start = self._starts[gop]
        if self._description is None or not start.is_final:
            return None
        return self._description + start.sets


def _divides(tables: SampleTables) -> NDArray[np.bool_]:
    """Return (packets,) whether each is shown after all before it, and before all after it."""
    before = np.maximum.accumulate(np.append(np.iinfo(np.int64).min, tables.pts[:-1]))
    later = np.append(tables.pts[1:], np.iinfo(np.int64).max)
    after = np.minimum.accumulate(later[::-1])[::-1]
    divides: NDArray[np.bool_] = (before <= tables.pts) & (tables.pts < after)
    return divides

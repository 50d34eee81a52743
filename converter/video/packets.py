"""Coded pictures of a video as arrays and packets."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Packets:
    """Coded pictures in decode order, times in ticks; each array of shape (num_packets,)."""

    time_base: Fraction
    """Seconds per tick, of the source that the packets were demuxed from."""
    pts: IntArray
    dts: IntArray
    is_keyframe: BoolArray
    """Whether each packet is flagged as a keyframe, and safe: decoding can start there."""
    is_hidden: BoolArray
    """Whether an edit list hides each packet: it is decoded and not shown."""
    headers: list[bytes | None]
    """Codec parameters that a packet comes with, where it begins another sample description of the
    file, or is the first of one after the demuxer was sent there.
    """
    coded: "list[av.Packet[Any]]"
    """The packets as demuxed. Their times change when they are muxed; their payload, which is never
    copied, does not.
    """

    def __len__(self) -> int:
        return len(self.coded)

    def take(self, positions: IntArray) -> "Packets":
        """Return the packets at these positions."""
        return Packets(
            time_base=self.time_base,
            pts=self.pts[positions],
            dts=self.dts[positions],
            is_keyframe=self.is_keyframe[positions],
            is_hidden=self.is_hidden[positions],
            headers=[self.headers[i] for i in positions.tolist()],
            coded=[self.coded[i] for i in positions.tolist()],
        )

"""Decoders without files: packets in, frames out. They pass from slice to slice, so that few are
needed.
"""

from collections.abc import Callable
from threading import Lock
from typing import Any

import av
from av.video.frame import VideoFrame

from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import open_container

FORGETTING = frozenset(
    ("av1", "dnxhd", "ffv1", "h264", "hevc", "huffyuv", "png", "prores", "rawvideo", "utvideo")
)
"""Codecs whose decoders are as new after `Codec.reset`, but for the parameter sets of H.264 and
HEVC.

AV1 forgets all, the others begin anew with each keyframe.
"""
MAX_IDLE = 32
"""Most decoders that wait for a slice of their kind; slices of one dataset are of as many kinds as
it has cameras.
"""

Kind = bytes
"""What a decoder has been told before the packets of a GOP: GOPs of one kind may be given to one
decoder in turn.
"""


class Codec:
    """One decoder, for GOPs of one kind. Used by one thread at a time."""

    def __init__(self, data: memoryview, camera: CameraRecord) -> None:
        """Make a decoder ready for the packets of a slice, which `read_slice` has read."""
        with open_container(data, camera) as container:
            self._context: Any = container.streams.video[0].codec_context
        self._context.thread_count = 1  # FFmpeg starts one per CPU otherwise

    def feed(
        self, data: memoryview | bytes, pts: int, dts: int, *, is_keyframe: bool
    ) -> list[VideoFrame]:
        """Decode a packet, and return the frames that are complete, in the order in which they are
        shown.
        """
        buffer: Any = data  # any will do
        packet: Any = av.Packet(buffer)
        packet.pts, packet.dts = pts, dts
        # A PNG picture that is not said to be a keyframe is taken for a difference to the last one.
        packet.is_keyframe = is_keyframe
        frames: list[VideoFrame] = self._context.decode(packet)
        return frames

    def drain(self) -> list[VideoFrame]:
        """Return the frames that are still held back. Then only `reset` is allowed."""
        frames: list[VideoFrame] = self._context.decode(None)
        return frames

    def reset(self) -> None:
        """Forget all frames, before a keyframe is fed."""
        self._context.flush_buffers()


class Codecs:
    """Decoders that nobody uses now. What they work with is warm in the caches, so the last one is
    taken first.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._idle: list[tuple[Kind, Codec]] = []

    def take(self, kind: Kind, make: Callable[[], Codec]) -> Codec:
        """Take an idle decoder for GOPs of this kind, the one that was used last, or make a new
        one.
        """
        with self._lock:
            for place in range(len(self._idle) - 1, -1, -1):
                if self._idle[place][0] == kind:
                    return self._idle.pop(place)[1]
        return make()

    def give_back(self, kind: Kind, codec: Codec) -> None:
        """Hand in a decoder that has been reset."""
        with self._lock:
            self._idle.append((kind, codec))
            if len(self._idle) > MAX_IDLE:
                del self._idle[0]

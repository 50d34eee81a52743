"""Decoders without files: packets in, frames out. They pass from slice to slice, so that few are needed."""

import io
from collections.abc import Callable
from threading import Lock
from typing import Any, cast

import av
from av.video.frame import VideoFrame

MAX_IDLE = 32
"""Decoders that wait for a slice of their kind; slices of one dataset are of as many kinds as it has cameras."""


class Codec:
    """One decoder, for slices whose sample descriptions are the same. Used by one thread at a time."""

    def __init__(self, data: memoryview) -> None:
        """Made ready for the packets of an MP4 file."""
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            self._context = container.streams.video[0].codec_context
        self._context.thread_count = 1  # FFmpeg starts one per CPU otherwise

    def feed(self, data: memoryview, pts: int, dts: int) -> list[VideoFrame]:
        """Decode a packet; the frames that are complete, in the order in which they are shown."""
        packet: Any = av.Packet(cast(bytes, data))  # any buffer will do
        packet.pts, packet.dts = pts, dts
        frames: list[VideoFrame] = self._context.decode(packet)
        return frames

    def drain(self) -> list[VideoFrame]:
        """The frames that are still held back. Then only `reset` is allowed."""
        return self._context.decode(None)

    def reset(self) -> None:
        """Forget everything, before a keyframe is fed."""
        self._context.flush_buffers()


class Codecs:
    """Decoders that nobody uses now. What they work with is warm in the caches, so the last one is taken first."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._idle: list[tuple[bytes, Codec]] = []

    def take(self, kind: bytes, make: Callable[[], Codec]) -> Codec:
        """One for slices of this kind, or a new one."""
        with self._lock:
            place = next(
                (i for i in reversed(range(len(self._idle))) if self._idle[i][0] == kind), None
            )
            if place is not None:
                return self._idle.pop(place)[1]
        return make()

    def give_back(self, kind: bytes, codec: Codec) -> None:
        """It has been reset."""
        with self._lock:
            self._idle.append((kind, codec))
            del self._idle[:-MAX_IDLE]

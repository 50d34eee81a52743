"""What is in an MP4 file, told by PyAV and by its boxes; nothing here seeks."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from numpy.typing import NDArray


@dataclass(frozen=True)
class Packet:
    """A packet as the demuxer gives it; times in seconds."""

    pts: float
    dts: float
    key: bool
    discard: bool


def packets(path: Path) -> list[Packet]:
    """Return the packets of a video file in decode order."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        tick = float(stream.time_base)
        return [
            Packet(p.pts * tick, p.dts * tick, p.is_keyframe, p.is_discard)
            for p in container.demux(stream)
            if p.pts is not None and p.dts is not None
        ]


def pyav_frames(path: Path) -> list[tuple[float, NDArray[Any]]]:
    """(time in seconds, RGB) of each shown frame, by PyAV's own FFmpeg and without a seek."""
    with av.open(str(path)) as container:
        return [
            (f.time, f.to_ndarray(format="rgb24"))
            for f in container.decode(video=0)
            if f.time is not None
        ]


def shown_keyframes(path: Path) -> set[int]:
    """Positions of the keyframes among the shown frames."""
    shown = sorted((p for p in packets(path) if not p.discard), key=lambda p: p.pts)
    return {index for index, packet in enumerate(shown) if packet.key}


def boxes(path: Path) -> list[str]:
    """Types of an MP4 file's top-level boxes, in order."""
    data, offset, found = path.read_bytes(), 0, []
    while offset < len(data):
        size, kind = struct.unpack_from(">I4s", data, offset)
        found.append(kind.decode())
        offset += size
    return found


def leading_packets(path: Path) -> int:
    """Packets that come after a keyframe in the file and are shown before it (and are no start of
    file).
    """
    count, last_key = 0, None
    for packet in packets(path):
        if packet.key:
            last_key = packet
        count += last_key is not None and packet.pts < last_key.pts
    return count

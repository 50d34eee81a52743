"""Decoding all packets of some frames in one piece, with one call.

What FFmpeg and Python do around a packet costs as much as a part of decoding a small picture. dav1d
needs nothing between two packets, so those of AV1 may be given to it one behind the other.
"""

from collections.abc import Iterator, Sequence

import av
import numpy as np

from roboshard.loader.decoding.codec import Codec
from roboshard.loader.decoding.gops import Gops
from roboshard.loader.decoding.packet_bytes import PacketBytes
from roboshard.shards.mp4 import SampleTables

PER_WANTED = 3
"""Frames decoded in one go for each that is wanted, at the most: they are in memory at once."""


def can_be_joined(codec: str, tables: SampleTables, gops: Gops) -> bool:
    """Whether packets may be given to a decoder in one piece: each is of one frame, shown in the
    order of decoding, and none needs parameter sets before it.
    """
    shown = tables.as_shown
    return codec == "av1" and gops.are_alike and bool(np.all(shown[:-1] < shown[1:]))


def to_be_joined(indices: Sequence[int], gops: Gops) -> list[int]:
    """Return the frames to decode in one piece for these ascending ones, from the keyframes before
    them on; none where one by one costs less.
    """
    passed = gops.passed(indices)
    return passed if 1 < len(passed) <= PER_WANTED * len(indices) else []


def decode_joined(
    codec: Codec, packets: PacketBytes, frames: Sequence[int], last: int
) -> list[av.VideoFrame] | None:
    """Decode the packets of these frames in one piece; packets up to `last` are wanted soon.

    None where the decoder gives other than one frame for each packet: which is which is not known
    then.
    """
    data = b"".join(
        [
            packets.of(packet, max(stop, last + 1))
            for first, stop in _runs(frames)
            for packet in range(first, stop)
        ]
    )
    try:
        found = codec.feed(data, frames[0], frames[0], is_keyframe=True) + codec.drain()
    except av.FFmpegError:
        return None
    return found if len(found) == len(frames) else None


def _runs(frames: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of frames that follow one another."""
    first = stop = frames[0]
    for frame in frames:
        if frame != stop:
            yield first, stop
            first = frame
        stop = frame + 1
    yield first, stop

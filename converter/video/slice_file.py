"""A slice as a file of its own: packets of a source, copied, read back, compared and described.

They go into an MP4 file where that holds them exactly, and into a Matroska file otherwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from roboshard.common.errors import SourceError
from roboshard.converter.video.alignment import pts_runs, row_runs
from roboshard.converter.video.matroska_file import matroska_copy
from roboshard.converter.video.mp4_file import mp4_copy
from roboshard.converter.video.packets import BoolArray, IntArray, Packets
from roboshard.converter.video.slice_copy import CannotHoldError, SliceCopy
from roboshard.shards.gop import lowest_later
from roboshard.shards.names import matroska_suffix
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import DECODERS

REMEDY = "Encode it again: --video reencode"


@dataclass(frozen=True, kw_only=True)
class VideoSlice:
    """An MP4 or Matroska file and what the episode record says of it."""

    data: bytes
    camera: CameraRecord


class SourceVideo(Protocol):
    """A source's video file, opened."""

    def streams(self, packets: Packets) -> Iterator[Any]:
        """Yield streams that tell a decoder of these packets what it must know, the best one
        first.
        """

    @property
    def turns(self) -> int:
        """Quarter turns by which the video's pictures are turned before they are shown."""


def copied_slice(
    video: SourceVideo, packets: Packets, shown: IntArray, *, key: str, member: str
) -> VideoSlice:
    """Copy packets of a source video into a file, read it back, and describe what it holds.

    Args:
        video: What the packets were demuxed from.
        packets: Those of the slice, in decode order.
        shown: (rows,) pts of the frame that each row shows, in ticks of the source.
        key: The camera's feature key.
        member: The member's suffix if it is an MP4 file; that of a Matroska file is made of it.

    Raises:
        SourceError: Neither file can hold the packets exactly; with the reasons and the remedy.
        av.FFmpegError: A file cannot be read back.
    """
    copy, stream, member = _copy(video, packets, member)
    context = stream.codec_context
    ticks = (packets.pts - copy.start) * copy.factor
    in_order = np.sort(ticks)
    frames = _positions(in_order, (shown - copy.start) * copy.factor)
    camera = CameraRecord(
        key=key,
        member=member,
        codec=str(context.codec.canonical_name),
        width=context.width,
        height=context.height,
        pix_fmt=context.pix_fmt or "unknown",
        num_frames=len(ticks),
        skip_frames=frames[0],
        keyframes=_safe_keyframes(ticks, packets.is_keyframe, in_order),
        time_base=(copy.time_base.numerator, copy.time_base.denominator),
        pts=pts_runs(in_order.tolist()),
        rows=row_runs(frames),
    )
    return VideoSlice(data=copy.data, camera=camera)


def _copy(video: SourceVideo, packets: Packets, member: str) -> tuple[SliceCopy, Any, str]:
    """Return a file of the packets, the stream whose parameters it has, and its suffix."""
    streams, reasons = [], []
    for stream in video.streams(packets):
        _check_codec(stream)
        streams.append(stream)
        try:
            return mp4_copy(stream, packets), stream, member
        except CannotHoldError as error:
            reasons.append(str(error))
    try:
        if video.turns:
            raise CannotHoldError("a Matroska slice cannot hold that its pictures are turned")
        return matroska_copy(streams[0], packets), streams[0], matroska_suffix(member)
    except CannotHoldError as error:
        reasons.append(str(error))
    raise SourceError(f"{'; '.join(dict.fromkeys(reasons))}. {REMEDY}")


def _check_codec(stream: Any) -> None:
    """Raise SourceError for a codec that no slice may have: nothing that converted may fail to
    load.
    """
    codec = str(stream.codec_context.codec.canonical_name)
    if codec not in DECODERS:
        raise SourceError(f"its codec {codec} is none that slices may have. {REMEDY}")


def _safe_keyframes(ticks: IntArray, is_keyframe: BoolArray, in_order: IntArray) -> list[int]:
    """Keyframes, as frames of the slice, that no later packet in decode order comes before in
    time.
    """
    return _positions(in_order, np.sort(ticks[is_keyframe & (ticks < lowest_later(ticks))]))


def _positions(in_order: IntArray, ticks: IntArray) -> list[int]:
    """Frames that are shown at these times: of several at one time, all but one hidden, the
    last.
    """
    frames: list[int] = (np.searchsorted(in_order, ticks, side="right") - 1).tolist()
    return frames

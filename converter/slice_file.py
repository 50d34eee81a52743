"""A slice as a file of its own: packets of a source muxed, read back, compared and described.

The file is opened again, and its sample tables and payload are compared with the packets of the source, before it
is used.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from roboshard.converter.alignment import pts_runs, row_runs
from roboshard.converter.packets import BoolArray, IntArray, Packets, lowest_later
from roboshard.shards.errors import SourceError
from roboshard.shards.mp4 import read_sample_tables
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import DECODERS

_PARAMETERS = (
    "name",
    "width",
    "height",
    "pix_fmt",
    "profile",
    "color_range",
    "color_primaries",
    "color_trc",
    "colorspace",
    "sample_aspect_ratio",
    "extradata",
)


@dataclass(frozen=True, kw_only=True)
class VideoSlice:
    """An MP4 file and what the episode record says of it."""

    data: bytes
    camera: CameraRecord


def copied_slice(
    source: Any, packets: Packets, shown: IntArray, *, key: str, member: str
) -> VideoSlice:
    """Copy packets of the stream `source` into a file, read it back, and describe what it holds.

    Args:
        source: the video stream that the packets were demuxed from.
        packets: those of the slice, in decode order.
        shown: (rows,) pts of the frame that each row shows, in ticks of the source.
        key: the camera's feature key.
        member: the slice's member name.

    Raises:
        SourceError: the packets cannot be copied exactly.
        FFmpegError: they cannot be muxed.
    """
    codec = str(source.codec_context.codec.canonical_name)
    if codec not in DECODERS:  # nothing that was converted may fail to load
        raise SourceError(f"slices cannot hold the codec {codec}, but {', '.join(DECODERS)}")
    time_base = Fraction(source.time_base)
    data = _mux(source, packets)
    copy_time_base = _read_time_base(data, source)
    scale = time_base / copy_time_base
    if scale.denominator != 1:
        raise SourceError(f"an MP4 slice cannot hold its time base of {time_base} s")
    start, factor = packets.dts[0], scale.numerator
    _check_copied(data, packets, copy_time_base, factor)
    ticks = (packets.pts - start) * factor
    in_order = np.sort(ticks)
    frames = _positions(in_order, (shown - start) * factor)
    context = source.codec_context
    camera = CameraRecord(
        key=key,
        member=member,
        codec=codec,
        width=context.width,
        height=context.height,
        pix_fmt=context.pix_fmt or "unknown",
        num_frames=len(ticks),
        skip_frames=frames[0],
        keyframes=_safe_keyframes(ticks, packets.is_keyframe, in_order),
        time_base=(copy_time_base.numerator, copy_time_base.denominator),
        pts=pts_runs(in_order.tolist()),
        rows=row_runs(frames),
    )
    return VideoSlice(data=data, camera=camera)


def _mux(source: Any, packets: Packets) -> bytes:
    buffer = io.BytesIO()
    time_base, start = Fraction(source.time_base), packets.dts[0]
    # Without an edit list: readers disagree on what one hides. Times then start at the decoder's delay.
    options = {"fflags": "+bitexact", "use_editlist": "0"}
    with av.open(buffer, "w", format="mp4", options=options) as output:
        # opaque: copy codec parameters as they are; a decoder's name (libdav1d) is not a codec to mux.
        try:
            stream = output.add_stream_from_template(source, opaque=True)
        except ValueError as error:
            raise SourceError(f"an MP4 slice cannot hold its codec: {error}") from error
        stream.time_base = time_base
        duration = int(np.diff(np.sort(packets.pts)).min()) if len(packets) > 1 else 1
        columns = (
            packets.pts - start,
            packets.dts - start,
            packets.is_keyframe,
            packets.is_hidden,
        )
        for coded, pts, dts, key, hidden in zip(
            packets.coded, *(c.tolist() for c in columns), strict=True
        ):
            packet = _without_flags(coded, time_base) if hidden else coded
            packet.pts, packet.dts = pts, dts
            packet.duration = duration
            packet.is_keyframe = key
            packet.stream = stream
            output.mux(packet)
    return buffer.getvalue()


def _without_flags(coded: "av.Packet[Any]", time_base: Fraction) -> "av.Packet[Any]":
    packet: av.Packet[Any] = av.Packet(bytes(coded))
    packet.time_base = time_base
    return packet


def _read_time_base(data: bytes, source: Any) -> Fraction:
    """A slice's time base, as FFmpeg sees it, which must see the codec parameters of the source too."""
    with av.open(io.BytesIO(data), "r") as copy:
        stream = copy.streams.video[0]
        _check_parameters(source, stream)
        return Fraction(stream.time_base or 1)


def _check_parameters(source: Any, copy: Any) -> None:
    for name in _PARAMETERS:
        theirs, ours = getattr(source.codec_context, name), getattr(copy.codec_context, name)
        if theirs != ours:
            raise SourceError(f"its {name} {theirs!r} would become {ours!r} in an MP4 slice")


def _check_copied(data: bytes, packets: Packets, time_base: Fraction, factor: int) -> None:
    """The slice holds exactly these packets: payloads, times, keyframes. Its tables say all that a demuxer would."""
    try:
        tables = read_sample_tables(data)
    except ValueError as error:
        raise SourceError(f"the slice does not read back: {error}") from error
    payload = b"".join(packets.coded)
    sizes = np.array([packet.size for packet in packets.coded], dtype=np.int64)
    start, first = packets.dts[0], int(tables.offsets[0])
    same = (
        Fraction(1, tables.timescale) == time_base
        and np.array_equal(tables.sizes, sizes)
        and np.array_equal(tables.offsets, first + np.cumsum(sizes) - sizes)
        and data.startswith(payload, first)
        and np.array_equal(tables.pts, (packets.pts - start) * factor)
        and np.array_equal(tables.dts, (packets.dts - start) * factor)
        and np.array_equal(tables.is_sync, packets.is_keyframe)
    )
    if not same:
        raise SourceError("the copied packets do not read back as they are in the source")


def _safe_keyframes(ticks: IntArray, is_keyframe: BoolArray, in_order: IntArray) -> list[int]:
    """Keyframes, as frames of the slice, that no later packet in decode order comes before in time."""
    return _positions(in_order, np.sort(ticks[is_keyframe & (ticks < lowest_later(ticks))]))


def _positions(in_order: IntArray, ticks: IntArray) -> list[int]:
    """Frames that are shown at these times: of several at one time, all but one hidden, the last."""
    frames: list[int] = (np.searchsorted(in_order, ticks, side="right") - 1).tolist()
    return frames

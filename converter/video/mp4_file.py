"""A slice as an MP4 file: packets muxed by FFmpeg, and read back by another way."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np

from roboshard.common.errors import SourceError
from roboshard.converter.video.packets import Packets
from roboshard.converter.video.slice_copy import CannotHoldError, SliceCopy, check_parameters
from roboshard.shards.mp4 import read_sample_tables


def mp4_copy(source: Any, packets: Packets) -> SliceCopy:
    """Copy packets of the stream `source` into an MP4 file, whose times start at the decoder's
    delay.

    Raises:
        CannotHoldError: An MP4 file cannot hold them exactly.
        SourceError: The file does not hold what was put into it.
        av.FFmpegError: The file cannot be read back.
    """
    _check_framing(source.codec_context)
    try:
        data = _mux(source, packets)
    except av.FFmpegError as error:
        raise CannotHoldError(f"an MP4 slice cannot hold it: {error.strerror}") from error
    copy_time_base = _check_copied(data, packets)
    _check_stream(data, source, copy_time_base)
    scale = packets.time_base / copy_time_base
    start = int(packets.dts[0])
    return SliceCopy(data=data, time_base=copy_time_base, start=start, factor=scale.numerator)


def _check_framing(context: Any) -> None:
    """Raise CannotHoldError for pictures between start codes (H.264 and H.265, Annex B), which
    would be rewritten.
    """
    extradata = bytes(context.extradata or b"")
    if context.codec.canonical_name in ("h264", "hevc") and extradata[:1] == b"\0":
        raise CannotHoldError("an MP4 slice cannot hold its packets as they are framed (Annex B)")


def _mux(source: Any, packets: Packets) -> bytes:
    buffer = io.BytesIO()
    time_base, start = packets.time_base, packets.dts[0]
    # Without an edit list: readers disagree on what one hides. Times then start at the decoder's
    # delay.
    options = {"fflags": "+bitexact", "use_editlist": "0"}
    with av.open(buffer, "w", format="mp4", options=options) as output:
        # opaque: copy codec parameters as they are; a decoder's name (libdav1d) is not a codec to
        # mux.
        try:
            stream = output.add_stream_from_template(source, opaque=True)
        except ValueError as error:
            raise CannotHoldError(f"an MP4 slice cannot hold its codec: {error}") from error
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


def _check_copied(data: bytes, packets: Packets) -> Fraction:
    """Return the time base of a file that holds exactly these packets: payloads, times, keyframes.

    Its tables say all that a demuxer would.
    """
    try:
        tables = read_sample_tables(data)
    except ValueError as error:
        raise SourceError(f"the slice does not read back: {error}") from error
    scale = packets.time_base * tables.timescale
    if scale.denominator != 1:
        raise CannotHoldError(f"an MP4 slice cannot hold its time base of {packets.time_base} s")
    payload = b"".join(packets.coded)
    sizes = np.array([packet.size for packet in packets.coded], dtype=np.int64)
    start, first = packets.dts[0], int(tables.offsets[0])
    same = (
        np.array_equal(tables.sizes, sizes)
        and np.array_equal(tables.offsets, first + np.cumsum(sizes) - sizes)
        and data.startswith(payload, first)
        and np.array_equal(tables.pts, (packets.pts - start) * scale.numerator)
        and np.array_equal(tables.dts, (packets.dts - start) * scale.numerator)
        and np.array_equal(tables.is_sync, packets.is_keyframe)
    )
    if not same:
        raise SourceError("the copied packets do not read back as they are in the source")
    return Fraction(1, tables.timescale)


def _check_stream(data: bytes, source: Any, time_base: Fraction) -> None:
    """Raise CannotHoldError unless FFmpeg sees the source's codec parameters, and time as it was
    muxed.
    """
    with av.open(io.BytesIO(data), "r", format="mp4") as container:
        copy = container.streams.video[0]
        check_parameters(source, copy, "an MP4")
        if copy.time_base != time_base:
            raise SourceError(f"its time base {time_base} s reads back as {copy.time_base} s")

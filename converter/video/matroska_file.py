"""A slice as a Matroska file: packets written block by block, and read back by FFmpeg."""

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np

from roboshard.common.errors import SourceError
from roboshard.converter.video.packets import IntArray, Packets
from roboshard.converter.video.picture_changes import decoded, decoder_of
from roboshard.converter.video.side_data import side_data_of
from roboshard.converter.video.slice_copy import CannotHoldError, SliceCopy, check_parameters
from roboshard.shards.matroska import NS_PER_S, block_of, read_matroska, rounded_ticks
from roboshard.shards.matroska_track import Coding, Stream, codings, track_entry
from roboshard.shards.matroska_writer import FINE_NS, MILLISECOND_NS, MatroskaWriter

_COMPARED = "rgb48le"
"""A pixel format that holds the levels of any other one, up to rounding that is always the same."""


def matroska_copy(source: Any, packets: Packets) -> SliceCopy:
    """Copy packets of the stream `source` into a Matroska file, whose first frame is shown at 0.

    The record has the source's exact times, the file the same ones rounded to its own ticks.

    Raises:
        CannotHoldError: A Matroska file cannot hold them exactly.
    """
    if (what := side_data_of(packets.coded, source)) is not None:
        raise CannotHoldError(f"a Matroska slice cannot hold what its packets come with: {what}")
    time_base, start = packets.time_base, int(packets.pts.min())
    scale_ns = _scale_of(packets.pts - start, time_base)
    ticks = rounded_ticks(packets.pts - start, time_base, scale_ns)
    if len(np.unique(ticks)) != len(ticks):
        raise CannotHoldError(
            "two frames are shown at the same time, to the tick of a Matroska slice"
        )
    stream = _described(source, packets)
    reasons = []
    for coding in codings(stream):
        data = _write(stream, coding, packets, ticks, scale_ns)
        try:
            _check_copied(data, coding, source, packets, ticks)
        except SourceError as error:
            reasons.append(str(error))
            continue
        except (
            av.FFmpegError,
            IndexError,
            AttributeError,
        ) as error:  # no stream, or none that FFmpeg knows
            reasons.append(f"the slice does not read back: {error}")
            continue
        return SliceCopy(data=data, time_base=time_base, start=start, factor=1)
    raise CannotHoldError(
        "; ".join(reasons) or f"a Matroska slice cannot hold its codec: {stream.codec}"
    )


def _scale_of(ticks: IntArray, time_base: Fraction) -> int:
    """Return the nanoseconds per tick of a file for these times: milliseconds where they are whole
    ones.
    """
    in_ms = time_base * NS_PER_S / MILLISECOND_NS
    is_whole = not np.any(ticks % in_ms.denominator)
    return MILLISECOND_NS if is_whole else FINE_NS


def _described(source: Any, packets: Packets) -> Stream:
    context = source.codec_context
    shape = source.sample_aspect_ratio
    return Stream(
        codec=str(context.codec.canonical_name),
        tag=str(context.codec_tag).encode("latin-1"),
        extradata=bytes(context.extradata or b""),
        width=context.width,
        height=context.height,
        pix_fmt=context.pix_fmt or "unknown",
        bits_per_coded_sample=context.bits_per_coded_sample,
        sample_aspect_ratio=Fraction(shape) if shape else None,
        color_range=int(context.color_range),
        color_primaries=int(context.color_primaries),
        color_trc=int(context.color_trc),
        colorspace=int(context.colorspace),
        is_reordered=bool(np.any(np.diff(packets.pts) < 0)),
    )


def _write(
    stream: Stream, coding: Coding, packets: Packets, ticks: IntArray, scale_ns: int
) -> bytes:
    distances = np.diff(np.sort(ticks))
    frame_ns = int(np.median(distances)) * scale_ns if len(distances) else 0
    buffer = io.BytesIO()
    track = track_entry(stream, coding, frame_ns)
    writer = MatroskaWriter(buffer, track, scale_ns=scale_ns, frame_ns=frame_ns)
    for packet, tick, is_keyframe in zip(
        packets.coded, ticks.tolist(), packets.is_keyframe.tolist(), strict=True
    ):
        writer.add(block_of(coding.codec_id, bytes(packet)), tick, is_keyframe=is_keyframe)
    writer.finish()
    return buffer.getvalue()


def _check_copied(
    data: bytes, coding: Coding, source: Any, packets: Packets, ticks: IntArray
) -> None:
    """Raise SourceError unless the file holds these packets, as it says itself and as FFmpeg reads
    it.
    """
    try:
        file = read_matroska(data, len(packets))
    except ValueError as error:
        raise SourceError(f"the slice does not read back: {error}") from error
    with av.open(io.BytesIO(data), "r", format="matroska") as container:
        copy = container.streams.video[0]
        # Matroska has the pixels' shape as the stream's, not as the codec's.
        if copy.sample_aspect_ratio != source.sample_aspect_ratio:
            raise SourceError("the shape of its pixels would be another one in a Matroska slice")
        expected: dict[str, object] = {
            "extradata": coding.extradata or None,
            "sample_aspect_ratio": copy.codec_context.sample_aspect_ratio,
        }
        check_parameters(source, copy, "a Matroska", expected)
        found = [packet for packet in container.demux(copy) if packet.size]
        first = _first_picture(copy.codec_context, found)
    keyframes = set(np.flatnonzero(packets.is_keyframe).tolist())
    payloads = [bytes(packet) for packet in packets.coded]
    same = (  # FFmpeg takes some pictures for keyframes that are none (H.263), but misses none
        [bytes(packet) for packet in found] == payloads
        and [file.packet(data, i) for i in range(len(packets))] == payloads
        and [packet.pts for packet in found] == ticks.tolist() == file.tables.pts.tolist()
        and keyframes <= {i for i, packet in enumerate(found) if packet.is_keyframe}
        and np.array_equal(file.tables.is_sync, packets.is_keyframe)
    )
    if not same:
        raise SourceError("the copied packets do not read back as they are in the source")
    if first != _first_picture(decoder_of(source), packets.coded):
        raise SourceError("its first picture would be another one in a Matroska slice")


def _first_picture(decoder: Any, packets: Iterable[Any]) -> tuple[object, ...] | None:
    """Return what a decoder makes of the first packets; None: nothing."""
    frame = next(decoded(decoder, packets), None)
    if frame is None:
        return None
    levels = frame.reformat(format=_COMPARED).to_ndarray()
    return frame.format.name, frame.width, frame.height, levels.tobytes()

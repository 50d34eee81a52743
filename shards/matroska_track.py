"""How Matroska names a codec and what its decoder must know: the track entry of a file (RFC 9559,
5.1.4).

Pure functions over what FFmpeg says of a stream. The names are those of the Matroska codec
specifications; what they have no name for goes under its four letters, as in AVI
(`V_MS/VFW/FOURCC`).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from roboshard.shards import ebml
from roboshard.shards.matroska import PRORES
from roboshard.shards.matroska_writer import TRACK_NUMBER

VFW = "V_MS/VFW/FOURCC"
UNCOMPRESSED = "V_UNCOMPRESSED"

_NAMES = {
    "vp8": "V_VP8",
    "vp9": "V_VP9",
    "av1": "V_AV1",
    "h264": "V_MPEG4/ISO/AVC",
    "hevc": "V_MPEGH/ISO/HEVC",
    "mpeg4": "V_MPEG4/ISO/ASP",
    "mpeg1video": "V_MPEG1",
    "mpeg2video": "V_MPEG2",
    "ffv1": "V_FFV1",
    "mjpeg": "V_MJPEG",
    "theora": "V_THEORA",
    "prores": PRORES,
    "rawvideo": UNCOMPRESSED,
}
_LENGTH_PREFIXED = ("h264", "hevc", "av1")
"""Codecs whose packets are under their own name only if their configuration record says how they
are framed.
"""
_RAW = {
    "yuv420p": b"I420",
    "yuv422p": b"Y42B",
    "yuv444p": b"444P",
    "yuyv422": b"YUY2",
    "uyvy422": b"UYVY",
    "nv12": b"NV12",
    "nv21": b"NV21",
    "gray": b"Y800",
    "gray16le": b"Y1\0\x10",
    "rgb24": b"RGB\x18",
    "bgr24": b"BGR\x18",
    "rgba": b"RGBA",
    "bgra": b"BGRA",
}
"""Pixel format -> four letters of pictures that are not compressed."""
_UNTAGGED = b"\0\0\0\0"
_FOURCCS = {"png": b"MPNG", "h264": b"H264", "hevc": b"HEVC", "jpeg2000": b"MJ2C"}
"""Codec -> four letters, for streams that come without any."""
_UNSPECIFIED = 2
"""The unspecified value of FFmpeg's (and H.273's) color properties; that of color ranges is 0."""
_UNKNOWN_UNIT, _ASPECT_RATIO_UNIT = 4, 3


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream of video as FFmpeg describes it."""

    codec: str
    tag: bytes
    """Four letters that name the codec; zeros: there are none."""
    extradata: bytes
    width: int
    height: int
    pix_fmt: str
    bits_per_coded_sample: int
    sample_aspect_ratio: Fraction | None
    color_range: int
    color_primaries: int
    color_trc: int
    colorspace: int
    is_reordered: bool
    """Whether packets are decoded in another order than they are shown."""


@dataclass(frozen=True, kw_only=True)
class Coding:
    """One way to say in Matroska how packets are coded."""

    codec_id: str
    private: bytes = b""
    extradata: bytes = b""
    """What FFmpeg gives the decoder of packets that are coded so."""
    colour_space: bytes = b""


def codec_ids(codec: str) -> tuple[str, ...]:
    """Return Matroska's names of a codec that FFmpeg calls `codec`."""
    return (_NAMES[codec], VFW) if codec in _NAMES else (VFW,)


def codings(stream: Stream) -> Iterator[Coding]:
    """Yield the ways to say how a stream's packets are coded, the best first."""
    is_framed = stream.extradata[:1] in (b"\1", b"\x81")
    if stream.codec == "rawvideo":
        if stream.pix_fmt in _RAW:
            yield Coding(codec_id=UNCOMPRESSED, colour_space=_RAW[stream.pix_fmt])
    elif stream.codec == "prores":
        if _is_fourcc(stream.tag):
            yield Coding(codec_id=PRORES, private=stream.tag, extradata=stream.tag)
    elif stream.codec in _NAMES and (stream.codec not in _LENGTH_PREFIXED or is_framed):
        private = stream.extradata
        yield Coding(codec_id=_NAMES[stream.codec], private=private, extradata=private)
    if not stream.is_reordered:  # FFmpeg takes the times of such blocks for those of decoding
        tag = stream.tag if _is_fourcc(stream.tag) else _FOURCCS.get(stream.codec, _UNTAGGED)
        if tag != _UNTAGGED:
            private = _bitmap_info(stream, tag)
            yield Coding(codec_id=VFW, private=private, extradata=stream.extradata)


def track_entry(stream: Stream, coding: Coding, frame_ns: int) -> bytes:
    """Return the body of a track entry.

    Args:
        stream: what is in the track.
        coding: how its packets are coded.
        frame_ns: nanoseconds from frame to frame, mostly; 0 where there is one frame.
    """
    fields = [
        ebml.integer(ebml.TRACK_NUMBER, TRACK_NUMBER),
        ebml.integer(ebml.TRACK_UID, TRACK_NUMBER),
        ebml.integer(ebml.TRACK_TYPE, 1),
        ebml.integer(ebml.FLAG_LACING, 0),
        ebml.element(ebml.LANGUAGE, b"und"),
        ebml.element(ebml.CODEC_ID, coding.codec_id.encode()),
    ]
    if frame_ns > 0:
        fields.append(ebml.integer(ebml.DEFAULT_DURATION, frame_ns))
    if coding.private:
        fields.append(ebml.element(ebml.CODEC_PRIVATE, coding.private))
    return b"".join([*fields, _video(stream, coding)])


def with_frame_duration(track: bytes, frame_ns: int) -> bytes:
    """Return a track entry's body with another time from frame to frame, in nanoseconds; 0:
    without.
    """
    kept = [
        track[begin:end]
        for kind, begin, _, end in ebml.elements(track, 0, len(track))
        if kind != ebml.DEFAULT_DURATION
    ]
    return b"".join(kept) + (ebml.integer(ebml.DEFAULT_DURATION, frame_ns) if frame_ns else b"")


def _video(stream: Stream, coding: Coding) -> bytes:
    fields = [
        ebml.integer(ebml.PIXEL_WIDTH, stream.width),
        ebml.integer(ebml.PIXEL_HEIGHT, stream.height),
    ]
    if stream.sample_aspect_ratio:
        shape = Fraction(stream.width, stream.height) * stream.sample_aspect_ratio
        fields += [
            ebml.integer(ebml.DISPLAY_WIDTH, shape.numerator),
            ebml.integer(ebml.DISPLAY_HEIGHT, shape.denominator),
            ebml.integer(ebml.DISPLAY_UNIT, _ASPECT_RATIO_UNIT),
        ]
    else:
        fields.append(ebml.integer(ebml.DISPLAY_UNIT, _UNKNOWN_UNIT))
    if coding.colour_space:
        fields.append(ebml.element(ebml.COLOUR_SPACE, coding.colour_space))
    colors = [
        ebml.integer(kind, value)
        for kind, value, unspecified in (
            (ebml.MATRIX_COEFFICIENTS, stream.colorspace, _UNSPECIFIED),
            (ebml.RANGE, stream.color_range, 0),
            (ebml.TRANSFER, stream.color_trc, _UNSPECIFIED),
            (ebml.PRIMARIES, stream.color_primaries, _UNSPECIFIED),
        )
        if value != unspecified
    ]
    if colors:
        fields.append(ebml.element(ebml.COLOUR, *colors))
    return ebml.element(ebml.VIDEO, *fields)


def _is_fourcc(tag: bytes) -> bool:
    return len(tag) == 4 and all(0x20 <= byte < 0x7F for byte in tag)


def _bitmap_info(stream: Stream, tag: bytes) -> bytes:
    """Return a BITMAPINFOHEADER and what its decoder must know."""
    header = struct.pack(
        "<IiiHH4sIiiII",
        40 + len(stream.extradata),
        stream.width,
        stream.height,
        1,
        stream.bits_per_coded_sample or 24,
        tag,
        stream.width * stream.height * 3,
        0,
        0,
        0,
        0,
    )
    return header + stream.extradata

"""A camera's video slice: held against its record before a demuxer sees it, and opened in one way
everywhere.

FFmpeg finds out by itself what it was given: bytes that are a playlist make it open files and URLs.
So a slice is opened only after its own tables have been read here, as the format that it was
written in, and for decoders of the codec that its record names.
"""

import os
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from roboshard.common.errors import FormatError
from roboshard.shards.matroska import read_matroska
from roboshard.shards.matroska_track import codec_ids
from roboshard.shards.mp4 import Data, SampleTables, read_sample_tables
from roboshard.shards.names import is_matroska
from roboshard.shards.schema import CameraRecord

DECODERS = {
    "av1": "libdav1d,libaom-av1,av1",
    "cfhd": "cfhd",
    "dnxhd": "dnxhd",
    "dvvideo": "dvvideo",
    "ffv1": "ffv1",
    "ffvhuff": "ffvhuff",
    "h263": "h263",
    "h264": "h264",
    "hevc": "hevc",
    "huffyuv": "huffyuv",
    "jpeg2000": "jpeg2000,libopenjpeg",
    "magicyuv": "magicyuv",
    "mjpeg": "mjpeg",
    "mpeg1video": "mpeg1video",
    "mpeg2video": "mpeg2video",
    "mpeg4": "mpeg4",
    "png": "png",
    "prores": "prores",
    "qtrle": "qtrle",
    "rawvideo": "rawvideo",
    "theora": "theora",
    "utvideo": "utvideo",
    "v210": "v210",
    "vc1": "vc1",
    "vp8": "vp8,libvpx",
    "vp9": "vp9,libvpx-vp9",
}
"""Codecs that a record may name, as FFmpeg names them, and FFmpeg's decoders of each."""

CODEC_PARAMETERS = (
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
"""What a decoder is told of a stream before its first packet, as PyAV names it."""

MAX_ROUNDING_TICKS = 1.0
"""Most ticks by which a block's time may differ from its record's: Matroska counts in ticks of its
own.
"""

_NOTHING_ELSE = {"protocol_whitelist": "none", "enable_drefs": "0", "use_absolute_path": "0"}
"""Options of FFmpeg's demuxers: no file and no URL besides the bytes at hand."""


@dataclass(frozen=True, kw_only=True)
class SlicePackets:
    """The packets of a slice, which are what its record says."""

    payload: memoryview
    """The bytes that the packets lie in."""
    tables: SampleTables
    """Where the packets lie, by offsets in `payload`, and when they are shown."""
    is_whole: bool = True
    """Whether the payload is the slice itself, not something made of it."""


def read_slice(data: memoryview, camera: CameraRecord) -> SlicePackets:
    """Read where the packets of a slice are, without a demuxer.

    Raises:
        FormatError: The slice is not a file as the format has it, or not what its record says.
    """
    check_codec(camera)
    if is_matroska(camera.member):
        return _read_matroska(data, camera)
    try:
        tables = read_sample_tables(data, camera.num_frames)
    except ValueError as error:
        raise FormatError(f"not an MP4 slice as the format has it: {error}") from error
    if not tables.lie_within(data):
        raise FormatError("its sample tables point outside the file")
    if tuple(camera.time_base) != (1, tables.timescale):
        raise FormatError(f"{tables.timescale} ticks a second, {camera.time_base} in its record")
    if not np.array_equal(tables.pts[tables.as_shown], camera.ticks()):
        raise FormatError("its frames are shown at other times than its record says")
    return SlicePackets(payload=data, tables=tables)


def _read_matroska(data: memoryview, camera: CameraRecord) -> SlicePackets:
    try:
        file = read_matroska(data, camera.num_frames)
    except ValueError as error:
        raise FormatError(f"not a Matroska slice as the format has it: {error}") from error
    if file.codec_id not in codec_ids(camera.codec):
        raise FormatError(f"its codec is {file.codec_id!r}, {camera.codec} in its record")
    numerator, denominator = camera.time_base
    expected = camera.ticks() * (numerator / denominator) * file.tables.timescale
    if np.any(np.abs(file.tables.pts[file.tables.as_shown] - expected) > MAX_ROUNDING_TICKS):
        raise FormatError("its frames are shown at other times than its record says")
    payload, tables = file.packets(data)
    return SlicePackets(payload=payload, tables=tables, is_whole=payload is data)


def open_slice(data: memoryview, camera: CameraRecord) -> Any:
    """Open a slice for demuxing, after `read_slice`. Use the container as a context manager.

    Raises:
        FormatError: The slice is not a file as the format has it, or not what its record says.
        av.FFmpegError: FFmpeg cannot read it.
    """
    read_slice(data, camera)
    return open_container(data, camera)


def open_container(data: memoryview, camera: CameraRecord) -> Any:
    """Open a slice that `read_slice` has read. Use the container as a context manager.

    Raises:
        FormatError: Its codec is not its record's.
        av.FFmpegError: FFmpeg cannot read it.
    """
    check_codec(camera)
    options = _NOTHING_ELSE | {"codec_whitelist": DECODERS[camera.codec]}
    form = "matroska" if is_matroska(camera.member) else "mp4"
    container = av.open(_File(data), "r", format=form, options=options)
    streams = container.streams.video
    context: Any = streams[0].codec_context if streams else None
    codec = None if context is None else context.codec.canonical_name
    if codec != camera.codec:
        container.close()
        raise FormatError(f"its codec is {codec}, {camera.codec} in its record")
    return container


def check_codec(camera: CameraRecord) -> None:
    """Raise FormatError unless the record names a codec that slices may have."""
    if camera.codec not in DECODERS:
        raise FormatError(
            f"its record names the codec {camera.codec!r:.40}, which is none of "
            f"{', '.join(DECODERS)}"
        )


class _File:
    """Bytes as PyAV reads a file. Unlike io.BytesIO it does not copy them all first."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        found = bytes(self._data[self._position : self._position + size])
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._data)}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._position

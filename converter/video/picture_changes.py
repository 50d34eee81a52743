"""The pictures of a slice, where its packets say of what size and samples they are, and the file's
header does not.

A file joined from several recordings has the header of the first one.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

import av

from roboshard.common.errors import SourceError
from roboshard.converter.video.described import DescribedStreams, Picture
from roboshard.converter.video.packets import Packets
from roboshard.converter.video.picture_headers import picture_header

_CONTAINERS = ("mp4", "mov", "matroska")
"""Containers that tell FFmpeg of pictures: the first that holds their codec is used."""
_WITH_START_CODES = ("h264", "hevc")
"""Codecs whose packets speak of pictures only between start codes, which MP4 and MOV would take
out.
"""
REMEDY = "convert it with --video reencode, and --size if pictures are of several sizes"


class PictureParameters:
    """Finds streams whose parameters are those of the pictures of slices of one file."""

    def __init__(self, stream: Any, first: Any, described: DescribedStreams) -> None:
        """`stream` is the file's video stream, `first` its first packet; `described` makes other
        streams.
        """
        self._stream, self._described = stream, described
        self._codec = str(stream.codec_context.codec.canonical_name)
        self._at_start = picture_header(self._codec, memoryview(first), None)
        self._pictures: dict[bytes, Picture | None] = {}
        self._stream_of: dict[bytes, Any] = {}
        """Picture header of a slice's first packet -> the stream of the slice."""

    def of(self, packets: Packets, *, to_copy: bool) -> Any:
        """Return a stream whose parameters are those of the pictures that these packets make.

        Args:
            packets: Those of a slice, in decode order.
            to_copy: They become a file. Otherwise a decoder goes through them, and sees what
                changes.

        Raises:
            SourceError: Pictures change within a slice that is copied: batches would not fit
                together.
        """
        coded = packets.coded
        begun = picture_header(self._codec, memoryview(coded[0]), None)
        if to_copy:
            self._check_changes(begun, coded)
        if begun is None:
            return self._stream
        if begun not in self._stream_of:
            picture = self._picture(begun, coded[0])
            if picture is None or self._are_told(picture, is_first=begun == self._at_start):
                self._stream_of[begun] = self._stream
            else:
                self._stream_of[begun] = self._made_for(picture, coded[0])
        return self._stream_of[begun]

    def _made_for(self, picture: Picture, packet: Any) -> Any:
        # FFmpeg makes the header of AV1, which has that of the file's first sequence, of the
        # packet.
        header = b"" if self._codec == "av1" else None
        for container in _CONTAINERS if self._codec not in _WITH_START_CODES else ("mpegts",):
            with suppress(av.FFmpegError, ValueError):  # it does not hold the codec
                return self._described.make(
                    self._stream, [packet], container=container, header=header, picture=picture
                )
        raise SourceError(
            f"its pictures are other ones than its header says, {_said(picture)}: {REMEDY}"
        )

    def _are_told(self, picture: Picture, *, is_first: bool) -> bool:
        """Whether the file's stream has the parameters of pictures; of the first ones it has the
        samples.
        """
        context = self._stream.codec_context
        width, height, pix_fmt = picture
        return (context.width, context.height) == (width, height) and (
            is_first or context.pix_fmt == pix_fmt
        )

    def _check_changes(self, header: bytes | None, coded: list[Any]) -> None:
        last = coded[0]
        for packet in coded[1:]:
            told = picture_header(self._codec, memoryview(packet), header)
            if told is not None and told != header:
                if header is not None:
                    self._check_change(header, last, told, packet)
                header, last = told, packet

    def _check_change(self, before: bytes, first: Any, after: bytes, packet: Any) -> None:
        one, other = self._picture(before, first), self._picture(after, packet)
        if one is None or other is None:
            raise SourceError(f"its pictures change within the episode: {REMEDY}")
        if one != other:
            raise SourceError(
                f"its pictures change within the episode, from {_said(one)} to {_said(other)}: "
                f"{REMEDY}"
            )

    def _picture(self, header: bytes, packet: Any) -> Picture | None:
        """Return what a packet decodes to by itself; None: nothing."""
        if header not in self._pictures:
            decoder = decoder_of(self._stream)
            try:
                frame = next(decoded(decoder, [av.Packet(bytes(packet))]), None)
            except av.FFmpegError:
                frame = None
            self._pictures[header] = (
                None if frame is None else (frame.width, frame.height, frame.format.name)
            )
        return self._pictures[header]


def decoded(decoder: Any, packets: Any) -> Iterator[av.VideoFrame]:
    """Yield what a decoder makes of packets, to the last picture."""
    decoder.thread_count = 1
    for packet in chain(packets, (None,)):
        yield from decoder.decode(packet)


def decoder_of(stream: Any) -> Any:
    """Return a decoder for the packets of a stream, whose own one must not learn from them."""
    theirs = stream.codec_context
    decoder: Any = av.CodecContext.create(theirs.codec.name, "r")
    decoder.extradata = theirs.extradata
    decoder.codec_tag = theirs.codec_tag
    decoder.width, decoder.height = theirs.width, theirs.height
    decoder.bits_per_coded_sample = theirs.bits_per_coded_sample
    if theirs.pix_fmt:
        decoder.pix_fmt = theirs.pix_fmt
    return decoder


def _said(picture: Picture) -> str:
    width, height, pix_fmt = picture
    return f"{width} x {height} ({pix_fmt})"

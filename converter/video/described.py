"""Streams that describe packets otherwise than their own file does: a few are muxed, and the result
is opened.
"""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av

Picture = tuple[int, int, str]
"""(width, height, pixel format)."""


class DescribedStreams:
    """Makes streams whose parameters a decoder or muxer is to have.

    Each stays open until `close`.
    """

    def __init__(self) -> None:
        """Start without any open stream."""
        self._opened: dict[bytes, tuple[Any, Any]] = {}

    def close(self) -> None:
        """Close all streams that were made."""
        for container, _ in self._opened.values():
            container.close()
        self._opened.clear()

    def make(
        self,
        template: Any,
        packets: Sequence[Any],
        *,
        container: str = "mp4",
        header: bytes | None = None,
        picture: Picture | None = None,
    ) -> Any:
        """Return a stream with the parameters of another one, but for those that are given.

        Args:
            template: The stream whose parameters it has.
            packets: What is muxed, any buffers, the first one a keyframe: FFmpeg looks into them.
            container: A muxer that holds the codec.
            header: The codec's header; None: the template's.
            picture: Size and samples of pictures; None: the template's.

        Raises:
            av.FFmpegError, ValueError: The container does not hold them.
        """
        data = _muxed(template, packets, container, header, picture)
        if data not in self._opened:
            opened = av.open(io.BytesIO(data), "r", format=container)
            self._opened[data] = opened, opened.streams.video[0]
        return self._opened[data][1]


def _muxed(
    template: Any,
    packets: Sequence[Any],
    container: str,
    header: bytes | None,
    picture: Picture | None,
) -> bytes:
    """A file of these packets. Its times say nothing: they count them."""
    buffer, time_base = io.BytesIO(), Fraction(template.time_base)
    options = {"fflags": "+bitexact"}
    if container in ("mp4", "mov"):
        options["use_editlist"] = "0"
    with av.open(buffer, "w", format=container, options=options) as output:
        stream: Any = output.add_stream_from_template(template, opaque=True)
        stream.time_base = time_base
        if header is not None:
            stream.codec_context.extradata = header
        if picture is not None:
            context = stream.codec_context
            context.width, context.height, context.pix_fmt = picture
        for number, data in enumerate(packets):
            packet: Any = av.Packet(bytes(data))
            packet.time_base, packet.pts, packet.dts, packet.duration = time_base, number, number, 1
            packet.is_keyframe, packet.stream = number == 0, stream
            output.mux(packet)
    return buffer.getvalue()

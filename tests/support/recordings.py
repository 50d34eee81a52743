"""Recordings by any encoder in any container, and files joined of them as LeRobot joins its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av

from .encoder_thread import in_encoder_thread
from .stamp import Frame

FPS = 10


@in_encoder_thread
def record(
    path: Path,
    frames: Sequence[Frame],
    encoder: str,
    options: Mapping[str, str],
    *,
    pix_fmt: str = "yuv420p",
    container: str = "mp4",
) -> None:
    """Encode frames, each uint8 (H, W, 3), at 10 a second, with one thread: the same bytes on every
    machine.
    """
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(encoder, rate=FPS, options=dict(options))
        assert isinstance(stream, av.VideoStream)
        (stream.height, stream.width), stream.pix_fmt = frames[0].shape[:2], pix_fmt
        stream.codec_context.thread_count = 1
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def join(
    path: Path, parts: Sequence[Path], *, container: str = "mp4", timescale: int | None = None
) -> None:
    """Make one file of the packets of several, by FFmpeg's concat demuxer, as LeRobot does."""
    playlist = path.with_suffix(".ffconcat")
    playlist.write_text("ffconcat version 1.0\n" + "".join(f"file '{part}'\n" for part in parts))
    options = {} if timescale is None else {"video_track_timescale": str(timescale)}
    with (
        av.open(str(playlist), format="concat", options={"safe": "0"}) as source,
        av.open(str(path), "w", format=container, options=options) as target,
    ):
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream, opaque=True)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)

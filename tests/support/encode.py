"""Real encoders and muxers: frames to MP4 files with the oddities a `Camera` asks for, and back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Stream
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torchcodec._core import ops as torchcodec_ops

from .encoder_thread import in_encoder_thread
from .spec import Camera, Color
from .stamp import Codes, Frame

_ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}


def write_video(
    path: Path, segments: Iterable[Iterable[Frame | Codes]], *, camera: Camera, fps: int
) -> list[float]:
    """Encode each segment apart and join them by packet copy into one MP4 file.

    Args:
        segments: Runs of frames, each uint8 (H, W, 3) or depth uint16 (H, W), encoded apart: each
            starts on a keyframe. The first `camera.hidden_frames` frames of the first run are
            hidden by an edit list.

    Returns:
        Seconds that each segment is shown, as its own file says: what the recorder notes down. With
        B-frames it can be off by 0.3 ms (edit lists count in milliseconds), and the joined file is
        off by the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        parts: list[Path] = []
        for number, frames in enumerate(segments):
            parts.append(Path(folder) / f"{number}.mp4")
            _encode(parts[-1], frames, camera=camera, fps=fps)
        hidden = Fraction(camera.hidden_frames, fps)
        shift = Fraction(camera.start_offset_s).limit_denominator(1000) - hidden
        _join(path, parts, shift=shift, fast_start=camera.moov == "head")
        durations = [_duration(part) for part in parts]
        return [float(duration) for duration in (durations[0] - hidden, *durations[1:])]


def sequential_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode a whole file from its first packet on, without one seek: the reference.

    torchcodec's public decoder seeks, and 0.13 returns wrong frames where an edit list hides a
    keyframe, so the plain "next frame" operator below it is used. It has the same RGB conversion,
    to the bit.

    Returns:
        The shown frames in order of time, uint8 (frames, H, W, 3).
    """
    hidden = {float(stamp) for stamp in hidden_times(path)}
    # "approximate" only because "exact" scans the file and then seeks to the first keyframe it
    # lists.
    decoder = torchcodec_ops.create_from_file(str(path), "approximate")
    torchcodec_ops.add_video_stream(decoder, dimension_order="NHWC", num_threads=1)
    frames: list[Frame] = []
    while True:
        try:
            frame, stamp, _ = torchcodec_ops.get_next_frame(decoder)
        except IndexError:
            return np.stack(frames)
        # FFmpeg 5's libdav1d gives out frames that the demuxer marked as discarded.
        if not any(abs(stamp.item() - time) < 1e-4 for time in hidden):
            frames.append(frame.numpy())


def hidden_times(path: Path) -> list[Fraction]:
    """Times in seconds of the packets that the demuxer marks as discarded, because of an edit
    list.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [
            packet.pts * _time_base(stream)
            for packet in container.demux(stream)
            if packet.pts is not None and packet.is_discard
        ]


@in_encoder_thread
def _encode(path: Path, frames: Iterable[Frame | Codes], *, camera: Camera, fps: int) -> None:
    """Encode one run of frames into an MP4 file of its own."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            _ENCODERS[camera.codec], rate=fps, options=_encoder_options(camera)
        )
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = camera.size
        stream.pix_fmt = camera.pix_fmt
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        for index, pixels in enumerate(frames):
            frame = _to_yuv(pixels, camera)
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _to_yuv(pixels: Frame | Codes, camera: Camera) -> av.VideoFrame:
    """Convert uint8 (H, W, 3) RGB, or uint16 (H, W) depth codes, to the camera's pixel format.

    RGB is converted in the range and with the matrix that the camera's tags promise.
    """
    if camera.depth is not None:
        return av.VideoFrame.from_ndarray(pixels, format=camera.pix_fmt)
    color = camera.color or Color(colorspace="smpte170m")
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format=camera.pix_fmt,
        dst_color_range=ColorRange.JPEG if color.range == "pc" else ColorRange.MPEG,
        dst_colorspace=Colorspace.ITU709 if color.colorspace == "bt709" else Colorspace.ITU601,
    )


def _encoder_options(camera: Camera) -> dict[str, str]:
    """FFmpeg options that make the GOP structure exactly what `camera` says."""
    options: dict[str, str] = {}
    if camera.color is not None:
        options = {
            "color_range": camera.color.range,
            "color_primaries": camera.color.primaries,
            "color_trc": camera.color.trc,
            "colorspace": camera.color.colorspace,
        }
    if camera.codec == "av1":
        return options | {"g": str(camera.gop), "crf": "20", "preset": "8", "svtav1-params": "lp=1"}
    # b-adapt=0 and scenecut=0: B-frames and keyframes by count alone, whatever the picture shows.
    structure = (
        f"keyint={camera.gop}:min-keyint={camera.gop}:scenecut=0:bframes={camera.bframes}:b-adapt=0"
        f":open-gop={int(camera.open_gop)}"
    )
    if camera.codec == "h264":
        return options | {
            "preset": "veryfast",
            "x264-params": f"{structure}:threads=1:cpu-independent=1",
        }
    quiet = "log-level=none:pools=none:frame-threads=1" + (
        ":lossless=1" if camera.depth is not None else ""
    )
    return options | {"preset": "ultrafast", "x265-params": f"{structure}:{quiet}"}


def _join(path: Path, parts: Sequence[Path], *, shift: Fraction, fast_start: bool) -> None:
    """Copy the parts' packets into one file with FFmpeg's concat demuxer, as LeRobot's recorder
    does.

    Args:
        shift: Seconds added to every time. Where that makes it negative, the muxer writes an edit
            list that starts at 0; where the first is later than 0, it writes an empty edit.
    """
    playlist = parts[0].with_suffix(".ffconcat")
    playlist.write_text("ffconcat version 1.0\n" + "".join(f"file '{part}'\n" for part in parts))
    with ExitStack() as stack:
        source = stack.enter_context(av.open(str(playlist), format="concat", options={"safe": "0"}))
        flags = {"movflags": "faststart"} if fast_start else {}
        target = stack.enter_context(av.open(str(path), "w", options=flags))
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream, opaque=True)
        copy.time_base = _time_base(stream)
        ticks = round(shift / _time_base(stream))
        for packet in source.demux(stream):
            if packet.dts is None or packet.pts is None:  # the demuxer's end mark
                continue
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = copy
            target.mux(packet)


def _duration(path: Path) -> Fraction:
    """Seconds that a file's video stream says it lasts."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None
        return stream.duration * _time_base(stream)


def _time_base(stream: Stream) -> Fraction:
    """Seconds per tick of a stream's times."""
    assert stream.time_base is not None
    return stream.time_base

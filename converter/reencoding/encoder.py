"""Decoding the frames that rows show, and encoding them again.

One thread each, and options that fix every keyframe, so that the same frames give the same bytes
wherever they are encoded. No picture is reordered: packets are in the order of time.
"""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Interpolation
from numpy.typing import NDArray

from roboshard.common import interrupts
from roboshard.common.errors import OptionError, SourceError
from roboshard.converter.reencoding.settings import CODEC_NAMES, PIX_FMT, PRESETS, Encoder, Encoding
from roboshard.converter.video.opening import quarter_turns
from roboshard.converter.video.packets import IntArray, Packets

MAX_EARLY = 64
"""Frames that a decoder may give out before one that is shown earlier; no codec reorders more than
16.
"""
MIN_X265 = 64
"""Least height and width that libx265 is given. It (seen in 4.2) writes beyond its memory in some
smaller pictures, of 30 x 40 for one, which ends the process: trying one is no way to find out.
"""
_BICUBIC = Interpolation.BICUBIC.value | 0x40000 | 0x80000
"""Bicubic scaling with swscale's SWS_ACCURATE_RND and SWS_BITEXACT, nameless in older PyAV: the
same on all processors.
"""
_LIBRARIES = ("libavutil", "libavcodec", "libavformat", "libswscale")
_COLOR = ("color_range", "color_primaries", "color_trc", "colorspace")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """When and in which colors frames are shown."""

    ticks: IntArray
    """(num_frames,) when each frame is shown, in ticks of `time_base`, ascending from 0."""
    time_base: Fraction
    fps: float
    """Frames per second, by which the encoder plans its quality."""
    like: Any
    """Codec context whose color description and pixel aspect are kept."""
    turns: int = 0
    """Quarter turns, counterclockwise, by which frames are turned before they are encoded."""


def frames_at(stream: Any, packets: Packets, times: IntArray) -> Iterator[av.VideoFrame]:
    """Decode packets of a stream from the first on: the frames shown at these times, in ticks,
    ascending.

    Raises:
        SourceError: a frame is damaged, or the decoder does not give it.
    """
    context = stream.codec_context
    if not context.is_open:
        context.thread_count = 1
    context.flush_buffers()
    early: dict[int, av.VideoFrame] = {}
    wanted, given = set(times.tolist()), 0
    for packet in [*packets.coded, None]:
        for frame in context.decode(packet):
            if frame.pts in wanted:
                early[frame.pts] = frame
        while given < len(times) and int(times[given]) in early:
            frame = early.pop(int(times[given]))
            if frame.is_corrupt:
                raise SourceError(
                    f"the frame at {float(times[given] * packets.time_base):.6f} s is damaged"
                )
            yield frame
            given += 1
        if len(early) > MAX_EARLY:
            break
    if given < len(times):
        raise SourceError(
            f"the frame at {float(times[given] * packets.time_base):.6f} s cannot be decoded"
        )


def fitted(
    frame: av.VideoFrame, size: tuple[int, int] | None, turns: int | None = None
) -> av.VideoFrame:
    """The frame as it is shown, as 8-bit 4:2:0, in the range and matrix that it has.

    Args:
        frame: As its decoder gives it.
        size: (height, width) of the picture as it is shown; None: its own.
        turns: Quarter turns, counterclockwise, before it is shown; None: what the frame itself
            says.
    """
    turns = quarter_turns(frame) if turns is None else turns
    if size is not None and turns % 2:
        size = size[::-1]
    upright = _resized(frame, *(size or (frame.height, frame.width)))
    return _turned(upright, turns) if turns else upright


def _turned(frame: av.VideoFrame, turns: int) -> av.VideoFrame:
    """The samples of a 4:2:0 frame in another place; none of them changes."""
    planes = [np.rot90(_samples(plane), turns) for plane in frame.planes]
    height, width = planes[0].shape
    turned = av.VideoFrame(width, height, PIX_FMT)
    for plane, samples in zip(turned.planes, planes, strict=True):
        _samples(plane)[:] = samples
    for name in _COLOR:
        if hasattr(
            frame, name
        ):  # PyAV 15 shows two of them; the encoder is told all by `Clip.like`
            setattr(turned, name, getattr(frame, name))
    return turned


def _samples(plane: Any) -> NDArray[np.uint8]:
    """(height, width) samples of a plane, uint8, in its own memory."""
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]


def _resized(frame: av.VideoFrame, height: int, width: int) -> av.VideoFrame:
    if (frame.format.name, frame.height, frame.width) == (PIX_FMT, height, width):
        return frame
    is_full = frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG
    color_range = ColorRange.JPEG if is_full else ColorRange.MPEG
    return frame.reformat(
        width,
        height,
        PIX_FMT,
        interpolation=_BICUBIC,
        src_color_range=color_range,
        dst_color_range=color_range,
    )


def encode(frames: Iterable[av.VideoFrame], clip: Clip, encoding: Encoding) -> bytes:
    """An MP4 file of these frames, each shown when `clip` says.

    Raises:
        av.FFmpegError, ValueError: the encoder refuses its options, the size or a frame.
    """
    # SVT-AV1, run as root, gives the calling thread real-time priority, which its children would
    # inherit.
    with interrupts.thread_pool(1, "roboshard-encode") as thread:
        return thread.submit(_encode, frames, clip, encoding).result()


def _encode(frames: Iterable[av.VideoFrame], clip: Clip, encoding: Encoding) -> bytes:
    buffer = io.BytesIO()
    options = {"fflags": "+bitexact", "use_editlist": "0"}  # as slices that are copied
    with av.open(buffer, "w", format="mp4", options=options) as output:
        muxer = None
        for number, source in enumerate(frames):
            interrupts.check()
            frame = fitted(source, encoding.size, clip.turns)
            muxer = muxer or _Muxer(output, (frame.height, frame.width), clip, encoding)
            frame.pts, frame.time_base = number, 1 / muxer.rate
            frame.pict_type = (
                PictureType.NONE
            )  # what it was in the source is nothing to the encoder
            muxer.add(frame)
        if muxer is not None:
            muxer.add(None)
    return buffer.getvalue()


class _Muxer:
    """An encoder and the file that its packets go into."""

    def __init__(self, output: Any, size: tuple[int, int], clip: Clip, encoding: Encoding) -> None:
        reason = why_refused(encoding.codec, size)
        if reason is not None:
            raise ValueError(reason)
        self.rate = Fraction(clip.fps).limit_denominator(100_000)
        self._output, self._clip = output, clip
        self._duration = int(np.diff(clip.ticks).min()) if len(clip.ticks) > 1 else 1
        self._stream = output.add_stream(encoding.codec, rate=self.rate, options=_options(encoding))
        context = self._stream.codec_context
        context.height, context.width = size
        context.pix_fmt, context.thread_count = PIX_FMT, 1
        for name in _COLOR:
            setattr(context, name, getattr(clip.like, name))
        if encoding.size is None and clip.like.sample_aspect_ratio:
            aspect = clip.like.sample_aspect_ratio
            context.sample_aspect_ratio = 1 / aspect if clip.turns % 2 else aspect
        self._stream.time_base = clip.time_base
        if encoding.codec == "libsvtav1":
            os.putenv("SVT_LOG", "1")  # errors only; it has no other switch
        context.open()
        _be_patient()

    def add(self, frame: av.VideoFrame | None) -> None:
        """Encode a frame; None: there are no more."""
        for packet in self._stream.encode(frame):
            number = packet.pts
            packet.time_base = self._clip.time_base
            packet.pts = packet.dts = int(self._clip.ticks[number])
            packet.duration = self._duration
            self._output.mux(packet)


def _options(encoding: Encoding) -> dict[str, str]:
    options = {
        "preset": str(PRESETS[encoding.codec]),
        "crf": str(encoding.crf),
        "g": str(encoding.gop),
    }
    keyframes = f"keyint={encoding.gop}:min-keyint={encoding.gop}:scenecut=0:open-gop=0:bframes=0"
    special: dict[Encoder, dict[str, str]] = {
        # tf: its temporal filter would blend the pictures beside a keyframe into it
        "libsvtav1": {"svtav1-params": "lp=1:enable-tf=0"},
        "libx264": {"x264-params": f"{keyframes}:threads=1:cpu-independent=1"},
        # info: the processor's features would be among the bytes
        "libx265": {"x265-params": f"{keyframes}:pools=none:frame-threads=1:log-level=none:info=0"},
    }
    return options | special[encoding.codec]


def _be_patient() -> None:
    """Take back the real-time priority that SVT-AV1's threads have as root: nothing else would run
    beside them.
    """
    tasks = Path("/proc/self/task")
    if not tasks.is_dir() or os.sched_getscheduler(os.getpid()) != os.SCHED_OTHER:
        return
    for task in tasks.iterdir():
        try:
            if os.sched_getscheduler(int(task.name)) == os.SCHED_FIFO:
                os.sched_setscheduler(int(task.name), os.SCHED_OTHER, os.sched_param(0))
        except OSError:
            continue  # it has ended


def why_refused(codec: Encoder, size: tuple[int, int]) -> str | None:
    """Why this encoder is not given pictures of this height and width; None: it is."""
    pictures = f"codec {codec} does not take pictures of height {size[0]} and width {size[1]}"
    if codec != "libsvtav1" and any(pixels % 2 for pixels in size):
        remedy = "choose --size, or --codec libsvtav1, which takes odd ones"
        return f"{pictures}: both must be even; {remedy}"
    if codec == "libx265" and min(size) < MIN_X265:
        return f"{pictures}: both must be at least {MIN_X265}; choose --codec libsvtav1 or libx264"
    return None


def library_versions() -> dict[str, str]:
    """What decides the bytes of video that is encoded again, as far as PyAV tells: FFmpeg, not the
    encoders in it.
    """
    versions = {name: ".".join(map(str, av.library_versions[name])) for name in _LIBRARIES}
    return {"ffmpeg": av.ffmpeg_version_info} | versions


def check_encoder(encoding: Encoding, size: tuple[int, int]) -> None:
    """Encode one frame of this height and width. Raises OptionError where that cannot be done."""
    if encoding.codec not in av.codecs_available:
        there = (
            ", ".join(codec for codec in CODEC_NAMES if codec in av.codecs_available)
            or "none of the others"
        )
        raise OptionError(
            f"codec {encoding.codec}: PyAV's FFmpeg has no such encoder here; it has {there}"
        )
    height, width = encoding.size or size
    reason = why_refused(encoding.codec, (height, width))
    if reason is not None:
        raise OptionError(reason)
    frame = av.VideoFrame(width, height, PIX_FMT)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    clip = Clip(ticks=np.zeros(1, dtype=np.int64), time_base=Fraction(1, 30), fps=30, like=UNTAGGED)
    try:
        encode([frame], clip, encoding)
    except (av.FFmpegError, ValueError) as error:
        why = error.strerror if isinstance(error, av.FFmpegError) else error
        raise OptionError(
            f"codec {encoding.codec} does not take gop {encoding.gop}, crf {encoding.crf} and "
            f"pictures of height {height} and width {width}: {why}"
        ) from error


@dataclass(frozen=True)
class _Untagged:
    """A picture of which nothing is known; 2 is FFmpeg's "unspecified"."""

    color_range: int = 0
    color_primaries: int = 2
    color_trc: int = 2
    colorspace: int = 2
    sample_aspect_ratio: None = None


UNTAGGED = _Untagged()

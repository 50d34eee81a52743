"""How torchcodec makes RGB of a frame, and LeRobot with it: what else makes RGB here does the same.

It is decided by what a frame is, not by what decoded it, so that all frames of a slice are
converted in one way.
"""

import io
from functools import cache
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from roboshard.loader.decoding.torchcodec_module import torchcodec

INTERPOLATIONS = {"BICUBIC": 4, "BILINEAR": 2}
"""Ways of filling in colors where a frame has fewer of them than pixels: PyAV's name ->
libswscale's flag. The first is that of torchcodec's newer releases, the second of older ones.
"""

UNSPECIFIED, FULL_RANGE = 0, 2
"""Of FFmpeg's `AVColorRange`."""
RGB_MATRIX = 0
"""Of FFmpeg's `AVColorSpace`. Where torchcodec calls libswscale itself, that took it for BT.709 up
to FFmpeg 7.
"""

_WITHOUT = ("yuv420p", "yuvj420p", "yuva420p", "yuv422p", "yuvj422p")
"""Formats of which frames of even height are converted without such a choice."""
_DIRECT_WIDTH = 32
_HEIGHT, _WIDTH = 33, 64
"""Of a frame by which the two ways can be told apart: an odd height."""


def is_direct_call(width: int, is_turned: bool) -> bool:
    """Whether torchcodec calls libswscale itself; other frames go through a filter graph.

    The first leaves the range at what the pixel format implies, the second believes the frame.
    """
    return width % _DIRECT_WIDTH == 0 and not is_turned


def interpolation_for(pixel_format: str, height: int) -> str:
    """Return the interpolation for frames of a pixel format and height; torchcodec is loaded if it
    matters.
    """
    if pixel_format in _WITHOUT and not height % 2:
        return next(iter(INTERPOLATIONS))
    return interpolation()


@cache
def interpolation() -> str:
    """Return the interpolation of the torchcodec that is installed, by what it makes of a small
    video.
    """
    first, *_ = INTERPOLATIONS
    decoders = torchcodec()
    if decoders is None:
        return first
    try:
        frame, video = _sample()
        decoder = decoders.VideoDecoder(video, dimension_order="NHWC", num_ffmpeg_threads=1)
        found = decoder[0].numpy().astype(np.int64)
    except (RuntimeError, ValueError, av.FFmpegError):
        return first  # its FFmpeg may lack the format of the video
    return min(INTERPOLATIONS, key=lambda name: int(np.abs(found - reformatted(frame, name)).sum()))


def reformatted(frame: av.VideoFrame, name: str, quarter_turns: int = 0) -> NDArray[np.uint8]:
    """Return the RGB (H, W, 3) of a frame as PyAV converts it, turned counterclockwise."""
    told: dict[str, Any] = {"interpolation": name, **_ONE_THREAD}
    pixel_format, colorspace = frame.format.name, int(frame.colorspace)
    is_direct = is_direct_call(frame.width, is_turned=quarter_turns != 0)
    if not frame.format.is_rgb:
        is_full = int(frame.color_range) == FULL_RANGE
        if is_direct or int(frame.color_range) == UNSPECIFIED:
            is_full = pixel_format.startswith(_FULL)
        told |= {"src_color_range": ColorRange.JPEG if is_full else ColorRange.MPEG}
        if is_direct and colorspace == RGB_MATRIX:
            told |= {"src_colorspace": Colorspace.ITU709}
        elif colorspace not in _KNOWN:
            told |= {"src_colorspace": _ALIKE.get(colorspace, int(Colorspace.ITU601))}
        if _MAJOR < 16:
            source = told.get("src_colorspace", colorspace)
            told["dst_colorspace"] = _OTHER.get(source, Colorspace.ITU709)
    # One of its own: that of the frame may be left as an earlier call has set it.
    pixels = VideoReformatter().reformat(frame, format="rgb24", **told)
    return np.ascontiguousarray(np.rot90(pixels.to_ndarray(), quarter_turns))


_FULL = ("yuvj", "gray", "ya")
"""How formats begin that imply the full range."""
_KNOWN = (1, 2, 4, 5, 6, 7, 9)
"""Matrices, as FFmpeg's `AVColorSpace` numbers them, that libswscale knows; it takes others for
BT.601.
"""
_ALIKE = {10: 9}
"""BT.2020 with constant luminance, which it takes for that without."""
_MAJOR = int(av.__version__.split(".")[0])
_OTHER = {Colorspace.ITU709: Colorspace.ITU601}
"""PyAV 15 tells libswscale matrix and range only where the target's differ, which RGB does not
have.
"""
_ONE_THREAD = {"threads": 1} if _MAJOR >= 17 else {}
"""For PyAV's conversions, which since version 17 start threads of their own for each picture."""


def _sample() -> tuple[av.VideoFrame, bytes]:
    """A frame of noise, and a video of it that has not been compressed."""
    noise = np.random.default_rng(0).integers(0, 256, (_HEIGHT, _WIDTH, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuv420p")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="nut") as output:
        stream = output.add_stream("rawvideo", rate=1)
        stream.height, stream.width, stream.pix_fmt = _HEIGHT, _WIDTH, "yuv420p"
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return frame, buffer.getvalue()

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
"""Two values of FFmpeg's `AVColorRange`."""
RGB_MATRIX = 0
"""The value of FFmpeg's `AVColorSpace` for RGB. Where torchcodec calls libswscale itself, that took
it for BT.709 up to FFmpeg 7.
"""

_WITHOUT = ("yuv420p", "yuvj420p", "yuva420p", "yuv422p", "yuvj422p")
"""Pixel formats whose frames of even height are converted alike with every interpolation."""
_DIRECT_WIDTH = 32
_HEIGHT, _WIDTH = 33, 64
"""Pixels of a frame by which the ways of filling in colors can be told apart: an odd height."""


def is_direct_call(width: int, is_turned: bool) -> bool:
    """Whether torchcodec calls libswscale itself; other frames go through a filter graph."""
    return width % _DIRECT_WIDTH == 0 and not is_turned


def is_full_range(pixel_format: str, color_range: int, is_implied: bool, is_direct: bool) -> bool:
    """Whether torchcodec takes a frame's values to fill the full range.

    A filter graph believes the frame. Where torchcodec calls libswscale itself its newer releases
    do too, and older ones leave the range at what the pixel format implies; torchcodec is loaded if
    that matters.

    Args:
        pixel_format: of the frame.
        color_range: what it says of itself, by FFmpeg's `AVColorRange`.
        is_implied: Whether the pixel format implies the full range.
        is_direct: Whether torchcodec calls libswscale itself.
    """
    if color_range == UNSPECIFIED:
        return is_implied
    is_said = color_range == FULL_RANGE or pixel_format.startswith("yuvj")
    return is_said if is_said == is_implied or not is_direct or believes_range() else is_implied


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
    frame = _noise()
    found = _by_torchcodec(frame, "rawvideo", "nut")
    if found is None:
        return first
    return min(INTERPOLATIONS, key=lambda name: int(np.abs(found - reformatted(frame, name)).sum()))


@cache
def believes_range() -> bool:
    """Return whether the torchcodec that is installed believes a frame's range where it calls
    libswscale itself, by what it makes of a small video.
    """
    dark = np.full((_DIRECT_WIDTH * 3 // 2, _DIRECT_WIDTH), 128, dtype=np.uint8)
    dark[:_DIRECT_WIDTH] = 16  # black, unless in the full range
    frame = av.VideoFrame.from_ndarray(dark, format="yuv420p")
    frame.color_range = FULL_RANGE
    found = _by_torchcodec(frame, "ffv1", "matroska")
    return found is None or bool(found.any())


def reformatted(frame: av.VideoFrame, name: str, quarter_turns: int = 0) -> NDArray[np.uint8]:
    """Return the RGB (H, W, 3) of a frame as PyAV converts it, turned counterclockwise."""
    told: dict[str, Any] = {"interpolation": name, **_ONE_THREAD}
    pixel_format, colorspace = frame.format.name, int(frame.colorspace)
    is_direct = is_direct_call(frame.width, is_turned=quarter_turns != 0)
    if not frame.format.is_rgb:
        is_implied = pixel_format.startswith(_FULL)
        is_full = is_full_range(pixel_format, int(frame.color_range), is_implied, is_direct)
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
"""Beginnings of the pixel formats that imply the full range."""
_KNOWN = (1, 2, 4, 5, 6, 7, 9)
"""Matrices, as FFmpeg's `AVColorSpace` numbers them, that libswscale knows; it takes others for
BT.601.
"""
_ALIKE = {10: 9}
"""Matrix -> the one libswscale takes it for: BT.2020 with constant luminance for that without."""
_MAJOR = int(av.__version__.split(".")[0])
_OTHER = {Colorspace.ITU709: Colorspace.ITU601}
"""Matrix of a frame -> another one, to be named for its target: PyAV 15 tells libswscale matrix and
range only where the target's differ, which RGB does not have.
"""
_ONE_THREAD = {"threads": 1} if _MAJOR >= 17 else {}
"""Keywords of PyAV's conversions, which since version 17 start threads of their own for each
picture.
"""


def _noise() -> av.VideoFrame:
    """Return a frame of noise in yuv420p, of an odd height."""
    noise = np.random.default_rng(0).integers(0, 256, (_HEIGHT, _WIDTH, 3), dtype=np.uint8)
    return av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuv420p")


def _by_torchcodec(frame: av.VideoFrame, codec: str, container: str) -> NDArray[np.int64] | None:
    """Return the RGB (H, W, 3) that torchcodec makes of a frame; None where it cannot be asked."""
    decoders = torchcodec()
    if decoders is None:
        return None
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format=container) as output:
            stream: Any = output.add_stream(codec, rate=1)
            stream.height, stream.width = frame.height, frame.width
            stream.pix_fmt = frame.format.name
            stream.codec_context.color_range = frame.color_range
            frame.pts = 0
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        decoder = decoders.VideoDecoder(
            buffer.getvalue(), dimension_order="NHWC", num_ffmpeg_threads=1
        )
        pixels: NDArray[np.int64] = decoder[0].numpy().astype(np.int64)
    except (RuntimeError, ValueError, av.FFmpegError):
        return None  # its FFmpeg may lack the format of the video
    return pixels

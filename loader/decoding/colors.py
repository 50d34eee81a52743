"""How torchcodec makes RGB of a frame, and LeRobot with it: what else makes RGB here does the same.

It is decided by what a frame is, not by what decoded it, so that all frames of a slice are converted in one way.
"""

import io
from functools import cache

import av
import numpy as np
from numpy.typing import NDArray

from roboshard.loader.decoding.torchcodec_module import torchcodec

INTERPOLATIONS = {"BICUBIC": 4, "BILINEAR": 2}
"""Ways of filling in colors where a frame has fewer of them than pixels: PyAV's name -> libswscale's flag. The first
is that of torchcodec's newer releases, the second of older ones."""

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
    """Return the interpolation for frames of a pixel format and height; torchcodec is loaded if it matters."""
    if pixel_format in _WITHOUT and not height % 2:
        return next(iter(INTERPOLATIONS))
    return interpolation()


@cache
def interpolation() -> str:
    """Return the interpolation of the torchcodec that is installed, by what it makes of a small video."""
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
    pixels = frame.reformat(format="rgb24", interpolation=name, **_ONE_THREAD)
    return np.ascontiguousarray(np.rot90(pixels.to_ndarray(), quarter_turns))


_ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
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

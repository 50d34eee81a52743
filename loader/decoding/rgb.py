"""From decoded frames to RGB, straight into the memory of a batch.

PyAV's conversion makes a new frame each time, which would have to be copied; torchcodec's pictures too lie in memory
of its own. So FFmpeg's function is called here itself, in the libswscale that PyAV has loaded.
"""

import ctypes
import weakref
from functools import cache
from typing import Any

import av
import av.video.reformatter
import numpy as np
from numpy.typing import NDArray

FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
"""Pixel formats that are converted here: 8 bits, each plane by itself."""
FULL_RANGE = 2
"""AVCOL_RANGE_JPEG of FFmpeg's `AVColorRange`."""

_BILINEAR = 2  # SWS_BILINEAR, which torchcodec and PyAV ask for
_ONE = 1 << 16  # contrast and saturation, in fixed point
_WIDTH, _HEIGHT = 32, 2
"""Of pictures whose sizes are multiples of these, nothing is written past the end of a row or of the last row."""
_Planes = ctypes.c_void_p * 4
_Strides = ctypes.c_int * 4


class RgbConverter:
    """Converts frames of one size, pixel format and color space. Used by one thread at a time."""

    def __init__(self, width: int, height: int, pixel_format: str, colorspace: int, color_range: int) -> None:
        """As the attributes of the frames say. Raises ValueError where libswscale cannot convert them."""
        library = swscale()
        if library is None or pixel_format not in FORMATS:
            raise ValueError(f"frames of the pixel format {pixel_format} are not converted here")
        source, rgb = (library.av_get_pix_fmt(name.encode()) for name in (pixel_format, "rgb24"))
        context = library.sws_getContext(width, height, source, width, height, rgb, _BILINEAR, None, None, None)
        if not context:
            raise ValueError(f"libswscale converts no {pixel_format} of {width} x {height} pixels")
        weakref.finalize(self, library.sws_freeContext, context).atexit = False
        is_full = int(color_range == FULL_RANGE or pixel_format.startswith("yuvj"))
        matrix = library.sws_getCoefficients(colorspace)
        library.sws_setColorspaceDetails(context, matrix, is_full, matrix, is_full, 0, _ONE, _ONE)
        self.shape = (height, width, 3)
        self._scale, self._context = library.sws_scale, context
        self._planes, self._strides, self._target, self._row = _Planes(), _Strides(), _Planes(), _Strides()
        self._fits = not width % _WIDTH and not height % _HEIGHT
        self._memory: NDArray[np.uint8] | None = None

    def into(self, frame: av.VideoFrame, target: NDArray[np.uint8]) -> None:
        """Write a frame's RGB to `target`, (H, W, 3) in one piece. Raises ValueError for another shape."""
        if target.shape != self.shape:
            raise ValueError(f"a picture of shape {self.shape} does not fit {target.shape}")
        if self._fits:
            self._convert(frame, target)
        else:
            target[...] = self.pixels(frame)

    def pixels(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """A frame's RGB (H, W, 3) in memory of this converter, which the next call uses again."""
        height, width, channels = self.shape
        if self._memory is None:
            rows, columns = -(-height // _HEIGHT) * _HEIGHT, -(-width // _WIDTH) * _WIDTH
            self._memory = np.empty((rows, columns, channels), dtype=np.uint8)
        self._convert(frame, self._memory)
        return self._memory[:height, :width]

    def _convert(self, frame: av.VideoFrame, target: Any) -> None:
        for number, plane in enumerate(frame.planes):
            self._planes[number], self._strides[number] = plane.buffer_ptr, plane.line_size
        self._target[0], self._row[0] = ctypes.addressof(ctypes.c_char.from_buffer(target)), target.strides[0]
        self._scale(self._context, self._planes, self._strides, 0, self.shape[0], self._target, self._row)


class CodedPicture:
    """A frame that is still as its codec left it: converted where it goes to, when it goes there.

    To be used before the decoder that it came from is asked for another one.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, frame: av.VideoFrame, converter: RgbConverter) -> None:
        self.shape = converter.shape
        """(H, W, 3)"""
        self._frame, self._converter = frame, converter

    def into(self, target: NDArray[np.uint8]) -> None:
        """Write its RGB to `target`, (H, W, 3) in one piece."""
        self._converter.into(self._frame, target)

    def pixels(self) -> NDArray[np.uint8]:
        """Its RGB (H, W, 3), which is gone with the next picture of the same decoder."""
        return self._converter.pixels(self._frame)


@cache
def swscale() -> Any:
    """The functions used of libswscale and libavutil (libswscale/swscale.h, libavutil/pixdesc.h).

    They are looked up through PyAV's module, hence in the libraries that it is linked with, of whichever version.
    None where the system does not look them up so.
    """
    try:
        library: Any = ctypes.CDLL(av.video.reformatter.__file__)
        number, pointer = ctypes.c_int, ctypes.c_void_p
        details = [pointer, pointer, number, pointer, number, number, number, number]
        library.av_get_pix_fmt.argtypes = [ctypes.c_char_p]
        library.sws_getContext.argtypes = [number] * 7 + [pointer] * 3
        library.sws_getContext.restype = pointer
        library.sws_getCoefficients.argtypes = [number]
        library.sws_getCoefficients.restype = pointer
        library.sws_setColorspaceDetails.argtypes = details
        library.sws_scale.argtypes = [pointer, _Planes, _Strides, number, number, _Planes, _Strides]
        library.sws_freeContext.argtypes = [pointer]
        library.sws_freeContext.restype = None
    except (OSError, AttributeError):
        return None
    return library

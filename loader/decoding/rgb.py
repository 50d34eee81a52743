"""From decoded frames to RGB, straight into the memory of a batch.

PyAV's conversion makes a new frame each time, which would have to be copied; torchcodec's pictures
too lie in memory of its own. So FFmpeg's function is called here itself, in the libswscale that
PyAV has loaded.
"""

import ctypes
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from operator import attrgetter
from typing import Any

import av
import av.video.reformatter
import numpy as np
from numpy.typing import NDArray

from roboshard.loader.decoding.colors import (
    INTERPOLATIONS,
    RGB_MATRIX,
    interpolation_for,
    is_direct_call,
    is_full_range,
    reformatted,
)

_BT709 = 1  # of FFmpeg's `AVColorSpace`
_ONE = 1 << 16  # contrast and saturation, in fixed point
_WIDTH, _HEIGHT = 32, 2
"""Width and height in pixels: for pictures whose sizes are multiples of these, libswscale writes
nothing past the end of a row or of the last row.
"""
_PALETTE = "pal8"
"""A format whose frames have their colors in a table, which PyAV does not show."""
_ALIGNED = 64
_kind_of = attrgetter("width", "height", "format.name", "colorspace", "color_range")
_Planes = ctypes.c_void_p * 4
_Strides = ctypes.c_int * 4


Planes = tuple[Sequence[int], Sequence[int]]
"""Where the planes of a frame lie (Y, U, V, or what else its pixel format has): of each the address
of its first row, and the bytes from one row to the next.
"""


def planes_of(frame: av.VideoFrame) -> Planes:
    """Return where the planes of a frame are, for as long as the frame is there.

    Raises:
        ValueError: Its last row comes first.
    """
    addresses, strides = [], []
    for plane in frame.planes:  # in one loop: this is done for each frame
        addresses.append(plane.buffer_ptr)
        stride = plane.line_size
        if stride <= 0:
            raise ValueError("a frame that is stored from its last row to its first")
        strides.append(stride)
    return addresses, strides


class RgbConverter:
    """Converts frames of one size, pixel format and color space. Used by one thread at a time."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a frame says of itself
        self,
        width: int,
        height: int,
        pixel_format: str,
        colorspace: int,
        color_range: int,
        is_turned: bool = False,
    ) -> None:
        """Convert as torchcodec does frames with these attributes, which are those of PyAV's.

        torchcodec calls libswscale itself for pictures that are a multiple of 32 wide and are not
        turned; other pictures go through a filter graph.

        Raises:
            ValueError: libswscale cannot convert them.
        """
        library = swscale()
        source = -1 if library is None else library.av_get_pix_fmt(pixel_format.encode())
        if source < 0 or pixel_format == _PALETTE or not library.sws_isSupportedInput(source):
            raise ValueError(f"frames of the pixel format {pixel_format} are not converted here")
        flags = INTERPOLATIONS[interpolation_for(pixel_format, height)]
        context = library.sws_getContext(
            *(width, height, source), *(width, height, library.av_get_pix_fmt(b"rgb24")), flags,
            *(None, None, None),
        )  # fmt: skip
        if not context:
            raise ValueError(f"libswscale converts no {pixel_format} of {width} x {height} pixels")
        weakref.finalize(self, library.sws_freeContext, context).atexit = False
        is_direct = is_direct_call(width, is_turned)
        if is_direct and colorspace == RGB_MATRIX:
            colorspace = _BT709
        is_implied = _implied_range(library, context)
        is_full = int(is_full_range(pixel_format, color_range, is_implied, is_direct))
        matrix = library.sws_getCoefficients(colorspace)
        library.sws_setColorspaceDetails(context, matrix, is_full, matrix, is_full, 0, _ONE, _ONE)
        self.shape = (height, width, 3)
        self._scale, self._context = library.sws_scale, context
        self._planes: Any = _Planes()
        self._strides: Any = _Strides()
        self._target, self._row = _Planes(), _Strides()
        self._fits = not width % _WIDTH and not height % _HEIGHT
        self._memory: NDArray[np.uint8] | None = None

    def into(self, planes: Planes, target: NDArray[np.uint8]) -> None:
        """Write a frame's RGB to `target`, (H, W, 3) in one piece. Raises ValueError for another
        shape.
        """
        if target.shape != self.shape:
            raise ValueError(f"a picture of shape {self.shape} does not fit {target.shape}")
        if self._fits:
            self._convert(planes, target)
        else:
            target[...] = self.pixels(planes)

    def pixels(self, planes: Planes) -> NDArray[np.uint8]:
        """Return a frame's RGB (H, W, 3) in memory of this converter, which the next call uses
        again.
        """
        height, width, channels = self.shape
        if self._memory is None:
            rows, columns = -(-height // _HEIGHT) * _HEIGHT, -(-width // _WIDTH) * _WIDTH
            self._memory = np.empty((rows, columns, channels), dtype=np.uint8)
        self._convert(planes, self._memory)
        return self._memory[:height, :width]

    def _convert(self, planes: Planes, target: Any) -> None:
        addresses, strides = planes
        number = len(addresses)  # the others stay 0: frames of one format have as many
        self._planes[:number], self._strides[:number] = addresses, strides
        self._target[0], self._row[0] = (
            ctypes.addressof(ctypes.c_char.from_buffer(target)),
            target.strides[0],
        )
        self._scale(
            self._context, self._planes, self._strides, 0, self.shape[0], self._target, self._row
        )


class DecodedFrame:
    """A frame that is still as its codec left it: converted where it goes to, when it goes there.

    Any thread may convert it: each has converters of its own.
    """

    __slots__ = ("_kind", "_memory", "_planes", "_turns", "shape")

    dtype = np.dtype(np.uint8)

    def __init__(self, frame: av.VideoFrame, quarter_turns: int = 0) -> None:
        """Take a frame that is to be turned so often by 90 degrees, counterclockwise.

        Raises:
            ValueError: It cannot be converted here.
        """
        self._memory: av.VideoFrame | NDArray[np.uint8] = frame
        """What the planes lie in."""
        self._planes = planes_of(frame)
        self._turns = quarter_turns
        self._kind = (*_kind_of(frame), quarter_turns != 0)
        self.shape = shape = _converter(self._kind).shape
        """Shape of the picture after its turns: (H, W, 3)."""
        if quarter_turns % 2:
            self.shape = (shape[1], shape[0], shape[2])

    def into(self, target: NDArray[np.uint8]) -> None:
        """Write the frame's RGB to `target`, (H, W, 3) in one piece."""
        if not self._turns:
            _converter(self._kind).into(self._planes, target)
        elif target.shape == self.shape:
            target[...] = self.pixels()
        else:
            raise ValueError(f"a picture of shape {self.shape} does not fit {target.shape}")

    def pixels(self) -> NDArray[np.uint8]:
        """Return the frame's RGB (H, W, 3), in memory that this thread's next picture of the same
        kind is written to.
        """
        pixels = _converter(self._kind).pixels(self._planes)
        return np.ascontiguousarray(np.rot90(pixels, self._turns)) if self._turns else pixels

    def copy(self) -> "DecodedFrame":
        """Return the frame in memory of its own: that of the original is its codec's, which keeps
        as much for good as is ever held.
        """
        if not isinstance(self._memory, av.VideoFrame):
            return self
        same = DecodedFrame.__new__(DecodedFrame)
        same._kind, same._turns, same.shape = self._kind, self._turns, self.shape
        same._memory, same._planes = _copied(self._memory, self._planes)
        return same

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the frame holds."""
        if isinstance(self._memory, av.VideoFrame):
            return sum(plane.buffer_size for plane in self._memory.planes)
        return self._memory.nbytes


def _copied(frame: av.VideoFrame, planes: Planes) -> tuple[NDArray[np.uint8], Planes]:
    """Return memory with a copy of a frame's planes, and where they are in it. Converters read some
    bytes beyond the end of each, and whole vectors.
    """
    sources, strides = planes
    sizes = [plane.buffer_size for plane in frame.planes]
    takes = [-(-size // _ALIGNED) * _ALIGNED + _ALIGNED for size in sizes]
    memory = np.empty(sum(takes) + _ALIGNED, dtype=np.uint8)
    first = -(-memory.ctypes.data // _ALIGNED) * _ALIGNED
    addresses = [*accumulate(takes[:-1], initial=first)]
    for address, source, size in zip(addresses, sources, sizes, strict=False):
        ctypes.memmove(address, source, size)
    return memory, (addresses, strides)


_Kind = tuple[int, int, str, int, int, bool]
"""What a converter is for: width, height, pixel format, color space, color range, is it turned."""


class _Converters(threading.local):
    """The converters of each thread, by the kind of frame."""

    def __init__(self) -> None:
        self.by_kind: dict[_Kind, RgbConverter] = {}


_converters = _Converters()


def _converter(kind: _Kind) -> RgbConverter:
    found = _converters.by_kind.get(kind)
    if found is None:
        found = _converters.by_kind[kind] = RgbConverter(*kind)
    return found


def _implied_range(library: Any, context: int) -> bool:
    """Whether the source's pixel format implies the full range."""
    inverse, forward = ctypes.c_void_p(), ctypes.c_void_p()
    implied, target, *others = (ctypes.c_int() for _ in range(5))
    found = (inverse, implied, forward, target, *others)
    library.sws_getColorspaceDetails(context, *(ctypes.addressof(each) for each in found))
    return implied.value != 0


def picture_of(frame: av.VideoFrame, quarter_turns: int = 0) -> DecodedFrame | NDArray[np.uint8]:
    """Return a frame's RGB, (H, W, 3), turned counterclockwise; in some formats only PyAV converts
    it.
    """
    try:
        return DecodedFrame(frame, quarter_turns)
    except ValueError:
        name = interpolation_for(frame.format.name, frame.height)
        return reformatted(frame, name, quarter_turns)


@cache
def swscale() -> Any:
    """The functions used of libswscale and libavutil (libswscale/swscale.h, libavutil/pixdesc.h).

    They are looked up through PyAV's module, hence in the libraries that it is linked with, of
    whichever version. None where the system does not look them up so.
    """
    try:
        library: Any = ctypes.CDLL(av.video.reformatter.__file__)
        number, pointer = ctypes.c_int, ctypes.c_void_p
        details = [pointer, pointer, number, pointer, number, number, number, number]
        library.av_get_pix_fmt.argtypes = [ctypes.c_char_p]
        library.sws_isSupportedInput.argtypes = [number]
        library.sws_getColorspaceDetails.argtypes = [pointer] * 8
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

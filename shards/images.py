"""Images of the rows: which files are opened, how large they may be, and what pixels they hold.

Pillow can open far more than datasets hold, and starts other programs for some of it. Here a file
is opened by a list of formats, its size is known before it is decoded, and whatever Pillow raises
becomes a FormatError.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from roboshard.common.errors import FormatError
from roboshard.shards.features import Spec, picture_shape

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""Formats of image files that are opened, as Pillow names them."""
MAX_PIXELS = 1 << 26
"""Most pixels of an image, whatever its feature's shape says."""
MAX_PIXELS_BY_DEFAULT = 1 << 24
"""Most pixels of an image whose feature's shape is not known."""
SMALL = 1 << 21
"""Pixels that every image may have: shapes are often wrong, and LeRobot never looks at them."""
LARGER = 4
"""An image may have so many times the pixels of its feature's shape."""

Pixels = NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.int32]

PILLOW_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)
"""What Pillow's plugins raise for files that are not what they say."""

_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientations, and what undoes them."""
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF


def most_pixels(spec: Spec) -> int:
    """How many pixels an image of a feature may have."""
    shape = picture_shape(spec)
    if shape is None:
        return MAX_PIXELS_BY_DEFAULT
    height, width, _ = shape
    return min(MAX_PIXELS, max(SMALL, LARGER * height * width))


def check_image(data: bytes, most: int, where: str) -> None:
    """Raise FormatError unless a file's header is that of an image that `read_image` would
    decode.
    """
    with _pillow_errors(where), _opened(data, most, where):
        pass


def read_image(data: bytes, most: int, where: str) -> Pixels:
    """Decode an image, turned as its EXIF orientation says.

    Args:
        data: the file.
        most: pixels that it may have, see `most_pixels`.
        where: names its place in errors.

    Returns:
        (H, W, C) in the image's own mode, as torchvision's `ToTensor` takes it: uint8 levels, of a
        palette its indices; int32 of mode I; float32 of modes F and I;16.

    Raises:
        FormatError: no image, one of another format, one that is too large, or one that is damaged.
    """
    with _pillow_errors(where), _opened(data, most, where) as image:
        image.load()
        turned = _turned(image)
        pixels: Pixels
        if turned.mode == "F" or turned.mode.startswith("I;16"):
            pixels = np.array(turned, dtype=np.float32)
        elif turned.mode == "I":
            pixels = np.array(turned, dtype=np.int32)
        else:
            pixels = np.array(turned, dtype=np.uint8)
            if turned.mode == "1":
                pixels *= 255
        return pixels.reshape(*pixels.shape[:2], -1)


@contextmanager
def _pillow_errors(where: str) -> Iterator[None]:
    try:
        yield
    except FormatError:
        raise
    except PILLOW_ERRORS as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise FormatError(f"{where}: not a readable image: {said}") from None


@contextmanager
def _opened(data: bytes, most: int, where: str) -> Iterator[Image.Image]:
    """An image whose header has been read, and no more."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > most:
            raise FormatError(
                f"{where}: not a readable image: {width} x {height} pixels, more than the {most} "
                "that the shape of its feature allows"
            )
        tags = getattr(image, "tag_v2", {})
        tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))
        if tile > MAX_PIXELS_BY_DEFAULT:  # decoded as a whole, however small the image
            raise FormatError(f"{where}: not a readable image: a tile of {tile} pixels")
        yield image


def _turned(image: Image.Image) -> Image.Image:
    """Return an image upright, as its EXIF orientation says.

    EXIF that cannot be read says nothing, and the picture is good all the same.
    """
    try:
        method = _TURNED.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except PILLOW_ERRORS:
        return image
    return image if method is None else image.transpose(method)

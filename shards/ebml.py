"""EBML (RFC 8794): elements of Matroska files, their names as numbers, and how they are read and
written.
"""

import struct
from collections.abc import Iterator
from mmap import mmap

Data = bytes | memoryview | mmap

EBML = 0x1A45DFA3
EBML_READ_VERSION = 0x42F7
EBML_VERSION = 0x4286
EBML_MAX_ID_LENGTH = 0x42F2
EBML_MAX_SIZE_LENGTH = 0x42F3
DOC_TYPE = 0x4282
DOC_TYPE_VERSION = 0x4287
DOC_TYPE_READ_VERSION = 0x4285
VOID = 0xEC
CRC_32 = 0xBF

SEGMENT = 0x18538067
SEEK_HEAD = 0x114D9B74
SEEK = 0x4DBB
SEEK_ID = 0x53AB
SEEK_POSITION = 0x53AC
INFO = 0x1549A966
TIMESTAMP_SCALE = 0x2AD7B1
DURATION = 0x4489
MUXING_APP = 0x4D80
WRITING_APP = 0x5741
TRACKS = 0x1654AE6B
TRACK_ENTRY = 0xAE
TRACK_NUMBER = 0xD7
TRACK_UID = 0x73C5
TRACK_TYPE = 0x83
FLAG_LACING = 0x9C
LANGUAGE = 0x22B59C
DEFAULT_DURATION = 0x23E383
CODEC_ID = 0x86
CODEC_PRIVATE = 0x63A2
VIDEO = 0xE0
PIXEL_WIDTH = 0xB0
PIXEL_HEIGHT = 0xBA
DISPLAY_WIDTH = 0x54B0
DISPLAY_HEIGHT = 0x54BA
DISPLAY_UNIT = 0x54B2
COLOUR_SPACE = 0x2EB524
COLOUR = 0x55B0
MATRIX_COEFFICIENTS = 0x55B1
RANGE = 0x55B9
TRANSFER = 0x55BA
PRIMARIES = 0x55BB
CLUSTER = 0x1F43B675
TIMESTAMP = 0xE7
SIMPLE_BLOCK = 0xA3
CUES = 0x1C53BB6B
CUE_POINT = 0xBB
CUE_TIME = 0xB3
CUE_TRACK_POSITIONS = 0xB7
CUE_TRACK = 0xF7
CUE_CLUSTER_POSITION = 0xF1

Element = tuple[int, int, int, int]
"""(id, where it begins, where its body begins, where it ends)."""


def elements(data: Data, start: int, end: int) -> Iterator[Element]:
    """Yield the elements that lie one after the other in `data[start:end]`.

    Raises:
        ValueError: an element is of unknown size, or does not end where they do.
    """
    while start < end:
        kind, at = _number(data, start, end, 4, keep_marker=True)
        size, body = _number(data, at, end, 8, keep_marker=False)
        if size > end - body:
            raise ValueError(f"element {kind:#x} is larger than what it lies in")
        yield kind, start, body, body + size
        start = body + size


def _number(
    data: Data, start: int, end: int, max_length: int, *, keep_marker: bool
) -> tuple[int, int]:
    """Return a number of variable length (RFC 8794, 4) and where it ends; an ID keeps its
    marker.
    """
    if start >= end:
        raise ValueError("an element is cut off")
    first = data[start]
    length = 9 - first.bit_length()
    if length > max_length or length > end - start:
        raise ValueError("an element's ID or size is too long")
    value = int.from_bytes(data[start : start + length], "big")
    ones = (1 << 7 * length) - 1
    if value & ones == ones:
        raise ValueError("an element of unknown size")
    return (value if keep_marker else value & ones), start + length


def unsigned(data: Data, start: int, end: int) -> int:
    """Return an unsigned integer element's value."""
    if end - start > 8:
        raise ValueError("an integer of more than 64 bits")
    return int.from_bytes(data[start:end], "big")


def element(kind: int, *bodies: bytes) -> bytes:
    """Return an element with this body, its size in as few bytes as can be."""
    body = b"".join(bodies)
    return header(kind, len(body)) + body


def header(kind: int, size: int) -> bytes:
    """Return what stands before a body of this size."""
    length = size.bit_length() // 7 + 1
    if size == (1 << 7 * length) - 1:  # all ones stand for an unknown size
        length += 1
    return identifier(kind) + ((1 << 7 * length) | size).to_bytes(length, "big")


def long_header(kind: int, size: int) -> bytes:
    """Return what stands before a body, its size in eight bytes, which can be filled in later."""
    return identifier(kind) + ((1 << 56) | size).to_bytes(8, "big")


def identifier(kind: int) -> bytes:
    """Return an element's ID as it stands in files."""
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big")


def integer(kind: int, value: int) -> bytes:
    """Return an unsigned integer element."""
    return element(kind, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


def real(kind: int, value: float) -> bytes:
    """Return a floating-point element."""
    return element(kind, struct.pack(">d", value))

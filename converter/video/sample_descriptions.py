"""The sample descriptions of an MP4 or MOV file, and which of them each of its packets has.

PyAV 16 and newer tell it of a packet, as FFmpeg does. For PyAV 15 it is read here.
The boxes are those of ISO/IEC 14496-12, sections 8.3, 8.5 and 8.7.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roboshard.common.errors import SourceError
from roboshard.converter.video.packets import IntArray

_WAY = (b"mdia", b"minf", b"stbl")
_HEADERS = (b"avcC", b"hvcC")
"""Boxes whose content is what FFmpeg calls extradata, of the codecs that have parameter sets."""
_ENTRY_FIELDS = 78
"""Bytes of a VisualSampleEntry before the boxes within it."""

Span = tuple[int, int]
_NOTHING: Span = (0, 0)


@dataclass(frozen=True, kw_only=True)
class SampleDescriptions:
    """Several sample descriptions of one track."""

    headers: tuple[bytes, ...]
    """The codec parameters of each description; empty where it has no box of them."""
    starts: IntArray
    """(chunks,) where each chunk begins in the file, ascending."""
    numbers: IntArray
    """(chunks,) the number in `headers` of each chunk's description."""

    def number_at(self, position: int) -> int:
        """Return the number of the description of the packet at a position of the file."""
        chunk = int(np.searchsorted(self.starts, position, side="right")) - 1
        return int(self.numbers[max(0, chunk)])


def read_sample_descriptions(path: Path, track: int) -> SampleDescriptions | None:
    """Return the sample descriptions of a track; None: it has only one, or there is no such track.

    Args:
        path: an MP4 or MOV file.
        track: FFmpeg's `id` of the stream, which is the track's number in the file.

    Raises:
        SourceError: the file has several and they cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(data, track)
    except (struct.error, ValueError, IndexError) as error:
        raise SourceError(
            f"its sample descriptions cannot be read ({error}); bring the file again, or install "
            "av 16 or newer"
        ) from error


def _read(data: mmap.mmap, track: int) -> SampleDescriptions | None:
    movie = dict(_boxes(data, (0, len(data)))).get(b"moov", _NOTHING)
    parts = list(_boxes(data, movie))
    tracks = (span for kind, span in parts if kind == b"trak")
    span = next((span for span in tracks if _number(data, span) == track), _NOTHING)
    for name in _WAY:
        span = dict(_boxes(data, span)).get(name, _NOTHING)
    tables = dict(_boxes(data, span))
    headers = tuple(_headers(data, tables.get(b"stsd", _NOTHING)))
    if len(headers) < 2:
        return None
    if b"mvex" in dict(parts):
        raise ValueError("the file is fragmented")
    return _of_chunks(data, tables, headers)


def _of_chunks(
    data: mmap.mmap, tables: dict[bytes, Span], headers: tuple[bytes, ...]
) -> SampleDescriptions:
    name, kind = (b"stco", ">u4") if b"stco" in tables else (b"co64", ">i8")
    if name not in tables or b"stsc" not in tables:
        raise ValueError("no table of chunks")
    starts = _table(data, tables[name], 1, kind)[:, 0]
    runs = _table(data, tables[b"stsc"], 3, ">u4")
    lengths = np.diff(runs[:, 0], append=len(starts) + 1)
    numbers = np.repeat(runs[:, 2] - 1, lengths)
    if len(numbers) != len(starts) or not len(numbers):
        raise ValueError("a table of chunks contradicts another one")
    if numbers.min() < 0 or numbers.max() >= len(headers):
        raise ValueError("a chunk of a description that is not there")
    order = np.argsort(starts, kind="stable")
    return SampleDescriptions(headers=headers, starts=starts[order], numbers=numbers[order])


def _boxes(data: mmap.mmap, span: Span) -> Iterator[tuple[bytes, Span]]:
    """Yield the type of each box, and where its content lies."""
    start, end = span
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", data, start + 8), 16
        elif size == 0:
            size = end - start
        if not header <= size <= end - start:
            raise ValueError(f"box {kind!r} is of an impossible size")
        yield kind, (start + header, start + size)
        start += size


def _number(data: mmap.mmap, span: Span) -> int:
    """The number of a track, by its header."""
    start, _ = dict(_boxes(data, span)).get(b"tkhd", _NOTHING)
    (number,) = struct.unpack_from(">I", data, start + (20 if data[start] else 12))
    return int(number)


def _headers(data: mmap.mmap, span: Span) -> Iterator[bytes]:
    start, end = span
    for _, (at, after) in _boxes(data, (start + 8, end)):
        inner = _boxes(data, (at + _ENTRY_FIELDS, after))
        yield next((data[slice(*place)] for kind, place in inner if kind in _HEADERS), b"")


def _table(data: mmap.mmap, span: Span, columns: int, kind: str) -> IntArray:
    """(entries, columns) numbers of a table that begins with version, flags and its length."""
    start, end = span
    (count,) = struct.unpack_from(">I", data, start + 4)
    size = count * columns * np.dtype(kind).itemsize
    if size > end - start - 8:
        raise ValueError("a table that is longer than its box")
    numbers = np.frombuffer(data[start + 8 : start + 8 + size], kind)
    return numbers.reshape(count, columns).astype(np.int64)

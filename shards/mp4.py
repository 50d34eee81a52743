"""The sample tables of an MP4 file (ISO/IEC 14496-12), as arrays: where each packet lies and when
it is shown.

Read at once with numpy, they say of a slice what a demuxer would say packet by packet.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Span = tuple[int, int]
Data = bytes | memoryview

MAX_SAMPLES = 1 << 22
"""Most frames of a slice: 38 hours at 30 a second."""
MAX_BOXES = 256
"""Most boxes that are looked at, of whatever kind; a file of one track has about twenty-five."""
MAX_DESCRIPTION_BYTES = 1 << 20

_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_CHANGE_WHAT_IS_SHOWN = (b"edts", b"mvex", b"moof", b"stz2")
_CONFIGURATIONS = (b"avcC", b"hvcC", b"av1C")
"""Boxes of a sample entry that hold what FFmpeg calls extradata."""
_VISUAL_FIELDS = 78
"""Bytes of a VisualSampleEntry before the boxes within it."""
_AS_IT_IS = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The matrix of a track that is shown as it is (ISO/IEC 14496-12, 8.3.2)."""


@dataclass(frozen=True, kw_only=True)
class SampleTables:
    """The samples of a file's only track, in decode order; arrays of shape (num_samples,)."""

    timescale: int
    """Ticks per second of the track's times."""
    offsets: IntArray
    """Where each sample begins in the file."""
    sizes: IntArray
    dts: IntArray
    pts: IntArray
    is_sync: NDArray[np.bool_]
    """Whether each sample is marked as a keyframe."""
    description: bytes
    """Description of the samples: their codec and what its decoder must know; not their bit rate,
    which it need not.
    """
    extradata: bytes
    """The description's box for the decoder of H.264, HEVC or AV1; empty for other codecs."""
    is_turned: bool
    """Whether the track is to be turned or moved before it is shown."""
    quarter_turns: int
    """How often frames are to be turned by 90 degrees counterclockwise, 0 to 3: as FFmpeg and
    torchcodec read the track's matrix, which they take for a rotation.
    """

    @property
    def ends(self) -> IntArray:
        """Where each sample ends in the file."""
        return self.offsets + self.sizes

    @cached_property
    def as_shown(self) -> IntArray:
        """The samples' numbers in the order in which they are shown."""
        return np.argsort(self.pts, kind="stable")

    def lie_within(self, data: Data) -> bool:
        """Whether every sample is where there are bytes."""
        return bool(np.all(self.offsets >= 0) and np.all(self.ends <= len(data)))


def read_sample_tables(data: Data, num_samples: int | None = None) -> SampleTables:
    """Read the tables of an MP4 file that holds one track and neither edit list nor fragments.

    Nothing is allocated for a count before it is known to fit: the file's length, MAX_SAMPLES, and
    `num_samples`.

    Args:
        data: The whole file.
        num_samples: How many samples there must be; None: any number.

    Raises:
        ValueError: The file holds something else, or tables that contradict each other or end too
            early.
    """
    try:
        boxes = _leaves(data)
        count = _count(data, boxes[b"stsz"], num_samples)
        sizes = _sizes(data, boxes[b"stsz"], count)
        durations = _per_sample(_table(data, boxes[b"stts"], 2, count), count)
        dts = np.cumsum(durations) - durations
        shift = (
            _per_sample(_table(data, boxes[b"ctts"], 2, count), count)
            if b"ctts" in boxes
            else np.zeros_like(dts)
        )
        entry = _description(data, boxes[b"stsd"])
        matrix = _matrix(data, boxes[b"tkhd"])
        return SampleTables(
            timescale=_timescale(data, boxes[b"mdhd"]),
            offsets=_offsets(data, boxes, sizes),
            sizes=sizes,
            dts=dts,
            pts=dts + shift,
            is_sync=_is_sync(data, boxes.get(b"stss"), count),
            description=b"".join(entry),
            extradata=next((box[4:] for box in entry[1:] if box[:4] in _CONFIGURATIONS), b""),
            is_turned=matrix != _AS_IT_IS,
            quarter_turns=_quarter_turns(matrix),
        )
    except (KeyError, IndexError, struct.error) as error:
        raise ValueError(f"no whole sample tables: {error!r}") from error


def _leaves(data: Data) -> dict[bytes, Span]:
    """Box type -> where its body lies, of the boxes that hold no further ones of interest."""
    leaves: dict[bytes, Span] = {}
    pending, num_boxes = [(0, len(data))], 0
    if bytes(data[4:8]) != b"ftyp":  # then demuxers that guess take it for something else
        raise ValueError("it does not begin as an MP4 file does, with the box 'ftyp'")
    while pending:
        for kind, span in _boxes(data, *pending.pop()):
            num_boxes += 1
            if num_boxes > MAX_BOXES:
                raise ValueError(f"more than {MAX_BOXES} boxes")
            repeated = kind in leaves and kind not in (b"free", b"udta")
            if repeated or kind in _CHANGE_WHAT_IS_SHOWN:
                raise ValueError(f"box {kind!r} is not expected here")
            leaves[kind] = span
            if kind in _CONTAINERS:
                pending.append(span)
    return leaves


def _boxes(data: Data, start: int, end: int) -> Iterator[tuple[bytes, Span]]:
    while start < end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", data, start + 8), 16
        if not header <= size <= end - start:
            raise ValueError(f"box {kind!r} is of an impossible size")
        yield kind, (start + header, start + size)
        start += size


def _table(data: Data, span: Span, columns: int, most: int, dtype: str = ">i4") -> IntArray:
    """(entries, columns) numbers of a table that begins with version, flags and the number of its
    entries.
    """
    (count,) = struct.unpack_from(">I", data, span[0] + 4)
    if count > most:
        raise ValueError(f"a table of {count} entries for {most} samples")
    return _numbers(data, (span[0] + 8, span[1]), count * columns, dtype).reshape(count, columns)


def _numbers(data: Data, span: Span, count: int, dtype: str) -> IntArray:
    if count * np.dtype(dtype).itemsize != span[1] - span[0]:
        raise ValueError("a table's length is not that of its entries")
    return np.frombuffer(data, dtype, count, span[0]).astype(np.int64)


def _per_sample(runs: IntArray, count: int) -> IntArray:
    """(count, value) runs, value by value."""
    if np.any(runs[:, 0] < 0) or runs[:, 0].sum() != count:
        raise ValueError("a table is not of as many samples as there are")
    return np.repeat(runs[:, 1], runs[:, 0])


def _count(data: Data, span: Span, expected: int | None) -> int:
    """The number of samples, which no array is made for before it is believed."""
    shared, count = struct.unpack_from(">II", data, span[0] + 4)
    most = min(MAX_SAMPLES, len(data) // max(1, shared))
    if not 0 < count <= most:
        raise ValueError(f"{count} samples in {len(data)} bytes, where {most} are possible")
    if expected is not None and count != expected:
        raise ValueError(f"{count} frames in the slice, {expected} in its record")
    return int(count)


def _sizes(data: Data, span: Span, count: int) -> IntArray:
    (shared,) = struct.unpack_from(">I", data, span[0] + 4)
    each = _numbers(data, (span[0] + 12, span[1]), 0 if shared else count, ">u4")
    return np.full(count, shared, dtype=np.int64) if shared else each


def _offsets(data: Data, boxes: dict[bytes, Span], sizes: IntArray) -> IntArray:
    count = len(sizes)
    chunks = (
        _table(data, boxes[b"stco"], 1, count, ">u4")
        if b"stco" in boxes
        else _table(data, boxes[b"co64"], 1, count, ">i8")
    )
    runs = _table(data, boxes[b"stsc"], 3, count)
    if np.any(runs[:, 2] != 1):
        raise ValueError("more than one sample description")
    lengths = np.diff(runs[:, 0], append=len(chunks) + 1)
    if runs[0, 0] != 1 or np.any(lengths <= 0) or np.any(runs[:, 1] <= 0):
        raise ValueError("chunks are not in order")
    in_chunk = np.repeat(runs[:, 1], lengths)
    chunk = _per_sample(np.stack([in_chunk, np.arange(len(chunks))], axis=1), count)
    before = np.cumsum(sizes) - sizes
    first = np.cumsum(in_chunk) - in_chunk
    offsets: IntArray = chunks[chunk, 0] + before - before[first[chunk]]
    return offsets


def _is_sync(data: Data, span: Span | None, count: int) -> NDArray[np.bool_]:
    if span is None:
        return np.ones(count, dtype=np.bool_)  # 8.6.2.1: without the table, all are
    is_sync = np.zeros(count, dtype=np.bool_)
    samples = _table(data, span, 1, count)[:, 0]
    if np.any(samples < 1):
        raise ValueError("samples are counted from 1")
    is_sync[samples - 1] = True
    return is_sync


def _timescale(data: Data, span: Span) -> int:
    (timescale,) = struct.unpack_from(">I", data, span[0] + (20 if data[span[0]] else 12))
    return int(timescale)


def _description(data: Data, span: Span) -> list[bytes]:
    """The one sample entry (8.5.2): its codec and fields, then the boxes within it (12.1.3) with
    their types.

    Without btrt, of which each file has its own.
    """
    if span[1] - span[0] > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"a description of more than {MAX_DESCRIPTION_BYTES} bytes")
    ((codec, (start, end)),) = _boxes(data, span[0] + 8, span[1])
    fields = start + _VISUAL_FIELDS
    boxes = [
        kind + bytes(data[slice(*inner)])
        for kind, inner in _boxes(data, fields, end)
        if kind != b"btrt"
    ]
    return [codec + bytes(data[start:fields]), *boxes]


def _matrix(data: Data, span: Span) -> tuple[int, ...]:
    return struct.unpack_from(">9i", data, span[0] + (52 if data[span[0]] else 40))


def _quarter_turns(matrix: tuple[int, ...]) -> int:
    a, b, _, c, d, *_ = matrix
    if not (a or c) or not (b or d):
        return 0  # nothing would be left of the picture
    degrees = -math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
    return int(math.copysign(math.floor(abs(degrees) / 90 + 0.5), degrees)) % 4

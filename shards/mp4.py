"""The sample tables of an MP4 file (ISO/IEC 14496-12), as arrays: where each packet lies and when it is shown.

Read at once with numpy, they say of a slice what a demuxer would say packet by packet.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Span = tuple[int, int]
Data = bytes | memoryview

_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_CHANGE_WHAT_IS_SHOWN = (b"edts", b"mvex", b"moof", b"stz2")
_VISUAL_FIELDS = 78
"""Bytes of a VisualSampleEntry before the boxes within it."""
_AS_IT_IS = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The matrix of a track that is shown as it is (ISO/IEC 14496-12, 8.3.2)."""


@dataclass(frozen=True, kw_only=True)
class SampleTables:
    """The samples of a file's only track, in decode order; arrays of shape (num_samples,)."""

    timescale: int
    """Ticks per second."""
    offsets: IntArray
    """Where each sample begins in the file."""
    sizes: IntArray
    dts: IntArray
    pts: IntArray
    is_sync: NDArray[np.bool_]
    """Marked as a keyframe."""
    description: bytes
    """Of the samples: their codec and what its decoder must know; not their bit rate, which it need not."""
    is_turned: bool
    """The track is to be turned or moved before it is shown."""

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


def read_sample_tables(data: Data) -> SampleTables:
    """The tables of a file that holds one track and neither edit list nor fragments.

    Raises:
        ValueError: it holds something else, or tables that contradict each other or end too early.
    """
    try:
        boxes = _leaves(data)
        sizes = _sizes(data, boxes[b"stsz"])
        count = len(sizes)
        durations = _per_sample(_table(data, boxes[b"stts"], 2), count)
        dts = np.cumsum(durations) - durations
        shift = (
            _per_sample(_table(data, boxes[b"ctts"], 2), count)
            if b"ctts" in boxes
            else np.zeros_like(dts)
        )
        return SampleTables(
            timescale=_timescale(data, boxes[b"mdhd"]),
            offsets=_offsets(data, boxes, sizes),
            sizes=sizes,
            dts=dts,
            pts=dts + shift,
            is_sync=_is_sync(data, boxes.get(b"stss"), count),
            description=_description(data, boxes[b"stsd"]),
            is_turned=_is_turned(data, boxes[b"tkhd"]),
        )
    except (KeyError, IndexError, struct.error) as error:
        raise ValueError(f"no whole sample tables: {error!r}") from error


def _leaves(data: Data) -> dict[bytes, Span]:
    """Box type -> where its body lies, of the boxes that hold no further ones of interest."""
    leaves: dict[bytes, Span] = {}
    pending = [(0, len(data))]
    while pending:
        for kind, span in _boxes(data, *pending.pop()):
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


def _table(data: Data, span: Span, columns: int, dtype: str = ">i4") -> IntArray:
    """(entries, columns) numbers of a table that begins with version, flags and the number of its entries."""
    (count,) = struct.unpack_from(">I", data, span[0] + 4)
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


def _sizes(data: Data, span: Span) -> IntArray:
    shared, count = struct.unpack_from(">II", data, span[0] + 4)
    if not 0 < count <= len(data):  # a claim to be refused before arrays of that length are made
        raise ValueError(f"{count} samples in {len(data)} bytes")
    each = _numbers(data, (span[0] + 12, span[1]), 0 if shared else count, ">u4")
    return np.full(count, shared, dtype=np.int64) if shared else each


def _offsets(data: Data, boxes: dict[bytes, Span], sizes: IntArray) -> IntArray:
    chunks = (
        _table(data, boxes[b"stco"], 1, ">u4")
        if b"stco" in boxes
        else _table(data, boxes[b"co64"], 1, ">i8")
    )
    runs = _table(data, boxes[b"stsc"], 3)
    if np.any(runs[:, 2] != 1):
        raise ValueError("more than one sample description")
    lengths = np.diff(runs[:, 0], append=len(chunks) + 1)
    if runs[0, 0] != 1 or np.any(lengths <= 0) or np.any(runs[:, 1] <= 0):
        raise ValueError("chunks are not in order")
    in_chunk = np.repeat(runs[:, 1], lengths)
    chunk = _per_sample(np.stack([in_chunk, np.arange(len(chunks))], axis=1), len(sizes))
    before = np.cumsum(sizes) - sizes
    first = np.cumsum(in_chunk) - in_chunk
    offsets: IntArray = chunks[chunk, 0] + before - before[first[chunk]]
    return offsets


def _is_sync(data: Data, span: Span | None, count: int) -> NDArray[np.bool_]:
    if span is None:
        return np.ones(count, dtype=np.bool_)  # 8.6.2.1: without the table, all are
    is_sync = np.zeros(count, dtype=np.bool_)
    is_sync[_table(data, span, 1)[:, 0] - 1] = True
    return is_sync


def _timescale(data: Data, span: Span) -> int:
    (timescale,) = struct.unpack_from(">I", data, span[0] + (20 if data[span[0]] else 12))
    return int(timescale)


def _description(data: Data, span: Span) -> bytes:
    """The one sample entry (8.5.2) and the boxes within it (12.1.3), but for btrt, which each file has its own of."""
    ((codec, (start, end)),) = _boxes(data, span[0] + 8, span[1])
    fields = start + _VISUAL_FIELDS
    kept = [
        kind + bytes(data[slice(*inner)])
        for kind, inner in _boxes(data, fields, end)
        if kind != b"btrt"
    ]
    return codec + bytes(data[start:fields]) + b"".join(kept)


def _is_turned(data: Data, span: Span) -> bool:
    return struct.unpack_from(">9i", data, span[0] + (52 if data[span[0]] else 40)) != _AS_IT_IS

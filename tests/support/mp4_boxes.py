"""MP4 files that no muxer at hand writes, put together box by box (ISO/IEC 14496-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def join_as_two_descriptions(first: bytes, second: bytes) -> bytes:
    """Two files of one video track in one, each with its own sample description, as MP4Box joins
    them.

    Both without B-frames, edit list and audio, and with frames of the same duration.
    """
    a, b = dict(_leaves(first)), dict(_leaves(second))
    sizes = [_numbers(leaves[b"stsz"][8:]) for leaves in (a, b)]
    lengths = [len(entries) for entries in sizes]
    keys = [*_numbers(a[b"stss"][4:]), *(lengths[0] + key for key in _numbers(b[b"stss"][4:]))]
    prefix = _box(b"ftyp", a[b"ftyp"])
    start = len(prefix) + 8
    changed = {
        b"stsd": struct.pack(">II", 0, 2) + a[b"stsd"][8:] + b[b"stsd"][8:],
        b"stsz": _table(0, sum(lengths), *sizes[0], *sizes[1]),
        b"stts": _table(1, sum(lengths), _numbers(a[b"stts"][4:])[1]),
        b"stss": _table(len(keys), *keys),
        b"stsc": _table(2, *(1, lengths[0], 1), *(2, lengths[1], 2)),
        b"edts": b"",  # it would end with the first part
        b"stco": _table(2, start, start + sum(sizes[0])),
    }
    payload = a[b"mdat"][: sum(sizes[0])] + b[b"mdat"][: sum(sizes[1])]
    moov = next(body for kind, body in _boxes(first) if kind == b"moov")
    return prefix + _box(b"mdat", payload) + _box(b"moov", _replaced(moov, changed))


def turn(path: Path, degrees: int) -> None:
    """Have the only track of an MP4 or MOV file turned counterclockwise, by a multiple of 90
    degrees.
    """
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = struct.pack(">9i", cos * one, -sin * one, 0, sin * one, cos * one, 0, 0, 0, 1 << 30)
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # of version 0 (8.3.2)
    assert data[at - 40] == 0
    path.write_bytes(data[:at] + matrix + data[at + 36 :])


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = 0
    while offset < len(data):
        size, kind = struct.unpack_from(">I4s", data, offset)
        yield kind, data[offset + 8 : offset + size]
        offset += size


def _leaves(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for kind, body in _boxes(data):
        yield from _leaves(body) if kind in _CONTAINERS else [(kind, body)]


def _replaced(data: bytes, changed: Mapping[bytes, bytes]) -> bytes:
    return b"".join(
        _box(kind, _replaced(body, changed) if kind in _CONTAINERS else changed.get(kind, body))
        for kind, body in _boxes(data)
    )


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body


def _table(*numbers: int) -> bytes:
    """Version and flags, then 32-bit numbers."""
    return struct.pack(f">{len(numbers) + 1}I", 0, *numbers)


def _numbers(body: bytes) -> list[int]:
    """The entries of a table: a count, then 32-bit numbers."""
    return list(struct.unpack(f">{len(body) // 4 - 1}I", body[4:]))

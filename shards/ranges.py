"""Deciding which byte ranges of a file are read together: arithmetic alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, order=True)
class ByteRange:
    """Bytes `offset` to `offset + length` of a file."""

    offset: int
    length: int

    @property
    def stop(self) -> int:
        """Offset after the last byte."""
        return self.offset + self.length

    def covers(self, other: "ByteRange") -> bool:
        """Whether all of another range lies in this one."""
        return self.offset <= other.offset and other.stop <= self.stop


def neighbours(
    ranges: Sequence[ByteRange], *, max_gap: int, max_length: int, max_waste: float = inf
) -> list[list[int]]:
    """Return which ranges are read together: groups of positions in `ranges`, ascending by offset.

    Neighbours at most `max_gap` bytes apart are joined while the whole has at most `max_length`
    bytes, and while all gaps in it have at most `max_waste` of the bytes that are wanted; a range
    that is longer by itself makes a group of its own. Ranges that overlap are always joined.
    """
    groups: list[list[int]] = []
    start = stop = gaps = 0
    for position in sorted(range(len(ranges)), key=lambda i: ranges[i]):
        piece = ranges[position]
        end = max(stop, piece.stop)
        gap = max(0, piece.offset - stop)
        near, short = gap <= max_gap, end - start <= max_length
        dense = gaps + gap <= max_waste * (end - start - gaps - gap)
        if groups and (piece.offset < stop or (near and short and dense)):
            groups[-1].append(position)
            stop, gaps = end, gaps + gap
        else:
            groups.append([position])
            start, stop, gaps = piece.offset, piece.stop, 0
    return groups


def coalesce(ranges: Sequence[ByteRange], *, max_gap: int, max_length: int) -> list[ByteRange]:
    """The reads that bring these ranges: each lies whole in one of them.

    Joined as `neighbours` says.
    """
    groups = neighbours(ranges, max_gap=max_gap, max_length=max_length)
    return [_around([ranges[position] for position in group]) for group in groups]


def _around(ranges: Sequence[ByteRange]) -> ByteRange:
    start = min(piece.offset for piece in ranges)
    return ByteRange(start, max(piece.stop for piece in ranges) - start)

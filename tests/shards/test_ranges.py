"""Few reads cover many ranges: whole, in order, never more than was allowed to be joined."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from roboshard.shards.ranges import ByteRange, coalesce, neighbours

RANGES = st.lists(st.builds(ByteRange, st.integers(0, 2000), st.integers(0, 300)), max_size=40)
LIMITS = st.tuples(st.integers(0, 100), st.integers(0, 1000))


@given(ranges=RANGES, limits=LIMITS)
def test_every_range_lies_whole_in_a_read_and_nothing_else_is_read_but_gaps(
    ranges: list[ByteRange], limits: tuple[int, int]
) -> None:
    max_gap, max_length = limits
    reads = coalesce(ranges, max_gap=max_gap, max_length=max_length)
    assert all(any(read.covers(piece) for read in reads) for piece in ranges)
    assert [read.offset for read in reads] == sorted(read.offset for read in reads)
    assert all(before.stop <= after.offset for before, after in itertools.pairwise(reads))
    # A range without bytes is a place that is read up to, too.
    wanted = {byte for piece in ranges for byte in range(piece.offset, piece.stop)}
    wanted |= {piece.offset for piece in ranges}
    for read in reads:
        unwanted = 0
        for byte in range(read.offset, read.stop):
            unwanted = 0 if byte in wanted else unwanted + 1
            assert unwanted <= max_gap


@given(ranges=RANGES, limits=LIMITS)
def test_a_read_is_longer_than_allowed_only_where_ranges_overlap(
    ranges: list[ByteRange], limits: tuple[int, int]
) -> None:
    max_gap, max_length = limits
    for read in coalesce(ranges, max_gap=max_gap, max_length=max_length):
        if read.length > max_length:
            inside = sorted(piece for piece in ranges if read.covers(piece) and piece.length)
            stop = inside[0].offset + max_length  # up to here it may have grown by neighbours
            for piece in inside:
                assert piece.offset < max(stop, read.offset + 1) or any(
                    other.offset < piece.offset < other.stop or other.offset == piece.offset
                    for other in inside
                    if other != piece
                )


@given(ranges=RANGES, limits=LIMITS)
def test_groups_hold_every_range_once_in_ascending_order(
    ranges: list[ByteRange], limits: tuple[int, int]
) -> None:
    groups = neighbours(ranges, max_gap=limits[0], max_length=limits[1])
    flat = [position for group in groups for position in group]
    assert sorted(flat) == list(range(len(ranges)))
    assert [ranges[position] for position in flat] == sorted(ranges)


@given(ranges=RANGES, limits=LIMITS, max_waste=st.floats(0, 2))
def test_gaps_in_a_group_are_a_small_share_of_what_is_wanted(
    ranges: list[ByteRange], limits: tuple[int, int], max_waste: float
) -> None:
    max_gap, max_length = limits
    for group in neighbours(ranges, max_gap=max_gap, max_length=max_length, max_waste=max_waste):
        pieces = [ranges[position] for position in group]
        wanted = len({byte for piece in pieces for byte in range(piece.offset, piece.stop)})
        gaps = max(piece.stop for piece in pieces) - pieces[0].offset - wanted
        assert gaps <= max_waste * wanted


def test_tiles_are_joined_up_to_the_length_and_distant_ones_are_not() -> None:
    tiles = [ByteRange(100 * i, 100) for i in range(5)]
    assert coalesce(tiles, max_gap=0, max_length=250) == [
        ByteRange(0, 200),
        ByteRange(200, 200),
        ByteRange(400, 100),
    ]
    assert coalesce([ByteRange(0, 10), ByteRange(15, 10)], max_gap=4, max_length=100) == [
        ByteRange(0, 10),
        ByteRange(15, 10),
    ]
    assert coalesce([ByteRange(0, 10), ByteRange(15, 10)], max_gap=5, max_length=100) == [
        ByteRange(0, 25)
    ]
    assert coalesce([ByteRange(0, 999)], max_gap=0, max_length=10) == [ByteRange(0, 999)]
    assert coalesce([], max_gap=0, max_length=10) == []

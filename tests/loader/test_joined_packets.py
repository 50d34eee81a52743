"""Packets are read from where they lie, few reads for many of them, and joined as they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.loader.decoding.codec import Codec
from roboshard.loader.decoding.joined_packets import decode_joined
from roboshard.loader.decoding.packet_bytes import READ_AT_ONCE, PacketBytes
from roboshard.loader.decoding.slice_bytes import InMemory
from roboshard.shards.slices import SlicePackets


class Noted(InMemory):
    """A slice that notes which parts of it are read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(memoryview(data))
        self.read: list[tuple[int, int]] = []

    def part(self, begin: int, end: int) -> memoryview:
        self.read.append((begin, end))
        return super().part(begin, end)


class Joining:
    """A codec that notes what it is fed, and has something for each packet but those it loses."""

    def __init__(self, number: int) -> None:
        self.fed = b""
        self._number = number

    def feed(self, data: bytes, *_: int, is_keyframe: bool) -> list[int]:
        assert is_keyframe
        self.fed = data
        if self._number < 0:
            raise av.InvalidDataError(1, "broken")
        return [*range(self._number // 2)]

    def drain(self) -> list[int]:
        return [*range(self._number // 2, self._number)]


def slice_of(sizes: list[tuple[int, int]]) -> tuple[Noted, PacketBytes, list[bytes]]:
    """A slice of packets with so many bytes, each after a gap of so many; how they are read, and
    what they are.
    """
    gaps, lengths = np.array(sizes, dtype=np.int64).T
    ends = np.cumsum(gaps + lengths)
    data = np.random.default_rng(0).bytes(int(ends[-1]) + 9)
    noted = Noted(data)
    tables = SimpleNamespace(offsets=ends - lengths, ends=ends)
    packets = cast(SlicePackets, SimpleNamespace(tables=tables, is_whole=True))
    pieces = [data[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return noted, PacketBytes(noted, packets), pieces


SIZES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, READ_AT_ONCE // 3) | st.just(2 * READ_AT_ONCE)),
    min_size=1,
    max_size=24,
)


@given(SIZES, st.data())
def test_any_packet_is_read_with_those_that_are_wanted_after_it(
    sizes: list[tuple[int, int]], data: Any
) -> None:
    noted, packets, pieces = slice_of(sizes)
    places = st.integers(0, len(sizes) - 1)
    for place in data.draw(st.lists(places, max_size=12)):
        stop = data.draw(st.integers(0, len(sizes)))
        before = len(noted.read)
        assert packets.of(place, stop) == pieces[place]
        assert len(noted.read) <= before + 1
        if data.draw(st.booleans()):
            packets.forget()
    assert all(
        end - begin <= READ_AT_ONCE or end - begin in {length for _, length in sizes}
        for begin, end in noted.read
    )


@given(SIZES, st.data())
def test_packets_are_joined_as_they_are(sizes: list[tuple[int, int]], data: Any) -> None:
    noted, packets, pieces = slice_of(sizes)
    frames = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1)))
    codec = Joining(len(frames))
    found = decode_joined(cast(Codec, codec), packets, frames, data.draw(st.sampled_from(frames)))
    assert found == [*range(len(frames))]
    assert codec.fed == b"".join(pieces[frame] for frame in frames)
    assert len(noted.read) <= len(frames)


def test_packets_of_one_run_are_read_at_once() -> None:
    noted, packets, _ = slice_of([(1, 100)] * 12)
    decode_joined(cast(Codec, Joining(6)), packets, [0, 1, 2, 6, 7, 8], 0)
    assert noted.read == [(1, 303), (607, 909)]


@pytest.mark.parametrize("number", [-1, 0, 1, 3])
def test_other_than_a_frame_for_each_packet_is_none(number: int) -> None:
    _, packets, _ = slice_of([(0, 10), (0, 10)])
    assert decode_joined(cast(Codec, Joining(number)), packets, [0, 1], 0) is None

"""The packets of a slice, each from where it lies."""

from array import array

from roboshard.loader.decoding.slice_bytes import InMemory, SliceBytes
from roboshard.shards.mp4 import IntArray
from roboshard.shards.slices import SlicePackets

READ_AT_ONCE = 1 << 16
"""Bytes that are read in one go, of packets that follow one another, unless one is larger."""


class PacketBytes:
    """The bytes of each packet, by its place in the order of decoding. Used by one thread at a
    time.
    """

    def __init__(self, data: SliceBytes, packets: SlicePackets) -> None:
        """Say where the packets of a slice lie; of what `read_slice` read only that is kept."""
        tables = packets.tables
        self._payload = data if packets.is_whole else InMemory(packets.payload)
        self._begin, self._end = numbers(tables.offsets), numbers(tables.ends)
        self._window, self._window_begin = memoryview(b""), 0
        """The bytes of the payload that were read last, and the offset at which they begin."""

    def of(self, packet: int, stop: int) -> memoryview:
        """Return the bytes of a packet; where they are to be read, with those of the packets up to
        `stop`, which are wanted too.
        """
        begin, end = self._begin[packet], self._end[packet]
        first = self._window_begin
        if not first <= begin <= end <= first + len(self._window):
            upto = end
            for following in range(packet + 1, stop):
                if not upto <= self._end[following] <= begin + READ_AT_ONCE:
                    break
                upto = self._end[following]
            self._window, self._window_begin, first = self._payload.part(begin, upto), begin, begin
        return self._window[begin - first : end - first]

    def forget(self) -> None:
        """Let go of what was read last."""
        self._window = memoryview(b"")


def numbers(column: IntArray) -> "array[int]":
    """Return numbers that are quick to look up one by one, and no larger than they must be."""
    return array("q", column.tobytes())

"""Parameter sets of H.264 and HEVC: which are in force at a packet, and the header that says so.

They stand in a stream's header, and packets may carry others, which replace those of the same
number from there on: a file joined from several encodes is like that. Apart from any video library.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from roboshard.shards.nal_units import length_size_of, type_of, units_of

Name = tuple[int, int]
"""(type, number) of a parameter set."""
_START_CODE = b"\0\0\0\1"
_KINDS = {"h264": (7, 13, 8), "hevc": (32, 33, 34)}
"""Types of parameter sets, each before those that refer to it."""
_CONFIGURATION = {"h264": 6, "hevc": 23}
"""Where the sets begin in a configuration record, or the count of those in front (ISO/IEC
14496-15).
"""


@dataclass
class ParameterSets:
    """The parameter sets that a decoder has; a decoder that goes on from packet to packet."""

    codec: str
    length_size: int
    """Bytes of a NAL unit's length in packets."""
    by_name: dict[Name, bytes] = field(default_factory=dict)

    @classmethod
    def of_header(cls, codec: str, extradata: bytes) -> "ParameterSets | None":
        """Return the sets of a configuration record; None: the header is none of H.264 or HEVC, or
        is damaged.
        """
        length_size = length_size_of(codec, extradata)
        if length_size is None or len(extradata) <= _CONFIGURATION[codec]:
            return None
        sets = cls(codec=codec, length_size=length_size)
        try:
            for unit in _configured(codec, extradata):
                sets.apply(unit)
        except IndexError:
            return None
        return sets

    def copy(self) -> "ParameterSets":
        """Return a copy of the sets, to go another way from here."""
        return ParameterSets(self.codec, self.length_size, dict(self.by_name))

    def see(self, packet: memoryview) -> bool:
        """Let the decoder see a packet; return whether its sets change anything."""
        changed = False
        for unit in units_of(packet, self.length_size):
            if type_of(self.codec, unit) in _KINDS[self.codec]:
                changed |= self.apply(bytes(unit))
        return changed

    def apply(self, unit: bytes) -> bool:
        """Let the decoder see a set; return whether it is new."""
        name = (kind := type_of(self.codec, unit), self._number(kind, unit))
        if kind not in _KINDS[self.codec] or self.by_name.get(name) == unit:
            return False
        self.by_name[name] = unit
        return True

    def annex_b(self) -> bytes:
        """Return all sets, those first that others refer to, each after a start code."""
        order = _KINDS[self.codec]
        names = sorted(self.by_name, key=lambda name: (order.index(name[0]), name[1]))
        return b"".join(_START_CODE + self.by_name[name] for name in names)

    def as_annex_b(self, packet: memoryview) -> bytes:
        """Return a packet with start codes in place of lengths."""
        return b"".join(_START_CODE + bytes(unit) for unit in units_of(packet, self.length_size))

    def _number(self, kind: int, unit: bytes) -> int:
        """Return the number by which others refer to a set (H.264 7.3.2; H.265 7.3.2)."""
        if self.codec == "h264":
            return _ue(unit[4:]) if kind == 7 else _ue(unit[1:])
        if kind == 32:
            return unit[2] >> 4
        return _ue(unit[2:]) if kind == 34 else _sps_number(unit)


def _sps_number(unit: bytes) -> int:
    """Return the number of an HEVC SPS, after profile, tier and levels (H.265 7.3.2.2, 7.3.3)."""
    data = unit.replace(b"\0\0\3", b"\0\0")  # bytes that keep start codes out
    layers = data[2] >> 1 & 7
    position = 3 + 12
    if layers:
        flags = int.from_bytes(data[position : position + 2], "big")
        position += 2
        for i in range(layers):
            position += 11 * (flags >> (15 - 2 * i) & 1) + (flags >> (14 - 2 * i) & 1)
    return _ue(data[position:])


def _ue(data: bytes) -> int:
    """The number that begins these bytes in Exp-Golomb code (H.264 and H.265, 9.1 and 9.2)."""
    bits = f"{int.from_bytes(data[:8].ljust(8, bytes(1)), 'big'):064b}"
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "1", 2) - 1


def _configured(codec: str, extradata: bytes) -> Iterator[bytes]:
    """The sets in a configuration record. Raises IndexError where it ends too early."""
    position = 5 if codec == "h264" else 23
    arrays = 2 if codec == "h264" else extradata[22]
    for number in range(arrays):
        if codec == "h264":
            count = extradata[position] & (31 if number == 0 else 255)
            position += 1
        else:
            count = int.from_bytes(extradata[position + 1 : position + 3], "big")
            position += 3
        for _ in range(count):
            size = int.from_bytes(extradata[position : position + 2], "big")
            if position + 2 + size > len(extradata):
                raise IndexError("a set ends after its record")
            yield extradata[position + 2 : position + 2 + size]
            position += 2 + size

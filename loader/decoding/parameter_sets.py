"""Which parameter sets are in force where decoding begins.

A decoder of H.264 or HEVC keeps the parameter sets that it has seen, whatever it is told to forget,
and packets may carry sets of their own: a file joined from several encodes does. So a GOP is
decoded as if its slice had been decoded up to there only by a decoder that has seen the same sets,
and no others. An AV1 decoder forgets its sequence header, which a keyframe may leave to an earlier
one.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roboshard.shards.mp4 import SampleTables
from roboshard.shards.nal_units import length_size_of

MAX_UNITS = 4096
"""Most NAL units of a packet: one that has more is refused."""
MAX_SETS_BYTES = 1 << 16
"""Most bytes of the sets that lead up to a GOP; those of an encoder are some hundred."""
MAX_HEADER = 64
"""Most bytes of a sequence header that is looked for in all keyframes at once; encoders write about
a dozen.
"""

_H264_SETS, _H264_SEI = (7, 8, 13, 15), 6
_HEVC_SETS = (32, 33, 34)
_H264_PPS, _HEVC_PPS = 8, 34
_AV1_SEQUENCE_HEADER, _AV1_TEMPORAL_DELIMITER = 1, 2
_X264_BUILD = b"x264 - core "
"""Begins a message by which FFmpeg knows an encoder's faults, and decodes 4:4:4 as that encoder
meant it.
"""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a decoder must have seen before a GOP's first packet."""

    sets: bytes = b""
    """Parameter sets beyond those of the sample description, in decode order, as they stand in
    packets.
    """
    is_led: bool = False
    """Whether the first packet lacks some of the sets: then all of them are to be fed before it."""
    is_final: bool = True
    """Whether the GOP's own packets leave the sets as they are."""


NO_SETS = Start()


def starts_of_gops(
    payload: memoryview, tables: SampleTables, firsts: Sequence[int], codec: str, pix_fmt: str
) -> Sequence[Start] | None:
    """Return what each GOP's decoder must have seen; None: nothing but the sample description and
    what each GOP begins with.

    Args:
        payload: Where the packets lie.
        tables: Those of the slice.
        firsts: The GOPs' first packets, ascending.
        codec: FFmpeg's name.
        pix_fmt: FFmpeg's name of the pixel format.

    Raises:
        ValueError: The packets cannot be those of a decodable slice.
    """
    if codec == "av1":
        return _av1_starts(payload, tables, firsts)
    length_size = length_size_of(codec, tables.extradata)
    if length_size is None:
        return None
    is_hevc = codec == "hevc"
    wanted = np.zeros(256, dtype=np.bool_)
    kinds = _HEVC_SETS if is_hevc else _H264_SETS
    if not is_hevc and "444" in pix_fmt:
        kinds = (*kinds, _H264_SEI)
    headers = np.arange(256)
    wanted[:] = np.isin(headers >> 1 & 63 if is_hevc else headers & 31, kinds)
    units: dict[int, list[bytes]] = defaultdict(list)
    for packet, start, end in sorted(_units(payload, tables, length_size, wanted)):
        unit = bytes(payload[start:end])
        if is_hevc or unit[length_size] & 31 != _H264_SEI or _X264_BUILD in unit:
            units[packet].append(unit)
    return _nal_starts(units, firsts, _InForce(is_hevc, length_size)) if units else None


def _units(
    payload: memoryview, tables: SampleTables, length_size: int, wanted: NDArray[np.bool_]
) -> Iterator[tuple[int, int, int]]:
    """Yield (packet, start, end) of the NAL units whose first byte is `wanted`, in no order.

    All packets are walked at once.
    """
    octets = np.frombuffer(payload, np.uint8)
    packets = np.arange(len(tables.sizes))
    positions, ends = tables.offsets, tables.ends
    for _ in range(MAX_UNITS):
        is_left = positions + length_size < ends
        if not is_left.any():
            return
        packets, positions, ends = packets[is_left], positions[is_left], ends[is_left]
        lengths = np.zeros_like(positions)
        for i in range(length_size):
            lengths = lengths << 8 | octets[positions + i]
        bodies = positions + length_size
        following = np.minimum(bodies + lengths, ends)
        found = wanted[octets[bodies]] & (lengths > 0)
        if found.any():
            columns = (packets[found], positions[found], following[found])
            yield from zip(*(column.tolist() for column in columns), strict=True)
        positions = following
    raise ValueError(f"a packet of more than {MAX_UNITS} NAL units")


class _InForce:
    """The parameter sets that a decoder has, beyond those of the sample description."""

    def __init__(self, is_hevc: bool, length_size: int) -> None:
        self.applied: list[bytes] = []
        """Units that the decoder has seen and that made a difference to it, in decode order."""
        self._by_name: dict[tuple[int, int], bytes] = {}
        self._is_hevc, self._length_size = is_hevc, length_size

    def apply(self, unit: bytes) -> bool:
        """Let the decoder see a unit, and return whether that may make a difference to it."""
        name = self._name(unit)
        if self._by_name.get(name) == unit:
            return False
        self._by_name[name] = unit
        pps = _HEVC_PPS if self._is_hevc else _H264_PPS
        if name[0] not in (
            pps,
            _H264_SEI,
        ):  # picture parameter sets are dropped with what they refer to
            self._by_name = {other: it for other, it in self._by_name.items() if other[0] != pps}
        self.applied.append(unit)
        return True

    def forget_but(self, own: Sequence[bytes]) -> None:
        """Forget the units before these ones, if these are all that is in force."""
        if {self._name(unit) for unit in own} == self._by_name.keys():
            self.applied = list(own)

    def _name(self, unit: bytes) -> tuple[int, int]:
        """Return (type, number) of a unit; all but picture parameter sets have the number 0."""
        header = unit[self._length_size :]
        kind = header[0] >> 1 & 63 if self._is_hevc else header[0] & 31
        if kind == _HEVC_PPS and self._is_hevc:
            return kind, _ue(header[2:6])
        return kind, _ue(header[1:5]) if kind == _H264_PPS and not self._is_hevc else 0


def _ue(data: bytes) -> int:
    """Return the number that begins these bytes in Exp-Golomb code (H.264, H.265: 9.1 and 9.2)."""
    bits = f"{int.from_bytes(data.ljust(4, bytes(1)), 'big'):032b}"
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "0", 2) - 1


def _nal_starts(
    units: Mapping[int, Sequence[bytes]], firsts: Sequence[int], in_force: _InForce
) -> list[Start]:
    places = sorted(units)
    nexts = [*firsts[1:], places[-1] + 1]
    found: list[Start] = []
    sets, at = b"", 0
    for first, end in zip(firsts, nexts, strict=True):
        own = units.get(first, ())
        is_new = [in_force.apply(unit) for unit in own]
        if own:
            in_force.forget_but(own)
        if any(is_new) or (found and not found[-1].is_final):
            sets = b"".join(in_force.applied)
            if len(sets) > MAX_SETS_BYTES:
                raise ValueError(f"more than {MAX_SETS_BYTES} bytes of parameter sets")
        is_final = True
        while at < len(places) and places[at] < end:
            if places[at] > first:
                changes = [in_force.apply(unit) for unit in units[places[at]]]
                is_final = is_final and not any(changes)
            at += 1
        found.append(Start(sets=sets, is_led=sets != b"".join(own), is_final=is_final))
    return found


def _av1_starts(
    payload: memoryview, tables: SampleTables, firsts: Sequence[int]
) -> list[Start] | None:
    """Return what each GOP's decoder must have seen; None: every keyframe begins with one and the
    same sequence header, as is most often so.
    """
    begins, ends = tables.offsets[list(firsts)], tables.ends[list(firsts)]
    header = _sequence_header(payload[int(begins[0]) : int(ends[0])])
    octets = np.frombuffer(payload, np.uint8)
    if 0 < len(header) <= MAX_HEADER and np.all(ends - begins >= len(header)):
        same = [np.all(octets[begins + i] == octet) for i, octet in enumerate(header)]
        if all(same):
            return None
    found: list[Start] = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        own = _sequence_header(payload[begin:end])
        header = own or header
        found.append(Start(sets=header, is_led=not own and bool(header)))
    return found


def _sequence_header(packet: memoryview) -> bytes:
    """Return the sequence header of a packet, which comes before its frames (AV1 5.3, 7.5); empty:
    it has none.
    """
    position = 0
    try:
        while True:
            start, header = position, packet[position]
            kind, has_size = header >> 3 & 15, header & 2
            position += 2 if header & 4 else 1
            if not has_size or kind not in (_AV1_SEQUENCE_HEADER, _AV1_TEMPORAL_DELIMITER):
                return b""
            size = shift = 0
            while True:
                octet = packet[position]
                size |= (octet & 127) << shift
                position, shift = position + 1, shift + 7
                if octet < 128 or shift > 56:  # AV1 4.10.5: eight bytes at most
                    break
            position += size
            if kind == _AV1_SEQUENCE_HEADER:
                return bytes(packet[start:position])
    except IndexError:
        return b""

"""NAL units, of which packets of H.264 and HEVC are made; apart from any video library."""

from collections.abc import Iterator

LENGTH_AT = {"h264": 4, "hevc": 21}
"""Which byte of a configuration record says, in its last two bits, how long a NAL unit's length is,
less one.
"""


def length_size_of(codec: str, extradata: bytes) -> int | None:
    """Return how many bytes of a packet say a NAL unit's length (ISO/IEC 14496-15, 5.3.3.1 and
    8.3.3.1).

    None: the codec has no such units, or `extradata` is no configuration record.
    """
    at = LENGTH_AT.get(codec)
    if at is None or extradata[:1] != b"\1" or len(extradata) <= at:
        return None
    return (extradata[at] & 3) + 1


def units_of(packet: memoryview, length_size: int) -> Iterator[memoryview]:
    """Yield the NAL units of a packet, in which each comes after its length."""
    position, end = 0, len(packet)
    while position + length_size < end:
        size = int.from_bytes(packet[position : position + length_size], "big")
        position += length_size
        yield packet[position : position + size]
        position += size


def type_of(codec: str, unit: bytes | memoryview) -> int:
    """Return a NAL unit's type; -1 for an empty one."""
    if not len(unit):
        return -1
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63

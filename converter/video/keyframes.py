"""Where decoding can start, by the first bits of a packet; apart from any video library."""

from collections.abc import Callable, Iterator
from functools import partial

from roboshard.converter.video.bits import Bits
from roboshard.shards.nal_units import length_size_of, type_of, units_of

_AV1_FRAME_HEADERS = (3, 6)
"""Kinds of units that begin with a frame's header: a frame header, and a frame; AV1 6.2.2."""


def keyframe_check(codec: str, extradata: bytes) -> Callable[[memoryview], bool] | None:
    """Return what tells of a packet that is flagged as a keyframe whether decoding can start there.

    Flags come from a container, whose writer may not have known: an MP4 file without a table of
    keyframes flags all packets, and so does FFmpeg with H.263 in AVI.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: The stream's header.

    Returns:
        A function of a packet's payload, which is true where the packet does not tell; None:
        packets of this codec do not, or each one is a keyframe.
    """
    if codec in _RANDOM_ACCESS:
        least, kinds = _RANDOM_ACCESS[codec]
        length_size = length_size_of(codec, extradata)
        if length_size is None or len(extradata) < least:
            return None
        return partial(_has_unit, length_size=length_size, codec=codec, kinds=kinds)
    read = _PICTURE_TYPES.get(codec)
    return None if read is None else partial(_is_intra, read)


def _has_unit(packet: memoryview, *, length_size: int, codec: str, kinds: frozenset[int]) -> bool:
    """Whether one of the NAL units of a packet is of these types."""
    return any(type_of(codec, unit) in kinds for unit in units_of(packet, length_size))


def _is_intra(read: Callable[[memoryview], bool], packet: memoryview) -> bool:
    try:
        return read(packet)
    except IndexError:
        return True  # cut short: decoders will say so


def _vp8(packet: memoryview) -> bool:
    """Whether a VP8 packet is a key frame (RFC 6386, 9.1)."""
    return not packet[0] & 1


def _vp9(packet: memoryview) -> bool:
    """Whether a VP9 packet is a key frame: show_existing_frame and frame_type, after the marker and
    the profile, are 0 (VP9 bitstream specification 6.2).
    """
    bits = Bits(packet, 2)
    bits.read(2)
    if bits.read(2) == 3:
        bits.read(1)
    return not bits.read(2)


def _mpeg4(packet: memoryview) -> bool:
    """Whether an MPEG-4 picture is intra-coded, by its vop_coding_type (ISO/IEC 14496-2, 6.2.5)."""
    return not _after(packet, b"\0\0\1\xb6")[0] >> 6


def _mpeg2(packet: memoryview) -> bool:
    """Whether an MPEG-1 or MPEG-2 picture is intra-coded, by its picture_coding_type, which is
    after temporal_reference (ISO/IEC 13818-2, 6.2.3, and 11172-2).
    """
    return _after(packet, b"\0\0\1\0")[1] >> 3 & 7 == 1


def _h263(packet: memoryview) -> bool:
    """Whether an H.263 picture is intra-coded, by its type in PTYPE, or in PLUSPTYPE after OPPTYPE
    (ITU-T H.263, 5.1.3 and 5.1.4).
    """
    bits = Bits(packet)
    bits.read(22 + 8 + 5)
    if bits.read(3) != 7:
        return not bits.read(1)
    if bits.read(3) == 1:
        bits.read(18)
    return not bits.read(3)


def _theora(packet: memoryview) -> bool:
    """Whether a Theora packet is an intra frame, by its FTYPE (Theora specification 7.1); a packet
    without a byte is the frame before it again.
    """
    return len(packet) > 0 and not packet[0] & 0x40


def _after(packet: memoryview, start_code: bytes) -> bytes:
    data = bytes(packet)
    position = data.find(start_code)
    if position < 0:
        raise IndexError("it has no picture")
    return data[position + len(start_code) :][:4]


_RANDOM_ACCESS = {
    # how long a configuration record is at least (ISO/IEC 14496-15), and types of units of
    # keyframes
    "h264": (7, frozenset((5,))),
    "hevc": (23, frozenset(range(16, 22))),
}
"""Codec -> least bytes of its configuration record, types of NAL units at which decoding can start.

H.264: IDR pictures only. Recovery points are flagged too; from the start of a gradual refresh,
frames decode wrong for a while, and from that of an open GOP FFmpeg may lose the last frame of the
file. HEVC: IRAP pictures.
"""
_PICTURE_TYPES: dict[str, Callable[[memoryview], bool]] = {
    "vp8": _vp8,
    "vp9": _vp9,
    "mpeg4": _mpeg4,
    "mpeg1video": _mpeg2,
    "mpeg2video": _mpeg2,
    "h263": _h263,
    "theora": _theora,
}


def has_av1_frame_types(extradata: bytes) -> bool:
    """AV1: whether frame headers begin with the frame's type; those of still pictures may be
    without.

    AV1 codec configuration ISO media binding 2.3.3 and AV1 5.5.1: four bytes, then the sequence
    header's OBU.
    """
    header = extradata[4:7]
    return (
        extradata[:1] == b"\x81" and len(header) == 3 and header[0] == 0x0A and not header[2] & 0x08
    )


def is_av1_keyframe(data: memoryview, flagged: bool) -> bool:
    """Whether the frame that a packet shows is a key frame, as FFmpeg's parser finds it; AV1 5.3.2,
    5.9.2.
    """
    try:
        for kind, start, _ in av1_units(data):
            if kind in _AV1_FRAME_HEADERS:
                begin = data[start] >> 4  # show_existing_frame, frame_type, show_frame
                if begin & 0b1001:
                    return begin == 0b0001
    except IndexError:
        pass  # cut short: decoders will say so
    return flagged


def av1_units(packet: memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield (kind, start, end) of the open bitstream units of a packet, but for those of
    enhancement layers; AV1 5.3.

    Raises:
        IndexError: The packet is cut short.
    """
    position = 0
    while position < len(packet):
        header = packet[position]
        extended = header >> 2 & 1
        is_enhancement = extended and packet[position + 1] >> 3 & 3
        position += 1 + extended
        size = len(packet) - position
        if header & 2:
            size, position = _leb128(packet, position)
        if not is_enhancement:
            yield header >> 3 & 15, position, position + size
        position += size


def _leb128(data: memoryview, position: int) -> tuple[int, int]:
    """(value, position after it); AV1 4.10.5."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position

"""Where decoding can start, by the first bits of a packet; apart from any video library."""

from collections.abc import Iterator

_AV1_FRAME_HEADERS = (3, 6)
"""Kinds of units that begin with a frame's header: a frame header, and a frame; AV1 6.2.2."""


def is_h264_random_access(data: memoryview, extradata: bytes) -> bool:
    """Whether a packet that is flagged as a keyframe is an IDR picture.

    Recovery points carry the flag too. From the start of a gradual refresh, frames decode wrong for a while; from
    that of an open GOP, FFmpeg may lose the last frame of the file.
    """
    if extradata[:1] != b"\1" or len(extradata) < 7:
        return True
    length_size = (extradata[4] & 3) + 1  # ISO/IEC 14496-15, AVCDecoderConfigurationRecord
    position = 0
    while position + length_size < len(data):
        size = int.from_bytes(data[position : position + length_size], "big")
        if data[position + length_size] & 0x1F == 5:
            return True
        position += length_size + size
    return False


def has_av1_frame_types(extradata: bytes) -> bool:
    """AV1: whether frame headers begin with the frame's type; those of still pictures may be without.

    AV1 codec configuration ISO media binding 2.3.3 and AV1 5.5.1: four bytes, then the sequence header's OBU.
    """
    header = extradata[4:7]
    return (
        extradata[:1] == b"\x81" and len(header) == 3 and header[0] == 0x0A and not header[2] & 0x08
    )


def is_av1_keyframe(data: memoryview, flagged: bool) -> bool:
    """Whether the frame that a packet shows is a key frame, as FFmpeg's parser finds it; AV1 5.3.2, 5.9.2."""
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
    """Yield (kind, start, end) of the open bitstream units of a packet, but for those of enhancement layers; AV1 5.3.

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

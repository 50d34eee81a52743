"""What a packet says of its picture's size and samples, where packets say it themselves.

A file's header tells of its first pictures. In these codecs later ones may differ, with no sign of
it but in their packets: files joined from several recordings, or cameras that change their
resolution. Apart from any video library.
"""

from collections.abc import Callable, Iterator

from roboshard.converter.video.bits import Bits
from roboshard.converter.video.keyframes import av1_units

_AV1_SEQUENCE_HEADER = 1
_VP9_KEY, _VP9_SIZE_BYTES = 0, 4


def picture_header(codec: str, packet: memoryview, before: bytes | None) -> bytes | None:
    """Return the bytes of a packet in which its codec describes pictures.

    Args:
        codec: FFmpeg's name of the codec.
        packet: A packet's payload.
        before: What was returned for the packet before it that had any; None: there was none.

    Returns:
        Bytes that are the same for pictures of the same size and samples; None: the packet's
        pictures are as those before it, or the codec's packets do not say.
    """
    read = _READERS.get(codec)
    try:
        return None if read is None else read(packet, before)
    except IndexError:
        return None  # cut short: decoders will say so


def _vp8(packet: memoryview, _: bytes | None) -> bytes | None:
    """RFC 6386, 9.1: a key frame's tag, start code, width and height."""
    return None if packet[0] & 1 else _field(packet, 6, 10)


def _vp9(packet: memoryview, before: bytes | None) -> bytes | None:
    """The size and samples that a VP9 packet says (VP9 bitstream specification 6.2, 7.2): key
    frames do, and others where they have a size of their own.
    """
    bits = Bits(packet)
    bits.read(2)
    profile = bits.read(1) | bits.read(1) << 1
    if profile == 3:
        bits.read(1)
    if bits.read(1):  # show_existing_frame
        return None
    is_inter, is_shown, is_resilient = bits.read(1) != _VP9_KEY, bits.read(1), bits.read(1)
    if not is_inter:
        bits.read(24)  # the sync code
        return bytes((profile, _vp9_samples(bits, profile))) + _vp9_size(bits)
    is_intra = not is_shown and bits.read(1)
    bits.read(0 if is_resilient else 2)
    if is_intra:
        bits.read(24)
        if profile:
            _vp9_samples(bits, profile)
        bits.read(8)  # which references it refreshes
    else:
        bits.read(8 + 3 * 4)  # and which it has
        if bits.read(1) or bits.read(1) or bits.read(1):
            return None  # of the size of one of them
    return None if before is None else before[:-_VP9_SIZE_BYTES] + _vp9_size(bits)


def _vp9_samples(bits: Bits, profile: int) -> int:
    """Read VP9's color_config() as one number."""
    deep = bits.read(1) if profile >= 2 else 0
    space = bits.read(3)
    is_rgb, has_subsampling = space == 7, profile in (1, 3)
    full = 1 if is_rgb else bits.read(1)
    subsampling = bits.read(1 if is_rgb else 3) if has_subsampling else 0
    return deep << 7 | space << 4 | full << 3 | subsampling


def _vp9_size(bits: Bits) -> bytes:
    """Read VP9's frame_size(): width and height, less one."""
    return bits.read(32).to_bytes(_VP9_SIZE_BYTES, "big")


def _av1(packet: memoryview, _: bytes | None) -> bytes | None:
    """AV1 5.3, 5.5: the sequence header, one of a packet's open bitstream units."""
    for kind, start, end in av1_units(packet):
        if kind == _AV1_SEQUENCE_HEADER:
            return bytes(packet[start:end])
    return None


def _mjpeg(packet: memoryview, _: bytes | None) -> bytes | None:
    """ITU T.81, B.2.2: the frame header, its type with it."""
    position = 2
    while packet[position] == 0xFF:
        marker = packet[position + 1]
        size = int.from_bytes(packet[position + 2 : position + 4], "big")
        if marker & 0xF0 == 0xC0 and marker not in (0xC4, 0xC8, 0xCC):
            return bytes((marker,)) + _field(packet, position + 4, position + 2 + size)
        position += 2 + size
    return None


def _mpeg4(packet: memoryview, _: bytes | None) -> bytes | None:
    """ISO/IEC 14496-2, 6.2.3: a video object layer, from its start code to the next one."""
    data = bytes(packet)
    position = data.find(b"\0\0\1")
    while position >= 0:
        end = data.find(b"\0\0\1", position + 3)
        if 0x20 <= data[position + 3] <= 0x2F:
            return data[position : end if end >= 0 else None]
        position = end
    return None


def _h264(packet: memoryview, _: bytes | None) -> bytes | None:
    """H.264, Annex B: the sequence parameter sets of a picture between start codes."""
    return b"".join(unit for unit in _units(packet) if unit[0] & 31 == 7) or None


def _hevc(packet: memoryview, _: bytes | None) -> bytes | None:
    """H.265, Annex B: the sequence parameter sets of a picture between start codes."""
    return b"".join(unit for unit in _units(packet) if unit[0] >> 1 & 63 == 33) or None


def _units(packet: memoryview) -> Iterator[bytes]:
    return filter(None, bytes(packet).split(b"\0\0\1")[1:])


def _prores(packet: memoryview, _: bytes | None) -> bytes | None:
    """SMPTE RDD 36, 5.1: a frame's width, height and chroma format."""
    return _field(packet, 16, 21)


def _dnxhd(packet: memoryview, _: bytes | None) -> bytes | None:
    """SMPTE ST 2019-1, 7: a frame's height, width and depth."""
    return _field(packet, 24, 34)


def _field(packet: memoryview, start: int, end: int) -> bytes:
    if end > len(packet):
        raise IndexError(end)
    return bytes(packet[start:end])


_READERS: dict[str, Callable[[memoryview, bytes | None], bytes | None]] = {
    "h264": _h264,
    "hevc": _hevc,
    "vp8": _vp8,
    "vp9": _vp9,
    "av1": _av1,
    "mjpeg": _mjpeg,
    "mpeg4": _mpeg4,
    "prores": _prores,
    "dnxhd": _dnxhd,
}

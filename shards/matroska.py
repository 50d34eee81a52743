"""The blocks of a Matroska file (RFC 9559), as arrays: where each packet lies and when it is shown.

Read before any demuxer sees the file, which then finds nothing that was not found here: one track
of video, its packets one to a block, as they are; and neither attachments nor chapters,
compression, links to other files, or indices that lead elsewhere than to what is there.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from roboshard.shards import ebml
from roboshard.shards.ebml import Data, Element
from roboshard.shards.mp4 import MAX_SAMPLES, IntArray, SampleTables

MAX_CODEC_PRIVATE_BYTES = 1 << 20
MAX_CODEC_ID_BYTES = 64
MAX_TICK = 1 << 40
NS_PER_S = 1_000_000_000
PRORES = "V_PRORES"
PRORES_FRAME, PRORES_HEADER_BYTES = b"icpf", 8
"""What a ProRes frame begins with, after its size, everywhere but in Matroska."""

_CONFIGURED = ("V_MPEG4/ISO/AVC", "V_MPEGH/ISO/HEVC", "V_AV1")
"""Codecs whose private data is a configuration record, as MP4 files hold it too."""
_VIDEO_TRACK = 1
_KEYFRAME, _LACING = 0x80, 0x06
_INVISIBLE = 0x08
_ALWAYS_ALLOWED = {ebml.VOID, ebml.CRC_32}
_IN_HEADER = {
    ebml.EBML_VERSION,
    ebml.EBML_READ_VERSION,
    ebml.EBML_MAX_ID_LENGTH,
    ebml.EBML_MAX_SIZE_LENGTH,
    ebml.DOC_TYPE,
    ebml.DOC_TYPE_VERSION,
    ebml.DOC_TYPE_READ_VERSION,
}
_ONCE_IN_SEGMENT = {ebml.SEEK_HEAD, ebml.INFO, ebml.TRACKS, ebml.CUES}
_IN_INFO = {ebml.TIMESTAMP_SCALE, ebml.DURATION, ebml.MUXING_APP, ebml.WRITING_APP}
_IN_TRACK = {
    ebml.TRACK_NUMBER,
    ebml.TRACK_UID,
    ebml.TRACK_TYPE,
    ebml.FLAG_LACING,
    ebml.LANGUAGE,
    ebml.DEFAULT_DURATION,
    ebml.CODEC_ID,
    ebml.CODEC_PRIVATE,
    ebml.VIDEO,
}
_IN_VIDEO = {
    ebml.PIXEL_WIDTH,
    ebml.PIXEL_HEIGHT,
    ebml.DISPLAY_WIDTH,
    ebml.DISPLAY_HEIGHT,
    ebml.DISPLAY_UNIT,
    ebml.COLOUR_SPACE,
    ebml.COLOUR,
}
_IN_COLOUR = {ebml.MATRIX_COEFFICIENTS, ebml.RANGE, ebml.TRANSFER, ebml.PRIMARIES}


@dataclass(frozen=True, kw_only=True)
class MatroskaFile:
    """A file's only track, and where its packets are."""

    codec_id: str
    """Matroska's name of the codec, `V_VP8`."""
    scale_ns: int
    """Nanoseconds per tick of the file."""
    tables: SampleTables
    """Tables of the file's blocks, in decode order. Their description is the track entry's body;
    times of decoding are not stored, and those of showing stand for them.
    """

    def packet(self, data: Data, number: int) -> bytes:
        """Return a packet as its decoder takes it."""
        start, size = int(self.tables.offsets[number]), int(self.tables.sizes[number])
        return self._head(size) + bytes(data[start : start + size])

    def packets(self, data: memoryview) -> tuple[memoryview, SampleTables]:
        """Return where packets lie as their decoder takes them, and tables with their offsets
        there.
        """
        if self.codec_id != PRORES:
            return data, self.tables
        whole = [self.packet(data, number) for number in range(len(self.tables.sizes))]
        sizes = self.tables.sizes + PRORES_HEADER_BYTES
        offsets = np.cumsum(sizes) - sizes
        return memoryview(b"".join(whole)), replace(self.tables, offsets=offsets, sizes=sizes)

    def _head(self, size: int) -> bytes:
        """Return what blocks leave out: of a ProRes frame its size and name."""
        if self.codec_id != PRORES:
            return b""
        return struct.pack(">I4s", size + PRORES_HEADER_BYTES, PRORES_FRAME)


def block_of(codec_id: str, packet: bytes) -> bytes:
    """Return what a block holds of a packet."""
    return packet[PRORES_HEADER_BYTES:] if codec_id == PRORES else packet


def read_matroska(data: Data, num_blocks: int | None = None) -> MatroskaFile:
    """Read the blocks of a file that holds one track of video and nothing else.

    Args:
        data: The whole file.
        num_blocks: How many there must be; None: any number.

    Raises:
        ValueError: It holds something else, contradicts itself, or ends too early.
    """
    try:
        return _Reader(data, num_blocks).file()
    except (IndexError, KeyError, struct.error) as error:
        raise ValueError(f"not a whole Matroska file: {error!r}") from error


def rounded_ticks(ticks: IntArray, time_base: Fraction, scale_ns: int) -> IntArray:
    """Return times in ticks of a file, of which each takes `scale_ns`, rounded to the nearest."""
    scale = time_base * NS_PER_S / scale_ns
    numerator, twice = 2 * scale.numerator, 2 * scale.denominator
    return np.array(
        [(tick * numerator + scale.denominator) // twice for tick in ticks.tolist()],
        dtype=np.int64,
    )


@dataclass
class _Blocks:
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    clusters: list[int] = field(default_factory=list)
    """Where the cluster of each block begins, from the segment's start on."""


class _Reader:
    """Reads a file in one pass."""

    def __init__(self, data: Data, num_blocks: int | None) -> None:
        self._data = data
        self._most = MAX_SAMPLES if num_blocks is None else num_blocks
        self._num_blocks = num_blocks
        self._blocks = _Blocks()
        self._track_number = 0

    def file(self) -> MatroskaFile:
        start = self._segment()
        parts: dict[int, Element] = {}
        places: set[tuple[int, int]] = set()
        for part in ebml.elements(self._data, start, len(self._data)):
            kind, begin, _, _ = part
            if kind in parts or (
                kind not in _ONCE_IN_SEGMENT and kind not in (ebml.CLUSTER, ebml.VOID)
            ):
                raise ValueError(f"element {kind:#x} is not expected in a segment")
            if kind in _ONCE_IN_SEGMENT:
                parts[kind] = part
            if kind == ebml.TRACKS:
                track = self._track(part)
            if kind == ebml.CLUSTER:
                if not self._track_number:
                    raise ValueError("a cluster before the tracks")
                self._cluster(part, begin - start)
            places.add((kind, begin - start))
        if self._num_blocks not in (None, len(self._blocks.pts)):
            raise ValueError(
                f"{len(self._blocks.pts)} frames in the slice, {self._num_blocks} in its record"
            )
        if ebml.TRACKS not in parts or ebml.INFO not in parts or not self._blocks.pts:
            raise ValueError("without tracks, segment information or blocks")
        self._check_seeks(parts.get(ebml.SEEK_HEAD), places)
        blocks = self._blocks
        self._check_cues(parts.get(ebml.CUES))
        fields = self._fields(track, _IN_TRACK)
        codec_id, scale_ns = self._text(fields[ebml.CODEC_ID]), self._scale(parts[ebml.INFO])
        pts = np.array(blocks.pts, dtype=np.int64)
        has_record = codec_id in _CONFIGURED and ebml.CODEC_PRIVATE in fields
        tables = SampleTables(
            timescale=NS_PER_S // scale_ns,
            offsets=np.array(blocks.offsets, dtype=np.int64),
            sizes=np.array(blocks.sizes, dtype=np.int64),
            dts=pts,
            pts=pts,
            is_sync=np.array(blocks.flags, dtype=np.uint8) & _KEYFRAME != 0,
            description=self._bytes(track),
            extradata=self._bytes(fields[ebml.CODEC_PRIVATE]) if has_record else b"",
            is_turned=False,
            quarter_turns=0,
        )
        return MatroskaFile(codec_id=codec_id, scale_ns=scale_ns, tables=tables)

    def _segment(self) -> int:
        """Check what comes before the segment's body, and return where that begins."""
        top = list(ebml.elements(self._data, 0, len(self._data)))
        if [kind for kind, *_ in top] != [ebml.EBML, ebml.SEGMENT]:
            raise ValueError("not one EBML header and one segment")
        fields = self._fields(top[0], _IN_HEADER)
        if ebml.DOC_TYPE not in fields or self._text(fields[ebml.DOC_TYPE]) != "matroska":
            raise ValueError("its document type is not matroska")
        for kind, most in (
            (ebml.EBML_READ_VERSION, 1),
            (ebml.EBML_MAX_ID_LENGTH, 4),
            (ebml.EBML_MAX_SIZE_LENGTH, 8),
            (ebml.DOC_TYPE_READ_VERSION, 4),
        ):
            if kind in fields and not 0 < self._unsigned(fields[kind]) <= most:
                raise ValueError(f"element {kind:#x} of its header is none that is read")
        return top[1][2]

    def _fields(self, parent: Element, allowed: set[int]) -> Mapping[int, Element]:
        """Return the children of an element, of which each may be there once."""
        fields: dict[int, Element] = {}
        for child in ebml.elements(self._data, parent[2], parent[3]):
            if child[0] in _ALWAYS_ALLOWED:
                continue
            if child[0] not in allowed or child[0] in fields:
                raise ValueError(
                    f"element {child[0]:#x} is not expected in {parent[0]:#x}, or not twice"
                )
            fields[child[0]] = child
        return fields

    def _bytes(self, part: Element) -> bytes:
        return bytes(self._data[part[2] : part[3]])

    def _text(self, part: Element) -> str:
        return self._bytes(part).rstrip(b"\0").decode("latin-1")

    def _unsigned(self, part: Element) -> int:
        return ebml.unsigned(self._data, part[2], part[3])

    def _scale(self, info: Element) -> int:
        fields = self._fields(info, _IN_INFO)
        scale = (
            self._unsigned(fields[ebml.TIMESTAMP_SCALE])
            if ebml.TIMESTAMP_SCALE in fields
            else 1_000_000
        )
        if not scale or NS_PER_S % scale:
            raise ValueError(
                f"a tick of {scale} ns, of which a second does not hold a whole number"
            )
        return scale

    def _track(self, tracks: Element) -> Element:
        """Check the only track entry, and return it."""
        entries = list(ebml.elements(self._data, tracks[2], tracks[3]))
        if [kind for kind, *_ in entries if kind not in _ALWAYS_ALLOWED] != [ebml.TRACK_ENTRY]:
            raise ValueError("not one track")
        entry = next(part for part in entries if part[0] == ebml.TRACK_ENTRY)
        fields = self._fields(entry, _IN_TRACK)
        missing = {ebml.TRACK_NUMBER, ebml.TRACK_TYPE, ebml.CODEC_ID, ebml.VIDEO} - fields.keys()
        if missing or self._unsigned(fields[ebml.TRACK_TYPE]) != _VIDEO_TRACK:
            raise ValueError("its track is not one of video")
        self._track_number = self._unsigned(fields[ebml.TRACK_NUMBER])
        if not 0 < self._track_number < 0x7F:
            raise ValueError(f"track number {self._track_number}")
        for kind, most in (
            (ebml.CODEC_ID, MAX_CODEC_ID_BYTES),
            (ebml.CODEC_PRIVATE, MAX_CODEC_PRIVATE_BYTES),
        ):
            if kind in fields and fields[kind][3] - fields[kind][2] > most:
                raise ValueError(f"element {kind:#x} has more than {most} bytes")
        picture = self._fields(fields[ebml.VIDEO], _IN_VIDEO)
        if ebml.COLOUR in picture:
            self._fields(picture[ebml.COLOUR], _IN_COLOUR)
        return entry

    def _cluster(self, cluster: Element, place: int) -> None:
        data, blocks, base = self._data, self._blocks, -1
        for kind, _, body, end in ebml.elements(data, cluster[2], cluster[3]):
            if kind == ebml.TIMESTAMP and base < 0:
                base = ebml.unsigned(data, body, end)
                if base > MAX_TICK:
                    raise ValueError(f"a cluster at tick {base}")
            elif kind == ebml.SIMPLE_BLOCK and base >= 0:
                number, relative, flags = struct.unpack_from(">BhB", data, body)
                if number != 0x80 | self._track_number or flags & (_LACING | _INVISIBLE):
                    raise ValueError("a block of another track, of several packets, or not shown")
                if end <= body + 4 or base + relative < 0:
                    raise ValueError("a block without a packet, or before the file's start")
                blocks.offsets.append(body + 4)
                blocks.sizes.append(end - body - 4)
                blocks.pts.append(base + relative)
                blocks.flags.append(flags)
                blocks.clusters.append(place)
                if len(blocks.pts) > self._most:
                    raise ValueError(f"more than {self._most} blocks")
            else:
                raise ValueError(f"element {kind:#x} is not expected in a cluster, or not there")

    def _check_seeks(self, seek_head: Element | None, places: set[tuple[int, int]]) -> None:
        """Check that each entry leads to an element of its kind: demuxers read what lies there."""
        if seek_head is None:
            return
        for kind, _, body, end in ebml.elements(self._data, seek_head[2], seek_head[3]):
            if kind in _ALWAYS_ALLOWED:
                continue
            fields = self._fields((kind, body, body, end), {ebml.SEEK_ID, ebml.SEEK_POSITION})
            if kind != ebml.SEEK or len(fields) != 2:
                raise ValueError("its seek head has other entries than those of places")
            place = (
                self._unsigned(fields[ebml.SEEK_ID]),
                self._unsigned(fields[ebml.SEEK_POSITION]),
            )
            if place not in places:
                raise ValueError("its seek head leads elsewhere than it says")

    def _check_cues(self, cues: Element | None) -> None:
        """Check that each cue leads to the cluster of a keyframe of its time."""
        if cues is None:
            return
        blocks = self._blocks
        keyframes = {
            (pts, cluster)
            for pts, flags, cluster in zip(blocks.pts, blocks.flags, blocks.clusters, strict=True)
            if flags & _KEYFRAME
        }
        for cue in ebml.elements(self._data, cues[2], cues[3]):
            if cue[0] in _ALWAYS_ALLOWED:
                continue
            fields = self._fields(cue, {ebml.CUE_TIME, ebml.CUE_TRACK_POSITIONS})
            if cue[0] != ebml.CUE_POINT or len(fields) != 2:
                raise ValueError("its cues are not those of one track")
            places = self._fields(
                fields[ebml.CUE_TRACK_POSITIONS], {ebml.CUE_TRACK, ebml.CUE_CLUSTER_POSITION}
            )
            found = (
                self._unsigned(fields[ebml.CUE_TIME]),
                self._unsigned(places[ebml.CUE_CLUSTER_POSITION]),
            )
            if self._unsigned(places[ebml.CUE_TRACK]) != self._track_number:
                raise ValueError("its cues are of another track")
            if found not in keyframes:
                raise ValueError("its cues lead elsewhere than to its keyframes")

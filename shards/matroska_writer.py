"""Writing Matroska files (RFC 9559) of one track of video: packets as they are, one to a block.

The same packets give the same bytes: no date, no random number, no library's version is written.
"""

from typing import IO

from roboshard.shards import ebml

TRACK_NUMBER = 1
APP = b"roboshard"
MAX_CLUSTER_BYTES = 1 << 22
MILLISECOND_NS = 1_000_000
FINE_NS = 10_000
"""Nanoseconds per tick where times are not whole milliseconds: off by 5 µs at most, and a cluster's
blocks may still be 0.3 s apart.
"""

_FIRST, _LAST = -(1 << 15), (1 << 15) - 1
_KEYFRAME = 0x80
_DOC_VERSION, _DOC_READ_VERSION = 4, 2


class MatroskaWriter:
    """Writes one file, packet by packet, to an open file that can seek.

    Call `finish` at the end.
    """

    def __init__(self, file: IO[bytes], track: bytes, *, scale_ns: int, frame_ns: int = 0) -> None:
        """Begin the file.

        Args:
            file: open for writing, empty.
            track: the track entry's body, as `track_entry` makes it.
            scale_ns: nanoseconds per tick.
            frame_ns: for how long the last frame is shown, which counts in the file's duration.
        """
        self._file = file
        self._scale_ns = scale_ns
        self._last_ticks = frame_ns / scale_ns
        self._cluster: list[bytes | memoryview] = []
        self._cluster_bytes = 0
        self._cluster_tick = 0
        self._cues: list[bytes] = []
        self._pending_cues: list[int] = []
        self._last_tick = 0
        self._write(_EBML_HEADER)
        self._size_at = file.tell() + 4
        self._write(ebml.long_header(ebml.SEGMENT, 0))
        self._start = file.tell()
        self._write(self._seek_head(0, 0, 0))
        self._info_at = file.tell()
        self._write(self._info(0.0))
        self._tracks_at = file.tell()
        self._write(ebml.element(ebml.TRACKS, ebml.element(ebml.TRACK_ENTRY, track)))

    def add(self, payload: bytes | memoryview, tick: int, *, is_keyframe: bool) -> None:
        """Add a packet that is shown at `tick`; packets come in the order in which they are
        decoded.
        """
        relative = tick - self._cluster_tick
        is_full = self._cluster_bytes + len(payload) > MAX_CLUSTER_BYTES
        if not self._cluster or is_keyframe or is_full or not _FIRST <= relative <= _LAST:
            self._end_cluster()
            self._cluster_tick = tick
            relative = 0
        flags = _KEYFRAME if is_keyframe else 0
        head = bytes([0x80 | TRACK_NUMBER]) + relative.to_bytes(2, "big", signed=True)
        head += bytes([flags])
        block = [ebml.header(ebml.SIMPLE_BLOCK, len(head) + len(payload)) + head, payload]
        self._cluster += block
        self._cluster_bytes += sum(map(len, block))
        if is_keyframe:
            self._pending_cues.append(tick)
        self._last_tick = max(self._last_tick, tick)

    def finish(self) -> None:
        """Write what is known only at the end."""
        self._end_cluster()
        cues_at = self._file.tell()
        self._write(ebml.element(ebml.CUES, *self._cues))
        end = self._file.tell()
        self._file.seek(self._size_at)
        self._write(ebml.long_header(ebml.SEGMENT, end - self._start)[4:])
        places = (at - self._start for at in (self._info_at, self._tracks_at, cues_at))
        self._write(self._seek_head(*places))
        self._write(self._info(self._last_tick + self._last_ticks))
        self._file.seek(end)

    def _end_cluster(self) -> None:
        if not self._cluster:
            return
        place = self._file.tell() - self._start
        timestamp = ebml.integer(ebml.TIMESTAMP, self._cluster_tick)
        self._write(ebml.header(ebml.CLUSTER, len(timestamp) + self._cluster_bytes))
        self._write(timestamp)
        for part in self._cluster:
            self._write(part)
        self._cues += [_cue(tick, place) for tick in self._pending_cues]
        self._cluster, self._cluster_bytes, self._pending_cues = [], 0, []

    def _seek_head(self, *places: int) -> bytes:
        """Return where information, tracks and cues are; of the same length wherever they are."""
        entries = [
            ebml.element(
                ebml.SEEK,
                ebml.element(ebml.SEEK_ID, ebml.identifier(kind)),
                ebml.element(ebml.SEEK_POSITION, place.to_bytes(8, "big")),
            )
            for kind, place in zip((ebml.INFO, ebml.TRACKS, ebml.CUES), places, strict=True)
        ]
        return ebml.element(ebml.SEEK_HEAD, *entries)

    def _info(self, duration: float) -> bytes:
        return ebml.element(
            ebml.INFO,
            ebml.integer(ebml.TIMESTAMP_SCALE, self._scale_ns),
            ebml.real(ebml.DURATION, duration),
            ebml.element(ebml.MUXING_APP, APP),
            ebml.element(ebml.WRITING_APP, APP),
        )

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)


def _cue(tick: int, place: int) -> bytes:
    positions = ebml.element(
        ebml.CUE_TRACK_POSITIONS,
        ebml.integer(ebml.CUE_TRACK, TRACK_NUMBER),
        ebml.integer(ebml.CUE_CLUSTER_POSITION, place),
    )
    return ebml.element(ebml.CUE_POINT, ebml.integer(ebml.CUE_TIME, tick), positions)


_EBML_HEADER = ebml.element(
    ebml.EBML,
    ebml.integer(ebml.EBML_VERSION, 1),
    ebml.integer(ebml.EBML_READ_VERSION, 1),
    ebml.integer(ebml.EBML_MAX_ID_LENGTH, 4),
    ebml.integer(ebml.EBML_MAX_SIZE_LENGTH, 8),
    ebml.element(ebml.DOC_TYPE, b"matroska"),
    ebml.integer(ebml.DOC_TYPE_VERSION, _DOC_VERSION),
    ebml.integer(ebml.DOC_TYPE_READ_VERSION, _DOC_READ_VERSION),
)

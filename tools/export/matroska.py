"""Matroska files that hold the slices of many episodes which MP4 cannot hold, block after block.

Blocks are copied as they lie in the slices. A finished file is read again and compared with what
was put into it.
"""

import mmap
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np
from crc32c import crc32c

from roboshard.common.errors import SourceError
from roboshard.shards.matroska import NS_PER_S, read_matroska, rounded_ticks
from roboshard.shards.matroska_track import with_frame_duration
from roboshard.shards.matroska_writer import FINE_NS, MILLISECOND_NS, MatroskaWriter
from roboshard.shards.schema import CameraRecord
from roboshard.tools.export.timing import IntArray


@dataclass(frozen=True, kw_only=True)
class CodedBlocks:
    """The blocks of a slice in decode order; times in ticks of its record."""

    time_base: Fraction
    pts: IntArray
    is_keyframe: IntArray
    blocks: list[memoryview]
    track: bytes
    """The track entry, without the duration of a frame."""
    extradata: bytes

    delay: ClassVar[int] = 0
    """Ticks by which decoding must be ahead of showing, which these files do not say."""

    @property
    def shown(self) -> IntArray:
        """When frames are shown, in ticks, ascending."""
        return np.sort(self.pts)

    def shown_at(self, times: IntArray) -> "CodedBlocks":
        """Return the blocks with their frames, in the order in which they are shown, at these
        times.
        """
        pts = np.empty_like(self.pts)
        pts[np.argsort(self.pts)] = times
        return replace(self, pts=pts)

    @property
    def configuration(self) -> tuple[object, ...]:
        """What a file has once for all its blocks: the time base and the track entry."""
        return self.time_base, self.track


def coded_blocks(data: memoryview, camera: CameraRecord) -> CodedBlocks:
    """Read the blocks of a slice. Raises ValueError for one that is not as the format has it."""
    file = read_matroska(data, camera.num_frames)
    tables = file.tables
    pts = np.empty_like(tables.pts)
    pts[tables.as_shown] = camera.ticks()
    ends = (tables.offsets + tables.sizes).tolist()
    return CodedBlocks(
        time_base=Fraction(*camera.time_base),
        pts=pts,
        is_keyframe=tables.is_sync.astype(np.int64),
        blocks=[data[start:end] for start, end in zip(tables.offsets.tolist(), ends, strict=True)],
        track=with_frame_duration(tables.description, 0),
        extradata=tables.extradata,
    )


class MatroskaVideoFile:
    """One Matroska file while it is written."""

    delay = 0
    """Ticks by which decoding is ahead of showing: 0, as times of decoding are not stored."""

    def __init__(self, path: Path, coded: CodedBlocks, period: float) -> None:
        """Begin the file for slices like this one, whose frames follow in `period` of its ticks."""
        self.path = path
        self.period = period
        self.num_bytes = 0
        self.configuration = coded.configuration
        self._time_base = coded.time_base
        self._scale_ns = _scale_of(coded.time_base)
        self._frames = self._crc = 0
        self._facts: list[IntArray] = []
        self._file = path.open("xb")
        frame_ns = round(period * coded.time_base * NS_PER_S)
        track = with_frame_duration(coded.track, frame_ns)
        self._writer = MatroskaWriter(self._file, track, scale_ns=self._scale_ns, frame_ns=frame_ns)

    def shift_of(self, coded: CodedBlocks) -> int:
        """Ticks to add to a slice's times if it is appended: frames follow evenly, counted from the
        file's first.
        """
        return round(self._frames * self.period) - int(coded.pts.min())

    def append(self, coded: CodedBlocks, num_bytes: int) -> None:
        """Copy all blocks of a slice, a file of so many bytes."""
        self.num_bytes += num_bytes
        shifted = coded.pts + self.shift_of(coded)
        ticks = rounded_ticks(shifted, self._time_base, self._scale_ns)
        sizes = [len(block) for block in coded.blocks]
        self._facts.append(np.stack([ticks, coded.is_keyframe, sizes]))
        for block, tick, is_keyframe in zip(
            coded.blocks, ticks.tolist(), coded.is_keyframe.tolist(), strict=True
        ):
            self._crc = crc32c(block, self._crc)
            self._writer.add(block, tick, is_keyframe=bool(is_keyframe))
        self._frames += len(ticks)

    def finish(self) -> None:
        """Close the file and read it back. Raises SourceError unless it holds what was copied."""
        self._writer.finish()
        self._file.close()
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            try:
                tables = read_matroska(data).tables
            except ValueError as error:
                raise SourceError(f"the file does not read back: {error}") from error
            crc = 0
            for start, end in zip(tables.offsets.tolist(), tables.ends.tolist(), strict=True):
                crc = crc32c(data[start:end], crc)
        found = np.stack([tables.pts, tables.is_sync, tables.sizes])
        if crc != self._crc or not np.array_equal(found, np.concatenate(self._facts, axis=1)):
            raise SourceError(
                "the packets copied into one file do not read back as they are in the shards"
            )

    def abandon(self) -> None:
        """Close the file unfinished, after an error."""
        self._file.close()


def _scale_of(time_base: Fraction) -> int:
    """Return nanoseconds per tick of a file: milliseconds where all times are whole ones."""
    is_whole = (time_base * NS_PER_S / MILLISECOND_NS).denominator == 1
    return MILLISECOND_NS if is_whole else FINE_NS

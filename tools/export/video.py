"""Video files that hold the slices of many episodes, packet after packet: nothing is decoded,
nothing re-encoded.

Slices in MP4 go into MP4 files, those in Matroska into Matroska files (matroska.py). A file that is
finished is read again and compared with what was put into it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from av.container import Flags
from crc32c import crc32c

from roboshard.common.errors import FormatError, SourceError
from roboshard.shards.nal_units import length_size_of, type_of, units_of
from roboshard.shards.names import is_matroska
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import CODEC_PARAMETERS, open_slice
from roboshard.tools.export.layout import VIDEO_PATH, FilePlace, Limits
from roboshard.tools.export.matroska import MatroskaVideoFile, coded_blocks
from roboshard.tools.export.timing import (
    MAX_UNEVEN,
    FloatArray,
    IntArray,
    Span,
    evenly_spaced,
    is_even,
    period_of,
    seconds,
    span_of,
    start_of,
)

_INTRA = {"cfhd", "dnxhd", "dvvideo", "ffvhuff", "huffyuv", "jpeg2000", "magicyuv", "prores"}
_INTRA |= {"mjpeg", "png", "rawvideo", "utvideo", "v210"}
_INDEPENDENT = {"h264", "av1", "vp8", "vp9", "mpeg4", "ffv1"} | _INTRA
"""Codecs of which a slice's first picture ends all that was before it; see format.md on H.264."""


@dataclass(frozen=True, kw_only=True)
class Coded:
    """The packets of a slice or file in decode order; times in ticks."""

    time_base: Fraction
    pts: IntArray
    dts: IntArray
    is_keyframe: IntArray
    packets: "list[av.Packet[Any]]"

    @classmethod
    def read(cls, container: Any) -> Self:
        """Read all packets of the file's first video stream."""
        no_parse: Any = Flags.no_parse  # the tables say all that is needed
        container.flags |= no_parse.value
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        facts = [
            (packet.pts, packet.dts, packet.is_keyframe)
            for packet in packets
            if not packet.is_discard
        ]
        if len(facts) != len(packets) or not packets or any(None in fact for fact in facts):
            raise SourceError("its video has no packets, or hidden ones, or such without a time")
        pts, dts, is_keyframe = np.array(facts, dtype=np.int64).T
        time_base = Fraction(stream.time_base or 1)
        return cls(time_base=time_base, pts=pts, dts=dts, is_keyframe=is_keyframe, packets=packets)

    @property
    def shown(self) -> IntArray:
        """When frames are shown, in ticks, ascending. Raises SourceError for two at one time."""
        times = np.sort(self.pts)
        if np.any(np.diff(times) == 0):
            raise SourceError(
                "two of its frames are shown at the same time, of which one must be hidden"
            )
        return times

    @property
    def delay(self) -> int:
        """Ticks by which decoding must be ahead of showing: the decoder's reordering delay."""
        return max(int(self.pts[0] - self.dts[0]), int(np.max(np.sort(self.pts) - self.pts)))

    def shown_at(self, times: IntArray) -> Self:
        """Return the packets with their frames, in the order in which they are shown, at these
        times.
        """
        pts = np.empty_like(self.pts)
        pts[np.argsort(self.pts)] = times
        return replace(self, pts=pts)


class Mp4VideoFile:
    """One MP4 file while it is written."""

    def __init__(self, path: Path, template: Any, period: float, delay: int) -> None:
        """Begin the file, with the codec parameters of the stream `template`; `period` and `delay`
        in its ticks.
        """
        self.path = path
        self.period = period
        self.delay = delay
        self.num_bytes = 0
        self.configuration = configuration_of(template)
        self._frames = 0
        self._facts: list[IntArray] = []
        self._crc = 0
        self._time_base = Fraction(template.time_base)
        options = {"fflags": "+bitexact", "movflags": "faststart"}
        self._output = av.open(str(path), "w", format="mp4", options=options)
        # opaque: copy codec parameters as they are; a decoder's name (libdav1d) is not a codec to
        # mux.
        self._stream = self._output.add_stream_from_template(template, opaque=True)
        self._stream.time_base = self._time_base

    def shift_of(self, coded: Coded) -> int:
        """Ticks to add to a slice's times if it is appended: frames follow evenly, counted from the
        file's first.
        """
        return round(self._frames * self.period) - int(coded.pts.min())

    def append(self, coded: Coded, num_bytes: int) -> None:
        """Copy all packets of a slice, a file of so many bytes."""
        self.num_bytes += num_bytes
        shift, duration = self.shift_of(coded), max(1, round(self.period))
        pts = coded.pts + shift
        dts = (
            np.sort(pts) - self.delay
        )  # as even as frames are, which the mean frame rate is computed from
        self._facts.append(
            np.stack([pts, dts, coded.is_keyframe, [packet.size for packet in coded.packets]])
        )
        for packet, at, decoded_at in zip(coded.packets, pts.tolist(), dts.tolist(), strict=True):
            self._crc = crc32c(packet, self._crc)
            packet.pts, packet.dts, packet.duration, packet.stream = (
                at,
                decoded_at,
                duration,
                self._stream,
            )
            self._output.mux(packet)
        self._frames += len(coded.pts)

    def finish(self) -> None:
        """Close the file and read it back. Raises SourceError unless it holds what was copied."""
        self._output.close()
        with av.open(str(self.path)) as container:
            same_parameters = configuration_of(container.streams.video[0]) == self.configuration
            coded = Coded.read(container)
        crc = 0
        for packet in coded.packets:
            crc = crc32c(packet, crc)
        sizes = [packet.size for packet in coded.packets]
        found = np.stack([coded.pts, coded.dts, coded.is_keyframe, sizes])
        same = coded.time_base == self._time_base and np.array_equal(
            found, np.concatenate(self._facts, axis=1)
        )
        if not (same_parameters and same and crc == self._crc):
            raise SourceError(
                "the packets copied into one file do not read back as they are in the shards"
            )

    def abandon(self) -> None:
        """Close the file unfinished, after an error."""
        self._output.close()


class VideoFiles:
    """The video files of one camera, which are written one after the other."""

    def __init__(self, root: Path, key: str, fps: float, limits: Limits) -> None:
        """Write the files of camera `key` of the dataset at `root`."""
        self._root = root
        self._key = key
        self._fps = fps
        self._limits = limits
        self._number = -1
        self._file: Mp4VideoFile | MatroskaVideoFile | None = None
        self._may_share = False
        self.has_matroska = False
        """Whether one of the files is a Matroska file."""

    def add(
        self, data: memoryview, camera: CameraRecord, timestamps: FloatArray
    ) -> tuple[FilePlace, Span]:
        """Copy an episode's slice to the end of a file: (which one, when its rows are shown there).

        Raises:
            SourceError: it cannot be put back so that LeRobot shows the right frame for each row.
        """
        try:
            if is_matroska(camera.member):
                return self._add(self._matroska(data, camera), camera, timestamps)
            with open_slice(data, camera) as container:
                return self._add(self._mp4(data, container), camera, timestamps)
        except av.FFmpegError as error:
            raise SourceError(f"cannot be demuxed or copied: {error.strerror}") from error
        except FormatError as error:
            raise SourceError(str(error)) from error

    def close(self) -> None:
        """Finish the file that is being written."""
        if self._file is not None:
            finished, self._file = self._file, None
            finished.finish()

    def abandon(self) -> None:
        """Close what is open, after an error."""
        if self._file is not None:
            self._file.abandon()

    @property
    def count(self) -> int:
        """How many files were begun."""
        return self._number + 1

    def _mp4(self, data: memoryview, container: Any) -> "_Slice":
        stream, coded = container.streams.video[0], Coded.read(container)
        context = stream.codec_context
        return _Slice(
            coded=coded,
            num_bytes=len(data),
            configuration=configuration_of(stream),
            stands_alone=_stands_alone(
                context.codec.canonical_name, coded.packets[0], bytes(context.extradata or b"")
            ),
            begin=lambda path, period, delay: Mp4VideoFile(path, stream, period, delay),
        )

    def _matroska(self, data: memoryview, camera: CameraRecord) -> "_Slice":
        coded = coded_blocks(data, camera)
        self.has_matroska = True
        return _Slice(
            coded=coded,
            num_bytes=len(data),
            configuration=coded.configuration,
            stands_alone=_stands_alone(camera.codec, coded.blocks[0], coded.extradata),
            begin=lambda path, period, _: MatroskaVideoFile(path, coded, period),
        )

    def _add(
        self, found: "_Slice", camera: CameraRecord, timestamps: FloatArray
    ) -> tuple[FilePlace, Span]:
        coded = found.coded
        frames, shown = camera.frames(), coded.shown
        if len(shown) != camera.num_frames:
            raise SourceError(
                f"its slice holds {len(shown)} frames where the record says {camera.num_frames}"
            )
        tick = float(coded.time_base)
        first, last = int(frames.min()), int(frames.max())
        period = period_of(shown[first : last + 1], 1 / self._fps / tick)
        shown = evenly_spaced(shown, first, last, period)
        found = replace(found, coded=coded.shown_at(shown))
        _, distance = start_of(seconds(shown, tick), frames, timestamps, self._fps)
        is_regular = is_even(shown, period) and distance <= MAX_UNEVEN * period * tick
        if self._file is None or not (is_regular and self._takes(self._file, found)):
            self.close()
            self._number += 1
            path = self._limits.place(self._number).path(
                self._root, VIDEO_PATH, video_key=self._key
            )
            self._file = found.begin(path, period, found.coded.delay)
            self._may_share = is_regular
        file = self._file
        times = seconds(shown + file.shift_of(found.coded), tick)
        span = span_of(times, frames, timestamps, self._fps)
        file.append(found.coded, found.num_bytes)
        return self._limits.place(self._number), span

    def _takes(self, file: "Mp4VideoFile | MatroskaVideoFile", found: "_Slice") -> bool:
        return (
            self._may_share
            and found.stands_alone
            and file.configuration == found.configuration
            and is_even(np.sort(found.coded.pts), file.period)
            and found.coded.delay <= file.delay
            and file.num_bytes + found.num_bytes <= self._limits.video_bytes
        )


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """A slice that goes into a file."""

    coded: Any
    """The slice as `Coded` or `CodedBlocks`, whichever a file takes that `begin` makes."""
    num_bytes: int
    configuration: tuple[object, ...]
    stands_alone: bool
    """Whether its first picture starts a sequence of its own, wherever it lies in a file."""
    begin: "Callable[[Path, float, int], Mp4VideoFile | MatroskaVideoFile]"
    """Make a new file for the slice, from a path, ticks from frame to frame, and the decoder's
    delay.
    """


def configuration_of(stream: Any) -> tuple[Any, ...]:
    """Return what a file has once for all its packets: the time base and the codec's parameters."""
    context = stream.codec_context
    return (
        Fraction(stream.time_base or 1),
        *(getattr(context, name) for name in ("name", *CODEC_PARAMETERS)),
    )


def _stands_alone(codec: str, first: Any, extradata: bytes) -> bool:
    """Whether a slice's first picture starts a sequence of its own, wherever it lies in a file."""
    return is_hevc_idr(memoryview(first), extradata) if codec == "hevc" else codec in _INDEPENDENT


def is_hevc_idr(data: memoryview, extradata: bytes) -> bool:
    """Whether a packet begins a coded video sequence in the midst of a stream.

    After a CRA picture that is not a stream's first, pictures are numbered on from those before it,
    with which they would be confused (H.265 8.1.3, 8.3.1; ISO/IEC 14496-15 8.3.3.1 for the length
    of a NAL unit's size).
    """
    length_size = length_size_of("hevc", extradata)
    if length_size is None or len(extradata) < 23:
        return False
    kinds = (type_of("hevc", unit) for unit in units_of(data, length_size))
    return next((kind for kind in kinds if 0 <= kind < 32), -1) in (19, 20)  # of its first picture

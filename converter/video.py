"""Cutting one episode out of a video file by copying packets: no frame is decoded, none is re-encoded.

The slice starts at the last keyframe at or before the episode's first frame from which decoding is exact, and
ends with the last packet, in decode order, that shows a frame of the episode. It is opened again, and its sample
tables and payload are compared with the packets of the source, before it is used.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import Flags
from numpy.typing import NDArray

from roboshard.converter.alignment import RowTimes, match_frames, pts_runs, row_runs
from roboshard.converter.keyframes import (
    has_av1_frame_types,
    is_av1_keyframe,
    is_h264_random_access,
)
from roboshard.shards.errors import MissingError, SourceError
from roboshard.shards.mp4 import read_sample_tables
from roboshard.shards.schema import CameraRecord

_PARAMETERS = (
    "name",
    "width",
    "height",
    "pix_fmt",
    "profile",
    "color_range",
    "color_primaries",
    "color_trc",
    "colorspace",
    "sample_aspect_ratio",
    "extradata",
)


IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Packets:
    """Coded pictures in decode order, times in ticks of their stream's time base; each of shape (num_packets,)."""

    pts: IntArray
    dts: IntArray
    is_keyframe: BoolArray
    """Flagged so in the file, and safe: decoding can start here."""
    is_hidden: BoolArray
    """An edit list hides it: it is decoded and not shown."""
    is_foreign: BoolArray
    """Coded with other parameters (extradata) than the file begins with, which a slice would not carry."""
    coded: "list[av.Packet[Any]]"
    """As demuxed. Their times change when they are muxed; their payload, which is never copied, does not."""

    def __len__(self) -> int:
        return len(self.coded)

    def take(self, positions: IntArray) -> "Packets":
        """Some of them."""
        return Packets(
            pts=self.pts[positions],
            dts=self.dts[positions],
            is_keyframe=self.is_keyframe[positions],
            is_hidden=self.is_hidden[positions],
            is_foreign=self.is_foreign[positions],
            coded=[self.coded[i] for i in positions.tolist()],
        )


@dataclass(frozen=True, kw_only=True)
class VideoSlice:
    """An MP4 file and what the episode record says of it."""

    data: bytes
    camera: CameraRecord


class VideoFile:
    """A source video, opened for cutting. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises MissingError, or SourceError when it is no video."""
        if not path.is_file():
            raise MissingError("no such file")
        try:
            self._container = av.open(
                str(path), metadata_errors="replace"
            )  # a title in Latin-1 is no reason to fail
            self._stream = self._container.streams.video[0]
            first = next(
                (packet for packet in self._container.demux(self._stream) if packet.size), None
            )
        except (
            av.FFmpegError,
            IndexError,
        ) as error:  # without the file's name, which may be a temporary one
            what = error.strerror if isinstance(error, av.FFmpegError) else error
            raise SourceError(f"no readable video stream: {what}") from error
        context: Any = self._stream.codec_context
        if context is None:
            raise SourceError("its video codec is not known to FFmpeg")
        self._time_base = Fraction(self._stream.time_base or 0)
        if not self._time_base or first is None or first.dts is None:
            raise SourceError("the video stream has no timed packet")
        self._first_dts = first.dts
        self._codec = str(context.codec.canonical_name)
        self._extradata = self._in_force = bytes(context.extradata or b"")
        self._reads_frame_types = self._codec == "av1" and has_av1_frame_types(self._extradata)
        if (
            self._reads_frame_types
        ):  # FFmpeg's parser takes as long as all the rest of demuxing; it only tells these
            no_parse: Any = Flags.no_parse
            self._container.flags |= no_parse.value

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def cut(self, rows: RowTimes, *, key: str, member: str) -> VideoSlice:
        """The slice that shows these rows, as member `member` of the camera `key`.

        Raises:
            SourceError: a row without a frame within tolerance, or packets that cannot be copied exactly.
        """
        try:
            packets, shown = self.select(rows)
            data = self._mux(packets)
            return VideoSlice(data=data, camera=self._describe(data, packets, shown, key, member))
        except av.FFmpegError as error:
            raise SourceError(f"cannot be demuxed or copied: {error.strerror}") from error

    @property
    def stream(self) -> Any:
        """The video stream as demuxed."""
        return self._stream

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick."""
        return self._time_base

    def select(self, rows: RowTimes) -> tuple[Packets, IntArray]:
        """(packets of the slice in decode order, pts shown for each row). Raises SourceError as `cut` does."""
        margin = max(rows.tolerance_s, 1 / rows.fps)
        first = self._ticks(float(rows.in_file[0]) - margin)
        last = self._ticks(float(rows.in_file[-1]) + margin) + 1
        seek_to, back = first, 1
        while True:
            window = self._read_window(seek_to, last)
            if not len(window):
                raise SourceError(f"no frame near {rows.from_s:.6f} s")
            at_start = int(window.dts[0]) <= self._first_dts
            if at_start or (window.is_keyframe[0] and window.pts[0] <= first):
                shown = self._shown(window, rows)
                start = self._exact_start(window, int(shown[0]))
                if start is not None:
                    return self._trim(window, start, shown), shown
            if at_start:
                raise SourceError(
                    "no keyframe before the episode from which its frames decode exactly"
                )
            seek_to, back = (
                min(seek_to, int(window.dts[0])) - back,
                back * 2,
            )  # doubled: what is read again stays little

    def _read_window(self, seek_to: int, last: int) -> Packets:
        """Packets in decode order from the keyframe before `seek_to` until none can show a frame up to `last`."""
        self._container.seek(seek_to, stream=self._stream, backward=True, any_frame=False)
        coded: list[av.Packet[Any]] = []
        facts: list[tuple[int, int, bool, bool, bool]] = []
        for packet in self._container.demux(self._stream):
            if packet.size == 0:
                continue  # the demuxer's flush marker
            pts, dts = packet.pts, packet.dts
            if pts is None or dts is None:
                raise SourceError("a packet has no timestamp")
            if dts > last:  # pts is never before dts
                break
            is_keyframe = packet.is_keyframe
            if self._reads_frame_types:
                is_keyframe = is_av1_keyframe(memoryview(packet), is_keyframe)
            # another sample description from here on, till the next change
            if is_keyframe and packet.has_sidedata("new_extradata"):
                self._in_force = bytes(packet.get_sidedata("new_extradata"))
            if is_keyframe and self._codec == "h264":
                is_keyframe = is_h264_random_access(memoryview(packet), self._extradata)
            facts.append(
                (pts, dts, is_keyframe, packet.is_discard, self._in_force != self._extradata)
            )
            coded.append(packet)
        columns = np.array(facts, dtype=np.int64).reshape(-1, 5).T
        return Packets(
            pts=columns[0],
            dts=columns[1],
            is_keyframe=columns[2] != 0,
            is_hidden=columns[3] != 0,
            is_foreign=columns[4] != 0,
            coded=coded,
        )

    def _shown(self, window: Packets, rows: RowTimes) -> IntArray:
        """pts of the frame shown for each row."""
        pts = np.sort(window.pts[~window.is_hidden])
        if np.any(np.diff(pts) == 0):
            raise SourceError("two frames have the same presentation time")
        seconds = np.asarray(pts * float(self._time_base), dtype=np.float64)
        return pts[match_frames(seconds, rows)]

    def _exact_start(self, window: Packets, first_shown: int) -> int | None:
        """Position of the last packet from which every frame from `first_shown` on decodes exactly."""
        possible = window.is_keyframe & (window.pts <= first_shown)
        if not self._can_drop_leading:
            possible &= _lowest_later(window.pts) >= window.pts
        starts = np.flatnonzero(possible)
        return int(starts[-1]) if starts.size else None

    @property
    def _can_drop_leading(self) -> bool:
        # H.265 3.1 "leading picture", 8.1.3: pictures that follow an IRAP picture in decoding order but precede
        # it in output are not referenced by those that follow it in output, so that they can be left out.
        return self._codec == "hevc"

    def _trim(self, window: Packets, start: int, shown: IntArray) -> Packets:
        """From `start` to the last packet needed; without pictures that lead the first one."""
        end = int(np.flatnonzero(np.isin(window.pts, shown))[-1])
        packets = window.take(
            start + np.flatnonzero(window.pts[start : end + 1] >= window.pts[start])
        )
        if packets.is_foreign.any():
            raise SourceError(
                "its decoder configuration changes within the file; encode the file again in one piece"
            )
        return packets

    def _mux(self, packets: Packets) -> bytes:
        buffer = io.BytesIO()
        start = packets.dts[0]
        # Without an edit list: readers disagree on what one hides. Times then start at the decoder's delay.
        options = {"fflags": "+bitexact", "use_editlist": "0"}
        with av.open(buffer, "w", format="mp4", options=options) as output:
            # opaque: copy codec parameters as they are; a decoder's name (libdav1d) is not a codec to mux.
            try:
                stream = output.add_stream_from_template(self._stream, opaque=True)
            except ValueError as error:
                raise SourceError(f"an MP4 slice cannot hold its codec: {error}") from error
            stream.time_base = self._time_base
            duration = int(np.diff(np.sort(packets.pts)).min()) if len(packets) > 1 else 1
            columns = (
                packets.pts - start,
                packets.dts - start,
                packets.is_keyframe,
                packets.is_hidden,
            )
            for coded, pts, dts, key, hidden in zip(
                packets.coded, *(c.tolist() for c in columns), strict=True
            ):
                packet = self._without_flags(coded) if hidden else coded
                packet.pts, packet.dts = pts, dts
                packet.duration = duration
                packet.is_keyframe = key
                packet.stream = stream
                output.mux(packet)
        return buffer.getvalue()

    def _without_flags(self, coded: "av.Packet[Any]") -> "av.Packet[Any]":
        packet: av.Packet[Any] = av.Packet(bytes(coded))
        packet.time_base = self._time_base
        return packet

    def _describe(
        self, data: bytes, packets: Packets, shown: IntArray, key: str, member: str
    ) -> CameraRecord:
        """Read the slice back, compare it with what was copied, and describe what it holds."""
        time_base = self._read_time_base(data)
        scale = self._time_base / time_base
        if scale.denominator != 1:
            raise SourceError(f"an MP4 slice cannot hold its time base of {self._time_base} s")
        start, factor = packets.dts[0], scale.numerator
        _check_copied(data, packets, time_base, factor)
        ticks = (packets.pts - start) * factor
        in_order = np.sort(ticks)
        frames = _positions(in_order, (shown - start) * factor)
        context = self._stream.codec_context
        return CameraRecord(
            key=key,
            member=member,
            codec=self._codec,
            width=context.width,
            height=context.height,
            pix_fmt=context.pix_fmt or "unknown",
            num_frames=len(ticks),
            skip_frames=frames[0],
            keyframes=_safe_keyframes(ticks, packets.is_keyframe, in_order),
            time_base=(time_base.numerator, time_base.denominator),
            pts=pts_runs(in_order.tolist()),
            rows=row_runs(frames),
        )

    def _read_time_base(self, data: bytes) -> Fraction:
        """A slice's time base, as FFmpeg sees it, which must see the codec parameters of the source too."""
        with av.open(io.BytesIO(data), "r") as copy:
            stream = copy.streams.video[0]
            self._check_parameters(stream)
            return Fraction(stream.time_base or 1)

    def _check_parameters(self, stream: Any) -> None:
        source, copy = self._stream.codec_context, stream.codec_context
        for name in _PARAMETERS:
            if getattr(source, name) != getattr(copy, name):
                raise SourceError(
                    f"its {name} {getattr(source, name)!r} would become {getattr(copy, name)!r} in an MP4 slice"
                )

    def _ticks(self, seconds: float) -> int:
        return int(seconds / float(self._time_base) // 1)


def _check_copied(data: bytes, packets: Packets, time_base: Fraction, factor: int) -> None:
    """The slice holds exactly these packets: payloads, times, keyframes. Its tables say all that a demuxer would."""
    try:
        tables = read_sample_tables(data)
    except ValueError as error:
        raise SourceError(f"the slice does not read back: {error}") from error
    payload = b"".join(packets.coded)
    sizes = np.array([packet.size for packet in packets.coded], dtype=np.int64)
    start, first = packets.dts[0], int(tables.offsets[0])
    same = (
        Fraction(1, tables.timescale) == time_base
        and np.array_equal(tables.sizes, sizes)
        and np.array_equal(tables.offsets, first + np.cumsum(sizes) - sizes)
        and data.startswith(payload, first)
        and np.array_equal(tables.pts, (packets.pts - start) * factor)
        and np.array_equal(tables.dts, (packets.dts - start) * factor)
        and np.array_equal(tables.is_sync, packets.is_keyframe)
    )
    if not same:
        raise SourceError("the copied packets do not read back as they are in the source")


def _lowest_later(ticks: IntArray) -> IntArray:
    """Of each packet the lowest time of those after it; the highest there is after the last."""
    later = np.append(ticks[1:], np.iinfo(np.int64).max)
    return np.minimum.accumulate(later[::-1])[::-1]


def _safe_keyframes(ticks: IntArray, is_keyframe: BoolArray, in_order: IntArray) -> list[int]:
    """Keyframes, as frames of the slice, that no later packet in decode order comes before in time."""
    return _positions(in_order, np.sort(ticks[is_keyframe & (ticks < _lowest_later(ticks))]))


def _positions(in_order: IntArray, ticks: IntArray) -> list[int]:
    """Frames that are shown at these times: of several at one time, all but one hidden, the last."""
    frames: list[int] = (np.searchsorted(in_order, ticks, side="right") - 1).tolist()
    return frames

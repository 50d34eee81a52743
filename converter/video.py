"""Cutting one episode out of a video file by copying packets: no frame is decoded, none is re-encoded.

The slice starts at the last keyframe at or before the episode's first frame from which decoding is exact, and
ends with the last packet, in decode order, that shows a frame of the episode. It is read back and compared with
the packets of the source before it is used.
"""

import io
import itertools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from crc32c import crc32c

from roboshard.converter.alignment import RowTimes, match_frames, pts_runs, row_runs
from roboshard.shards.errors import MissingError, SourceError
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


class Packet(NamedTuple):
    """One coded picture, in ticks of its stream's time base."""

    pts: int
    dts: int
    is_keyframe: bool
    """Flagged so in the file, and safe: decoding can start here."""
    is_hidden: bool
    """An edit list hides it: it is decoded and not shown."""
    is_foreign: bool
    """Coded with other parameters (extradata) than the file begins with, which a slice would not carry."""
    coded: "av.Packet[Any]"
    """As it was demuxed. Its times change when it is muxed; its payload, which is never copied, does not."""


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
            self._container = av.open(str(path), metadata_errors="replace")  # a title in Latin-1 is no reason to fail
            self._stream = self._container.streams.video[0]
            first = next((packet for packet in self._container.demux(self._stream) if packet.size), None)
        except (av.FFmpegError, IndexError) as error:
            raise SourceError(f"no readable video stream: {error}") from error
        context: Any = self._stream.codec_context
        if context is None:
            raise SourceError("its video codec is not known to FFmpeg")
        self._time_base = Fraction(self._stream.time_base or 0)
        if not self._time_base or first is None or first.dts is None:
            raise SourceError("the video stream has no timed packet")
        self._first_dts = first.dts
        self._codec = str(context.codec.canonical_name)
        self._extradata = self._in_force = bytes(context.extradata or b"")

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def cut(self, rows: RowTimes, *, key: str, member: str) -> VideoSlice:
        """The slice that shows these rows, as member `member` of the camera `key`.

        Raises:
            SourceError: a row without a frame within tolerance, or packets that cannot be copied exactly.
        """
        try:
            packets, shown = self._select(rows)
            data = self._mux(packets)
            return VideoSlice(data=data, camera=self._describe(data, packets, shown, key, member))
        except av.FFmpegError as error:
            raise SourceError(f"cannot be demuxed or copied: {error}") from error

    def _select(self, rows: RowTimes) -> tuple[list[Packet], list[int]]:
        """(packets of the slice in decode order, pts shown for each row)."""
        margin = max(rows.tolerance_s, 1 / rows.fps)
        first = self._ticks(float(rows.in_file[0]) - margin)
        last = self._ticks(float(rows.in_file[-1]) + margin) + 1
        seek_to, back = first, 1
        while True:
            window = self._read_window(seek_to, last)
            if not window:
                raise SourceError(f"no frame near {rows.from_s:.6f} s")
            at_start = window[0].dts <= self._first_dts
            if at_start or (window[0].is_keyframe and window[0].pts <= first):
                shown = self._shown(window, rows)
                start = self._exact_start(window, shown[0])
                if start is not None:
                    return self._trim(window, start, shown), shown
            if at_start:
                raise SourceError("no keyframe before the episode from which its frames decode exactly")
            seek_to, back = min(seek_to, window[0].dts) - back, back * 2  # doubled: what is read again stays little

    def _read_window(self, seek_to: int, last: int) -> list[Packet]:
        """Packets in decode order from the keyframe before `seek_to` until none can show a frame up to `last`."""
        self._container.seek(seek_to, stream=self._stream, backward=True, any_frame=False)
        window: list[Packet] = []
        for packet in self._container.demux(self._stream):
            if packet.size == 0:
                continue  # the demuxer's flush marker
            pts, dts = packet.pts, packet.dts
            if pts is None or dts is None:
                raise SourceError("a packet has no timestamp")
            if dts > last:  # pts is never before dts
                break
            if packet.is_keyframe and packet.has_sidedata(
                "new_extradata"
            ):  # another sample description from here on, till the next change
                self._in_force = bytes(packet.get_sidedata("new_extradata"))
            is_keyframe = packet.is_keyframe and self._is_random_access(packet)
            is_foreign = self._in_force != self._extradata
            window.append(Packet(pts, dts, is_keyframe, packet.is_discard, is_foreign, packet))
        return window

    def _is_random_access(self, packet: "av.Packet[Any]") -> bool:
        """H.264: whether this is an IDR picture.

        Recovery points carry the keyframe flag too. From the start of a gradual refresh, frames decode wrong for
        a while; from that of an open GOP, FFmpeg may lose the last frame of the file.
        """
        if self._codec != "h264" or self._extradata[:1] != b"\1" or len(self._extradata) < 7:
            return True
        data = bytes(packet)
        length_size = (self._extradata[4] & 3) + 1  # ISO/IEC 14496-15, AVCDecoderConfigurationRecord
        position = 0
        while position + length_size < len(data):
            size = int.from_bytes(data[position : position + length_size], "big")
            if data[position + length_size] & 0x1F == 5:
                return True
            position += length_size + size
        return False

    def _shown(self, window: list[Packet], rows: RowTimes) -> list[int]:
        """pts of the frame shown for each row."""
        pts = np.array(sorted(packet.pts for packet in window if not packet.is_hidden), dtype=np.int64)
        if np.any(np.diff(pts) == 0):
            raise SourceError("two frames have the same presentation time")
        seconds = np.asarray(pts * float(self._time_base), dtype=np.float64)
        frames = match_frames(seconds, rows)
        return [int(tick) for tick in pts[frames]]

    def _exact_start(self, window: list[Packet], first_shown: int) -> int | None:
        """Position of the last packet from which every frame from `first_shown` on decodes exactly."""
        lowest_later, start = None, None
        for i in range(len(window) - 1, -1, -1):
            packet = window[i]
            leading = lowest_later is not None and lowest_later < packet.pts
            exact = not leading or self._can_drop_leading
            if packet.is_keyframe and packet.pts <= first_shown and exact:
                start = i
                break
            lowest_later = packet.pts if lowest_later is None else min(lowest_later, packet.pts)
        return start

    @property
    def _can_drop_leading(self) -> bool:
        # H.265 3.1 "leading picture", 8.1.3: pictures that follow an IRAP picture in decoding order but precede
        # it in output are not referenced by those that follow it in output, so that they can be left out.
        return self._codec == "hevc"

    def _trim(self, window: list[Packet], start: int, shown: list[int]) -> list[Packet]:
        """From `start` to the last packet needed; without pictures that lead the first one."""
        wanted = set(shown)
        end = max(i for i, packet in enumerate(window) if packet.pts in wanted)
        first = window[start]
        packets = [packet for packet in window[start : end + 1] if packet.pts >= first.pts]
        if any(packet.is_foreign for packet in packets):
            raise SourceError("its decoder configuration changes within the file; encode the file again in one piece")
        return packets

    def _mux(self, packets: list[Packet]) -> bytes:
        buffer = io.BytesIO()
        start = packets[0].dts
        # Without an edit list: readers disagree on what one hides. Times then start at the decoder's delay.
        options = {"fflags": "+bitexact", "use_editlist": "0"}
        with av.open(buffer, "w", format="mp4", options=options) as output:
            # opaque: copy codec parameters as they are; a decoder's name (libdav1d) is not a codec to mux.
            try:
                stream = output.add_stream_from_template(self._stream, opaque=True)
            except ValueError as error:
                raise SourceError(f"an MP4 slice cannot hold its codec: {error}") from error
            stream.time_base = self._time_base
            duration = self._frame_ticks(packets)
            for source in packets:
                packet = av.Packet(bytes(source.coded)) if source.is_hidden else source.coded
                packet.pts, packet.dts = source.pts - start, source.dts - start
                packet.time_base = self._time_base
                packet.duration = duration
                packet.is_keyframe = source.is_keyframe
                packet.stream = stream
                output.mux(packet)
        return buffer.getvalue()

    @staticmethod
    def _frame_ticks(packets: list[Packet]) -> int:
        pts = sorted(packet.pts for packet in packets)
        return min((b - a for a, b in itertools.pairwise(pts)), default=1)

    def _describe(self, data: bytes, packets: list[Packet], shown: list[int], key: str, member: str) -> CameraRecord:
        """Read the slice back, compare it with what was copied, and describe what it holds."""
        time_base, copied = self._read_back(data)
        scale = self._time_base / time_base
        if scale.denominator != 1:
            raise SourceError(f"an MP4 slice cannot hold its time base of {self._time_base} s")
        start, factor = packets[0].dts, scale.numerator
        ticks = [(packet.pts - start) * factor for packet in packets]
        # The demuxer flags recovery points by itself, so only a keyframe that is lost is an error.
        lost = any(source.is_keyframe and not packet[1] for source, packet in zip(packets, copied, strict=False))
        found = [(pts, size, crc) for pts, _, size, crc in copied]
        expected = [(tick, p.coded.size, crc32c(p.coded)) for tick, p in zip(ticks, packets, strict=True)]
        if lost or found != expected:
            raise SourceError("the copied packets do not read back as they are in the source")
        in_order = sorted(ticks)
        position = {tick: frame for frame, tick in enumerate(in_order)}
        frames = [position[(pts - start) * factor] for pts in shown]
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
            keyframes=_safe_keyframes(ticks, packets, position),
            time_base=(time_base.numerator, time_base.denominator),
            pts=pts_runs(in_order),
            rows=row_runs(frames),
        )

    def _read_back(self, data: bytes) -> tuple[Fraction, list[tuple[int | None, bool, int, int]]]:
        """(time base, and of every shown packet pts, keyframe flag, size and CRC32C) of a slice."""
        with av.open(io.BytesIO(data), "r") as copy:
            stream = copy.streams.video[0]
            self._check_parameters(stream)
            copied = [
                (packet.pts, packet.is_keyframe, packet.size, crc32c(packet))
                for packet in copy.demux(stream)
                if packet.size and not packet.is_discard
            ]
            return Fraction(stream.time_base or 1), copied

    def _check_parameters(self, stream: Any) -> None:
        source, copy = self._stream.codec_context, stream.codec_context
        for name in _PARAMETERS:
            if getattr(source, name) != getattr(copy, name):
                raise SourceError(
                    f"its {name} {getattr(source, name)!r} would become {getattr(copy, name)!r} in an MP4 slice"
                )

    def _ticks(self, seconds: float) -> int:
        return int(seconds / float(self._time_base) // 1)


def _safe_keyframes(ticks: list[int], packets: list[Packet], position: dict[int, int]) -> list[int]:
    """Keyframes, as frames of the slice, that no later packet in decode order comes before in time."""
    safe: list[int] = []
    lowest_later = ticks[-1] + 1
    for tick, packet in zip(reversed(ticks), reversed(packets), strict=True):
        if packet.is_keyframe and tick < lowest_later:
            safe.append(position[tick])
        lowest_later = min(lowest_later, tick)
    return sorted(safe)

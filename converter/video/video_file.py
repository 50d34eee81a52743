"""Cutting one episode out of a video file by copying packets: no frame is decoded, none is
re-encoded.

The slice starts at the last keyframe at or before the episode's first frame from which decoding is
exact, and ends with the last packet, in decode order, that shows a frame of the episode.
slice_file.py makes a file of it.
"""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import Flags

from roboshard.common.errors import MissingError, SourceError
from roboshard.converter.video.alignment import RowTimes, check_times, match_frames
from roboshard.converter.video.decode_times import MAX_REORDERED, decode_times
from roboshard.converter.video.keyframes import (
    has_av1_frame_types,
    is_av1_keyframe,
    keyframe_check,
)
from roboshard.converter.video.opening import open_video, rotation_of
from roboshard.converter.video.packets import IntArray, Packets
from roboshard.converter.video.parameters import Parameters
from roboshard.converter.video.side_data import NewParameters
from roboshard.converter.video.slice_file import VideoSlice, copied_slice
from roboshard.shards.gop import lowest_later


class VideoFile:
    """A source video, opened for cutting. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises MissingError, or SourceError when it is no video."""
        if not path.is_file():
            raise MissingError("no such file")
        self._path = path
        self._container, self._stream = open_video(path)
        try:
            self._begin()
        except (av.FFmpegError, SourceError) as error:
            self._container.close()
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"no readable video stream: {error.strerror}") from error

    def _begin(self) -> None:
        """Look at the stream's parameters and its first packet."""
        first = next(
            (packet for packet in self._container.demux(self._stream) if packet.size), None
        )
        context: Any = self._stream.codec_context
        if context is None:
            raise SourceError("its video codec is not known to FFmpeg")
        self._time_base = Fraction(self._stream.time_base or 0)
        self._has_decode_times = not self._container.format.name.startswith("matroska")
        first_dts = None if first is None else first.dts if self._has_decode_times else first.pts
        if not self._time_base or first is None or first_dts is None:
            raise SourceError("the video stream has no timed packet")
        self._first_dts = first_dts
        self._codec = str(context.codec.canonical_name)
        self._extradata = bytes(context.extradata or b"")
        self._check_keyframe = keyframe_check(self._codec, self._extradata)
        self._parameters = Parameters(self._path, self._stream, first)
        self._new_parameters = NewParameters(self._path, self._container, self._stream)
        self._reads_frame_types = self._codec == "av1" and has_av1_frame_types(self._extradata)
        if (
            self._reads_frame_types
        ):  # FFmpeg's parser takes as long as all the rest of demuxing; it only tells these
            no_parse: Any = Flags.no_parse
            self._container.flags |= no_parse.value

    def close(self) -> None:
        """Close the file."""
        self._parameters.close()
        self._container.close()

    def cut(self, rows: RowTimes, *, key: str, member: str) -> VideoSlice:
        """The slice that shows these rows, as member `member` of the camera `key`.

        Raises:
            SourceError: a row without a frame within tolerance, or packets that cannot be copied
                exactly.
        """
        try:
            packets, shown = self.select(rows)
            return copied_slice(self, packets, shown, key=key, member=member)
        except av.FFmpegError as error:
            raise SourceError(f"cannot be demuxed or copied: {error.strerror}") from error

    @property
    def stream(self) -> Any:
        """The video stream as demuxed."""
        return self._stream

    def streams(self, packets: Packets) -> Iterator[Any]:
        """Yield streams that tell a decoder of selected packets what it must know.

        The first one has the parameters that are in force there. Where that is the stream of an MP4
        file, the second one has what FFmpeg makes of these packets: what it tells of such a file is
        what it found in its first ones.
        """
        stream = self._parameters.of(packets)
        yield stream
        if stream is self._stream and self._container.format.name.startswith("mov"):
            with suppress(av.FFmpegError, ValueError):
                yield self._parameters.probed(packets)

    def decodable_stream(self, packets: Packets, *, of_one_size: bool) -> Any:
        """Return a stream whose decoder can begin with selected packets.

        Its codec parameters are those in force there, which may not be those of the file's start.

        Args:
            packets: As `select` returns them.
            of_one_size: Pictures must not change within them. Otherwise whoever decodes sees to
                that.

        Raises:
            SourceError: They change all the same.
        """
        return self._parameters.of(packets, to_copy=of_one_size)

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick of the video stream."""
        return self._time_base

    @cached_property
    def turns(self) -> int:
        """Quarter turns, counterclockwise, by which its pictures are turned before they are shown:
        0 to 3.
        """
        return rotation_of(self._path)

    def shown_size(self, stream: Any = None) -> tuple[int, int]:
        """(height, width) of pictures as they are shown: of a stream of some packets, or of the
        file's first ones.
        """
        context = (self._stream if stream is None else stream).codec_context
        size = (context.height, context.width)
        return size[::-1] if self.turns % 2 else size

    def select(self, rows: RowTimes) -> tuple[Packets, IntArray]:
        """(packets of the slice in decode order, pts shown for each row).

        Raises SourceError as `cut` does.
        """
        margin = max(rows.tolerance_s, 1 / rows.fps)
        check_times(rows)
        first = self._ticks(float(rows.in_file.min()) - margin)
        last = self._ticks(float(rows.in_file.max()) + margin) + 1
        seek_to, back = first, 1
        while True:
            window = self._read_window(seek_to, last)
            if not len(window):
                raise SourceError(f"no frame near {rows.from_s:.6f} s")
            at_start = self._starts_at(window) <= self._first_dts
            if at_start or (window.is_keyframe[0] and window.pts[0] <= first):
                shown = self._shown(window, rows)
                start = self._exact_start(window, int(shown.min()))
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
        """Packets in decode order from the keyframe before `seek_to` until none can show a frame up
        to `last`.
        """
        if self._container.format.name in ("avi", "flv"):
            seek_to = max(seek_to, self._first_dts)  # their demuxers refuse to go further back
        self._container.seek(seek_to, stream=self._stream, backward=True, any_frame=False)
        coded: list[av.Packet[Any]] = []
        facts: list[tuple[int, int, bool, bool]] = []
        headers: list[bytes | None] = []
        num_later = 0
        for packet in self._container.demux(self._stream):
            if packet.size == 0:
                continue  # the demuxer's flush marker
            pts, dts = packet.pts, packet.dts
            if not self._has_decode_times:
                dts, num_later = pts, num_later + 1 if pts is not None and pts > last else 0
            if pts is None or dts is None:
                raise SourceError("a packet has no timestamp")
            if dts > last if self._has_decode_times else num_later > MAX_REORDERED:
                break  # pts is never before dts
            is_keyframe = packet.is_keyframe
            if self._reads_frame_types:
                is_keyframe = is_av1_keyframe(memoryview(packet), is_keyframe)
            if is_keyframe and self._check_keyframe is not None:
                is_keyframe = self._check_keyframe(memoryview(packet))
            facts.append((pts, dts, is_keyframe, packet.is_discard))
            headers.append(self._new_parameters.of(packet))
            coded.append(packet)
        columns = np.array(facts, dtype=np.int64).reshape(-1, 4).T
        return Packets(
            time_base=self._time_base,
            pts=columns[0],
            dts=columns[1] if self._has_decode_times else decode_times(columns[0]),
            is_keyframe=columns[2] != 0,
            is_hidden=columns[3] != 0,
            headers=headers,
            coded=coded,
        )

    def _starts_at(self, window: Packets) -> int:
        """Return when a window's first packet is decoded, or shown where the file says only
        that.
        """
        return int(window.dts[0] if self._has_decode_times else window.pts[0])

    def _shown(self, window: Packets, rows: RowTimes) -> IntArray:
        """pts of the frame shown for each row."""
        pts = np.sort(window.pts[~window.is_hidden])
        if np.any(np.diff(pts) == 0):
            raise SourceError("two frames have the same presentation time")
        seconds = np.asarray(pts * float(self._time_base), dtype=np.float64)
        return pts[match_frames(seconds, rows)]

    def _exact_start(self, window: Packets, first_shown: int) -> int | None:
        """Position of the last packet from which every frame from `first_shown` on decodes
        exactly.
        """
        possible = window.is_keyframe & (window.pts <= first_shown)
        if not self._can_drop_leading:
            possible &= lowest_later(window.pts) >= window.pts
        starts = np.flatnonzero(possible)
        return int(starts[-1]) if starts.size else None

    @property
    def _can_drop_leading(self) -> bool:
        # H.265 3.1 "leading picture", 8.1.3: pictures that follow an IRAP picture in decoding order
        # but precede it in output are not referenced by those that follow it in output, so that
        # they can be left out.
        return self._codec == "hevc"

    def _trim(self, window: Packets, start: int, shown: IntArray) -> Packets:
        """Return the packets from `start` to the last one needed, without pictures that lead the
        first one.
        """
        end = int(np.flatnonzero(np.isin(window.pts, shown))[-1])
        packets = window.take(
            start + np.flatnonzero(window.pts[start : end + 1] >= window.pts[start])
        )
        if packets.headers[0] is not None:
            # A muxer would begin another sample description with it.
            alone: av.Packet[Any] = av.Packet(bytes(packets.coded[0]))
            alone.time_base, alone.pts = self._time_base, packets.coded[0].pts
            alone.dts = packets.coded[0].dts
            packets.coded[0] = alone
        return packets

    def _ticks(self, seconds: float) -> int:
        return int(seconds / float(self._time_base) // 1)

"""Decoding the packets of a slice from where they lie in memory.

The slice's own tables say where each packet is, so no demuxer reads it and seeking costs nothing. A decoder is needed
only while frames are decoded: where keyframes are near, a few serve all slices in turn, and stay warm in the caches.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest

import av
import numpy as np

from roboshard.loader.decoding.codec import Codec
from roboshard.loader.decoding.pictures import Picture
from roboshard.loader.decoding.rgb import FORMATS, CodedPicture, swscale
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.shards.errors import FormatError
from roboshard.shards.gop import last_keyframe, mean_random_cost
from roboshard.shards.mp4 import SampleTables, read_sample_tables
from roboshard.shards.schema import CameraRecord

CODECS = ("h264", "hevc", "av1")
"""Whose packets in an MP4 file are what their decoders take."""
CHEAP_TO_BEGIN = 2.0
"""Frames decoded for one picked at random, up to which each visit of a slice begins at a keyframe: to go on with the
codec of the last visit, which is cold by then, costs more."""


def packet_decoder(
    data: memoryview, camera: CameraRecord, settings: PictureSettings
) -> "PacketDecoder | None":
    """A decoder of a slice's packets; None where more than that is asked for, or its tables are not its record's."""
    is_served = settings.device == "cpu" and camera.codec in CODECS and camera.pix_fmt in FORMATS
    if not is_served or swscale() is None:
        return None
    try:
        tables = read_sample_tables(data)
    except ValueError:
        return None
    if tables.is_turned or len(tables.pts) != camera.num_frames:
        return None
    if not tables.lie_within(data) or not np.array_equal(
        tables.pts[tables.as_shown], camera.ticks()
    ):
        return None
    return PacketDecoder(data, camera, settings, tables)


class PacketDecoder:
    """Begins at the last safe keyframe; goes on from the frame that it gave last where keyframes are far apart.

    So it decodes the frames that `shards.gop.decode_cost` counts, and of streams that reorder those in flight.
    """

    def __init__(
        self,
        data: memoryview,
        camera: CameraRecord,
        settings: PictureSettings,
        tables: SampleTables,
    ) -> None:
        """Nothing is opened before the first frame is asked for."""
        self._data, self._camera, self._settings, self._kind = (
            data,
            camera,
            settings,
            tables.description,
        )
        columns = (tables.offsets, tables.ends, tables.pts, tables.dts)
        self._packets: list[tuple[int, int, int, int]] = list(
            zip(*(each.tolist() for each in columns), strict=True)
        )
        """(start, end, pts, dts) in decode order."""
        self._packet_of: list[int] = tables.as_shown.tolist()
        """Frame -> its packet."""
        self._keyframe_of = [
            last_keyframe(camera.keyframes, frame) for frame in range(camera.num_frames)
        ]
        """Frame -> the last keyframe up to it."""
        self._keeps_codec = mean_random_cost(camera.keyframes, camera.num_frames) > CHEAP_TO_BEGIN
        self._codec: Codec | None = None
        self._ready: deque[av.VideoFrame] = deque()
        """Frames that have come and were not asked for yet."""
        self._is_drained = False
        """All that were fed have come."""
        self._next_packet = 0
        self._next_frame = 0
        self.num_decoded = 0
        """Frames decoded so far, those in flight not counted."""

    @property
    def last_frame(self) -> int | None:
        """The frame that it gave last, unless its codec has gone to another slice since."""
        return None if self._codec is None else self._next_frame - 1

    def frames(self, indices: Sequence[int]) -> Iterator[Picture]:
        """Frames by ascending index: (H, W, 3) uint8. Raises FFmpegError or ValueError, and is of no use then."""
        for index, following in zip_longest(indices, indices[1:]):
            yield self._picture(index, following)
        self._let_go()

    def _picture(self, index: int, following: int | None) -> Picture:
        """One frame; `following` is asked for next."""
        keyframe = self._keyframe_of[index]
        if self._codec is None:
            self._codec = self._settings.codecs.take(self._kind, partial(Codec, self._data))
            self._start(keyframe)
        elif not keyframe <= self._next_frame <= index or (
            self._is_drained and not self._is_fed(index)
        ):
            self._codec.reset()
            self._start(keyframe)
        frame = self._decoded(self._codec, index, self._goes_on(index + 1, following))
        self.num_decoded += index + 1 - self._next_frame
        self._next_frame = index + 1
        return CodedPicture(frame)

    def _start(self, keyframe: int) -> None:
        self._ready.clear()
        self._next_frame, self._next_packet = keyframe, self._packet_of[keyframe]
        self._is_drained = False

    def _decoded(self, codec: Codec, index: int, goes_on: bool) -> av.VideoFrame:
        """Feed packets until the frame is there. If the codec is not to go on, it need not see further ones."""
        _, _, wanted, _ = self._packets[self._packet_of[index]]
        while True:
            while self._ready:
                frame = self._ready.popleft()
                if frame.pts == wanted:
                    return frame
            if self._is_drained:
                raise FormatError(f"frame {index} was not decoded")
            if self._next_packet == len(self._packets) or (self._is_fed(index) and not goes_on):
                self._ready.extend(codec.drain())
                self._is_drained = True
            else:
                self._feed(codec)

    def _feed(self, codec: Codec) -> None:
        start, end, pts, dts = self._packets[self._next_packet]
        self._ready.extend(codec.feed(self._data[start:end], pts, dts))
        self._next_packet += 1

    def _is_fed(self, index: int) -> bool:
        return self._packet_of[index] < self._next_packet

    def _goes_on(self, frame: int, following: int | None) -> bool:
        """Whether the codec is to go on to this frame and those after it."""
        if following is not None:
            return following == frame or self._keyframe_of[following] <= frame
        return (
            self._keeps_codec
            and frame < self._camera.num_frames
            and self._keyframe_of[frame] != frame
        )

    def _let_go(self) -> None:
        """Of the codec, unless it is to go on."""
        if self._codec is None or self._goes_on(self._next_frame, None):
            return
        self._ready.clear()
        self._codec.reset()
        self._settings.codecs.give_back(self._kind, self._codec)
        self._codec = None

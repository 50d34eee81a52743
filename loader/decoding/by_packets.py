"""Decoding the packets of a slice from where they lie in memory.

The slice's own tables say where each packet is, so no demuxer reads it and seeking costs nothing.
Each GOP, from one safe keyframe to the next, is decoded by itself, by a decoder that is as new: so
a frame is the same whatever was decoded before it. A decoder is needed only while frames are
decoded: where keyframes are near, a few serve all slices in turn, and stay warm in the caches.

    state      how it is reached                                        can go on to
    no codec   at first; `_release`: no more of the GOP; an error       nothing
    at a GOP   `_start`: as new                                         every frame of the GOP
    within it  `_feed`: one packet more                                 later frames of the GOP
    drained    `_drain`: no packet will follow                          frames that have been fed

`_feed` gives the next packet, `_drain` says that none will follow, so that the codec gives the
frames that it holds back. Both may give frames before the one that is asked for, which are dropped,
and frames after it, which wait in `_ready`.

Of AV1 with near keyframes all packets of some wanted frames are given to the codec in one piece
(`_decode_joined`): what Python does around each packet is then done once for all.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, zip_longest

import av
import numpy as np

from roboshard.common.errors import FormatError, RoboshardError
from roboshard.loader.decoding.codec import Codec, Kind
from roboshard.loader.decoding.gops import Gops
from roboshard.loader.decoding.open_decoders import bytes_held
from roboshard.loader.decoding.pictures import Picture
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import InMemory, SliceBytes
from roboshard.shards.gop import mean_random_cost
from roboshard.shards.mp4 import IntArray
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import SlicePackets

READ_AT_ONCE = 1 << 16
"""Bytes that are read in one go, of GOPs that follow one another, unless a packet is larger."""
DECODED_AT_ONCE = 8, 1 << 20
"""Frames that are decoded before the first of them is used, and bytes of them, at the most: what
FFmpeg does and what Python does around it displace each other in the caches.
"""

JOINED_PER_WANTED = 3
"""Frames decoded in one go for each that is wanted, at the most: they are in memory at once."""

CHEAP_TO_BEGIN = 2.0
"""Frames decoded for one picked at random, up to which each visit of a slice begins at a keyframe:
to go on with the codec of the last visit, which is cold by then, costs more.
"""


class PacketDecoder:
    """Decodes packets from the last safe keyframe on, or goes on from the frame that it gave last
    where keyframes are far apart.

    So it decodes the frames that `shards.gop.decode_cost` counts, and of streams that reorder those
    in flight.
    """

    def __init__(
        self,
        data: SliceBytes,
        packets: SlicePackets,
        camera: CameraRecord,
        settings: PictureSettings,
        picture: Callable[[av.VideoFrame], Picture],
    ) -> None:
        """Prepare; no decoder is opened before the first frame is asked for.

        Args:
            data: The slice.
            packets: What `read_slice` read of it; of them only the tables are kept.
            camera: Its record.
            settings: What is wanted.
            picture: Makes a picture of a decoded frame.
        """
        tables = packets.tables
        self._slice, self._camera = data, camera
        self._settings, self._make = settings, picture
        self._payload = data if packets.is_whole else InMemory(packets.payload)
        self._window, self._window_begin = memoryview(b""), 0
        """The bytes of the payload that were read last, and the offset at which they begin."""
        self._begin, self._end = _numbers(tables.offsets), _numbers(tables.ends)
        self._packet_of = _numbers(tables.as_shown)
        """Frame, in the order of showing -> its packet, in the order of decoding."""
        self._frame_of = _numbers(np.argsort(tables.as_shown))
        """Packet -> its frame, which decoders pass on as its time: two packets may have one
        time.
        """
        self._is_keyframe = tables.is_sync.tobytes()
        most, num_bytes = DECODED_AT_ONCE
        self._pixels = camera.width * camera.height
        self._at_once = min(most, max(1, num_bytes // (2 * self._pixels)))
        self._gops = Gops(packets, camera)
        self._keeps_codec = mean_random_cost(camera.keyframes, camera.num_frames) > CHEAP_TO_BEGIN
        self._joins = (
            camera.codec == "av1"
            and not self._keeps_codec
            and self._gops.are_alike
            and bool(np.all(tables.as_shown[:-1] < tables.as_shown[1:]))
        )
        """Whether packets may be given to the codec in one piece: AV1 packets need nothing between
        them, and each holds one frame that is shown.
        """
        self._codec: Codec | None = None
        self._kind: Kind | None = None
        """The kind of the codec; None: the codec may serve one run through a GOP alone."""
        self._gop = 0
        """The GOP that the codec is in, if there is a codec."""
        self._end_frame = self._end_packet = 0
        """The first frame, and the first packet, after the GOP that the codec is in."""
        self._lead = b""
        """Parameter sets that are still to be fed before the next packet."""
        self._ready: deque[av.VideoFrame] = deque()
        """Frames that were decoded and not asked for yet."""
        self._is_drained = False
        """Whether the codec has given the frames of all packets that were fed to it."""
        self._next_packet = 0
        self._next_frame = 0
        self._last_packet = 0
        """The last packet that is worth reading with those before it."""
        self._failed: dict[int, tuple[int, Exception]] = {}
        """GOP -> the first of its packets that cannot be decoded, and why: nothing after it is
        tried again.
        """
        self.num_decoded = 0
        """Frames decoded so far, those in flight not counted."""

    @property
    def last_frame(self) -> int | None:
        """The frame that the decoder gave last; None: it has no codec to go on with."""
        return None if self._codec is None else self._next_frame - 1

    @property
    def held_bytes(self) -> int:
        """About how many bytes the decoder holds between two visits of its slice; 0: it is not
        open.
        """
        return 0 if self._codec is None else bytes_held(self._camera)

    def release(self) -> None:
        """Close the codec, if one is open; the next frame begins at a keyframe."""
        self._codec = None
        self._ready.clear()

    def frames(self, indices: Sequence[int]) -> Iterator[Picture]:
        """Give frames by ascending index. After an error the next ones begin anew.

        Raises:
            FormatError, ValueError, av.FFmpegError: A frame cannot be decoded, whatever was asked
            for before.
        """
        is_dense = bool(indices) and indices[-1] - indices[0] < 2 * len(indices)
        self._last_packet = self._packet_of[indices[-1]] if is_dense else 0
        wanted = zip_longest(indices, indices[1:])
        while some := self._decode_some(wanted):
            for found in some:
                if isinstance(found, Exception):
                    raise found
                yield self._make(found)
        self._window = memoryview(b"")
        self._release()

    def _decode_some(
        self, wanted: Iterator[tuple[int, int | None]]
    ) -> list[av.VideoFrame | Exception]:
        """Return the next frames of those `wanted`, each with the one that follows, or the error
        that ends them.
        """
        pairs = list(islice(wanted, self._at_once))
        while self._joins and len(pairs) < 2 * self._at_once and not self._ends_gop(pairs):
            pairs += islice(wanted, 1)
        joined = self._decode_joined(pairs)
        if joined:
            return [*joined]
        some: list[av.VideoFrame | Exception] = []
        try:
            for index, following in pairs:
                frame = self._frame(index, following)
                some.append(frame)
                if frame.width * frame.height > self._pixels:
                    break  # larger than its record says, which whoever takes it will refuse
        except (ValueError, av.FFmpegError, RoboshardError) as error:
            self._codec = None  # of what it is now nothing is known
            some.append(error)
        return some

    def _ends_gop(self, pairs: Sequence[tuple[int, int | None]]) -> bool:
        """Whether nothing more is wanted of the GOP that the last of these frames is in."""
        index, following = pairs[-1] if pairs else (0, None)
        return following is None or self._gops.of(index) != self._gops.of(following)

    def _decode_joined(self, pairs: Sequence[tuple[int, int | None]]) -> list[av.VideoFrame]:
        """Return frames whose packets, and those before them in their GOPs, are decoded in one go.

        None of them where that cannot be, or where the codec gives other than one for each packet:
        which is which is not known then.
        """
        goes_on = self._codec is not None or not self._ends_gop(pairs)
        if not self._joins or self._failed or goes_on:
            return []
        indices = [index for index, _ in pairs]
        passed = self._gops.passed(indices)
        if not 1 < len(passed) <= JOINED_PER_WANTED * len(indices):
            return []
        codec = self._start(self._gops.of(indices[0]))
        data = b"".join([self._packet(frame) for frame in passed])
        try:
            frames = codec.feed(data, passed[0], passed[0], is_keyframe=True) + codec.drain()
        except av.FFmpegError:
            frames = []
        if len(frames) != len(passed):
            self._codec = None  # one by one, by another, which says what is wrong with which
            return []
        self._give_back(codec)
        self.num_decoded += len(passed)
        wanted = set(indices)
        return [frame for index, frame in zip(passed, frames, strict=True) if index in wanted]

    def _frame(self, index: int, following: int | None) -> av.VideoFrame:
        """Return one frame; `following` is asked for next."""
        if self._failed:
            self._check_failed(index)
        codec = self._codec
        goes_on = codec is not None and self._next_frame <= index < self._end_frame
        if codec is None or not goes_on or (self._is_drained and not self._is_fed(index)):
            codec = self._start(self._gops.of(index))
        frame = self._decoded(codec, index, following)
        self.num_decoded += index + 1 - self._next_frame
        self._next_frame = index + 1
        return frame

    def _check_failed(self, index: int) -> None:
        """Raise the error of a packet that a frame needs, if it was met before."""
        failed, error = self._failed.get(self._gops.of(index), (len(self._frame_of), None))
        if error is not None and failed <= self._packet_of[index]:
            raise error.with_traceback(None)

    def _start(self, gop: int) -> Codec:
        """Go to the beginning of a GOP and return a decoder that is as new."""
        kind = self._gops.kind(gop)
        if self._codec is not None and (kind is None or kind != self._kind):
            self._give_back(self._codec)
        if self._codec is not None:
            self._codec.reset()
        elif kind is None:
            self._codec = self._new_codec()
        else:
            self._codec = self._settings.codecs.take(kind, self._new_codec)
        self._kind, self._gop = kind, gop
        self._ready.clear()
        self._next_frame = self._gops.frame(gop)
        self._next_packet = self._packet_of[self._next_frame]
        end, total = self._gops.end_frame(gop), len(self._frame_of)
        self._end_frame, self._end_packet = (
            (total, total) if end is None else (end, self._packet_of[end])
        )
        start = self._gops.start(gop)
        self._lead = start.sets if start.is_led else b""
        self._is_drained = False
        return self._codec

    def _new_codec(self) -> Codec:
        return Codec(self._slice.whole(), self._camera)

    def _decoded(self, codec: Codec, index: int, following: int | None) -> av.VideoFrame:
        """Return a frame, for which packets are fed until it is there. If the codec is not to go
        on, it need not see further ones.
        """
        ready = self._ready
        while True:
            while ready:
                frame = ready.popleft()
                if frame.pts == index:
                    return frame
            if self._is_drained:
                raise FormatError(f"frame {index} was not decoded")
            is_fed = self._is_fed(index)
            is_last = is_fed and not self._goes_on(index + 1, following)
            if is_last or self._next_packet == self._end_packet:
                self._drain(codec)
                continue
            try:
                self._feed(codec)
            except av.FFmpegError as error:
                self._failed[self._gop] = self._next_packet, error.with_traceback(None)
                if not is_fed:
                    raise
                self._drain(codec)  # what cannot be decoded is no part of this frame

    def _feed(self, codec: Codec) -> None:
        at = self._next_packet
        data: memoryview | bytes = self._packet(at)
        if self._lead:
            data, self._lead = self._lead + bytes(data), b""
        is_keyframe = self._is_keyframe[at] != 0
        self._ready.extend(codec.feed(data, self._frame_of[at], at, is_keyframe=is_keyframe))
        self._next_packet += 1

    def _packet(self, at: int) -> memoryview:
        """Return the bytes of a packet; where they are to be read, with packets that follow it and
        are wanted too.
        """
        begin, end = self._begin[at], self._end[at]
        first = self._window_begin
        if not first <= begin <= end <= first + len(self._window):
            stop = end
            for following in range(at + 1, max(self._end_packet, self._last_packet + 1)):
                if not stop <= self._end[following] <= begin + READ_AT_ONCE:
                    break
                stop = self._end[following]
            self._window, self._window_begin, first = self._payload.part(begin, stop), begin, begin
        return self._window[begin - first : end - first]

    def _drain(self, codec: Codec) -> None:
        self._is_drained = True
        self._ready.extend(codec.drain())

    def _is_fed(self, index: int) -> bool:
        return self._packet_of[index] < self._next_packet

    def _goes_on(self, frame: int, following: int | None) -> bool:
        """Whether the codec is to go on to this frame and those after it, in its GOP."""
        if following is not None:
            return following < self._end_frame
        return self._keeps_codec and frame < self._end_frame

    def _release(self) -> None:
        """Give the codec back, unless it is to go on in its GOP."""
        if self._codec is not None and not self._goes_on(self._next_frame, None):
            self._ready.clear()
            self._give_back(self._codec)

    def _give_back(self, codec: Codec) -> None:
        self._codec = None
        if self._kind is not None:
            codec.reset()
            self._settings.codecs.give_back(self._kind, codec)


def _numbers(column: IntArray) -> "array[int]":
    """Return numbers that are quick to look up one by one, and no larger than they must be."""
    return array("q", column.tobytes())

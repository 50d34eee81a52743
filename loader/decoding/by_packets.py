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

Where packets can be joined, those of some wanted frames are decoded in one piece instead
(joined_packets.py), by a codec that is given back at once.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, zip_longest

import av
import numpy as np

from roboshard.common.errors import FormatError, RoboshardError
from roboshard.loader.decoding.codec import Codec, Kind
from roboshard.loader.decoding.gops import Gops
from roboshard.loader.decoding.joined_packets import can_be_joined, decode_joined, to_be_joined
from roboshard.loader.decoding.open_decoders import bytes_held
from roboshard.loader.decoding.packet_bytes import PacketBytes, numbers
from roboshard.loader.decoding.pictures import Picture
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import SliceBytes
from roboshard.shards.gop import mean_random_cost
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import SlicePackets

DECODED_AT_ONCE = 8, 1 << 20
"""Frames that are decoded before the first of them is used, and bytes of them, at the most: what
FFmpeg does and what Python does around it displace each other in the caches.
"""

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
        self._packets = PacketBytes(data, packets)
        self._packet_of = numbers(tables.as_shown)
        """Frame, in the order of showing -> its packet, in the order of decoding."""
        self._frame_of = numbers(np.argsort(tables.as_shown))
        """Packet -> its frame, which decoders pass on as its time: two packets may have one
        time.
        """
        self._is_keyframe = tables.is_sync.tobytes()
        most, num_bytes = DECODED_AT_ONCE
        self._pixels = camera.width * camera.height
        self._at_once = min(most, max(1, num_bytes // (2 * self._pixels)))
        self._gops = Gops(packets, camera)
        self._keeps_codec = mean_random_cost(camera.keyframes, camera.num_frames) > CHEAP_TO_BEGIN
        self._joins = not self._keeps_codec and can_be_joined(camera.codec, tables, self._gops)
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
        self._packets.forget()
        self._release()

    def _decode_some(
        self, wanted: Iterator[tuple[int, int | None]]
    ) -> list[av.VideoFrame | Exception]:
        """Return the next frames of those `wanted`, each with the one that follows, or the error
        that ends them.
        """
        pairs = list(islice(wanted, self._at_once))
        if self._joins and self._codec is None and not self._failed:
            while len(pairs) < 2 * self._at_once and not self._ends_gop(pairs):
                pairs += islice(wanted, 1)
            if found := self._decode_joined(pairs):
                return [*found]
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
        """Return these frames, whose packets are decoded in one piece.

        None of them where they are to be decoded one by one: for that costs less, or what is wrong
        with which is to be said.
        """
        indices = [index for index, _ in pairs]
        passed = to_be_joined(indices, self._gops) if self._ends_gop(pairs) else []
        if not passed:
            return []
        codec = self._start(self._gops.of(indices[0]))
        found = decode_joined(codec, self._packets, passed, self._last_packet)
        if found is None:
            self._codec = None  # of what it is now nothing is known
            return []
        self._give_back(codec)
        self.num_decoded += len(passed)
        wanted = set(indices)
        return [frame for index, frame in zip(passed, found, strict=True) if index in wanted]

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
        stop = max(self._end_packet, self._last_packet + 1)
        data: memoryview | bytes = self._packets.of(at, stop)
        if self._lead:
            data, self._lead = self._lead + bytes(data), b""
        is_keyframe = self._is_keyframe[at] != 0
        self._ready.extend(codec.feed(data, self._frame_of[at], at, is_keyframe=is_keyframe))
        self._next_packet += 1

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

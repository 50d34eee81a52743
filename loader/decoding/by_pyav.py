"""Decoding by PyAV's demuxer and decoder: for depth, and for whatever else the others cannot decode."""

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.loader.decoding.pictures import Picture
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.shards.errors import FormatError
from roboshard.shards.gop import last_keyframe
from roboshard.shards.schema import CameraRecord

ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
"""For PyAV's conversions, which since version 17 start threads of their own for each picture."""


class PyAVDecoder:
    """PyAV: goes on from the frame that it gave last, or from the last safe keyframe if that is nearer.

    So it decodes the frames that `shards.gop.decode_cost` counts, and of streams that reorder those in flight.
    """

    def __init__(
        self,
        data: memoryview,
        camera: CameraRecord,
        settings: PictureSettings,
        pixels: Callable[[av.VideoFrame], NDArray[Any]] | None = None,
    ) -> None:
        """Open an MP4 file. `pixels` makes (H, W, C) of its frames; None: RGB."""
        self._container = av.open(io.BytesIO(data), "r")
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = (
            1  # FFmpeg starts one per CPU otherwise, for every open decoder
        )
        check_count(self._stream.frames, camera)
        self._pts = camera.ticks().tolist()
        self._keyframes = camera.keyframes
        self._pixels = upright if pixels is None else pixels
        self._device = settings.device
        self._coming: Iterator[av.VideoFrame] | None = None
        self._next = 0
        """The frame that comes first of those."""
        self.num_decoded = 0
        """Frames decoded so far, those in flight not counted."""

    @property
    def last_frame(self) -> int | None:
        """The frame that it gave last."""
        return self._next - 1 if self._next else None

    def frames(self, indices: Sequence[int]) -> Iterator[Picture]:
        """Frames by ascending index: (H, W, C)."""
        for index in indices:
            pixels = self._pixels(self._frame(index))
            yield pixels if self._device == "cpu" else torch.from_numpy(pixels).to(self._device)

    def _frame(self, index: int) -> av.VideoFrame:
        keyframe = last_keyframe(self._keyframes, index)
        coming, self._coming = (
            self._coming,
            None,
        )  # after an error or at the end nothing comes any more
        if coming is None or not keyframe <= self._next <= index:
            del coming  # before the file is used otherwise
            coming, self._next = decoded(self._packets_from(self._pts[keyframe])), keyframe
        for frame in coming:
            if frame.pts == self._pts[index]:
                self.num_decoded += index + 1 - self._next
                self._coming, self._next = coming, index + 1
                return frame
        raise FormatError(f"frame {index} was not decoded")

    def _packets_from(self, pts: int) -> "Iterator[av.Packet[av.VideoStream]]":
        """Packets from the keyframe shown at `pts`, or one before it: the demuxer seeks by decoding time."""
        seek_to = pts
        while True:
            self._container.seek(seek_to, stream=self._stream, backward=True)
            packets = self._container.demux(self._stream)
            first = next(packets)
            if first.pts is None or first.dts is None:
                raise FormatError("no packet where its index says")
            if first.pts <= pts:
                return itertools.chain([first], packets)
            if first.dts > seek_to:
                raise FormatError("no keyframe where its record says")
            seek_to = first.dts - 1


def decoded(packets: "Iterable[av.Packet[av.VideoStream]]") -> Iterator[av.VideoFrame]:
    """Frames of packets as they are shown; no method, or a decoder would keep itself alive."""
    for packet in packets:
        yield from packet.decode()


def upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """RGB (H, W, 3), turned as the file's display matrix says, which torchcodec does by itself."""
    pixels = frame.reformat(format="rgb24", interpolation="BILINEAR", **ONE_THREAD)
    return np.ascontiguousarray(np.rot90(pixels.to_ndarray(), round(frame.rotation / 90)))


def check_count(num_frames: int, camera: CameraRecord) -> None:
    """Raise FormatError unless a slice has as many frames as its record says."""
    if num_frames != camera.num_frames:
        raise FormatError(f"{num_frames} frames in the slice, {camera.num_frames} in its record")

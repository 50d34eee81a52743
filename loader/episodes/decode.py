"""Decoding frames of an episode's slice: one interface, torchcodec behind it; PyAV for depth, and without torchcodec.

A decoder is used by one thread at a time.
"""

import io
import itertools
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Protocol, TypeVar

import av
import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.loader.episodes.depth import DepthPixels
from roboshard.loader.episodes.pictures import Pictures
from roboshard.shards.errors import FormatError
from roboshard.shards.features import DepthScale
from roboshard.shards.schema import CameraRecord

T = TypeVar("T")

ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
"""For PyAV's conversions, which since version 17 start threads of their own for each picture."""


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """What pictures are wanted."""

    image_size: tuple[int, int] | None = None
    """(H, W) to resize to while decoding; None: as stored."""
    device: str = "cpu"
    """Where video is decoded."""
    look_back: Mapping[str, int] = field(default_factory=dict)
    """Camera -> how many frames before its last one a slice will be asked for again, where that is known."""


class FrameDecoder(Protocol):
    """Random access to the frames of one slice."""

    def frames(self, indices: Sequence[int]) -> torch.Tensor:
        """Frames by ascending index: (n, H, W, 3) uint8; of depth (n, H, W, 1) float32 in millimetres."""


class TorchcodecDecoder:
    """torchcodec in exact mode, the time of every frame checked; PyAV for the slices where it goes wrong.

    It seeks by presentation time where the demuxer counts in decoding time, and so starts a keyframe too late in
    streams that reorder further than their keyframes are apart; and it takes every keyframe for a safe one.
    """

    def __init__(self, data: memoryview, camera: CameraRecord, settings: PictureSettings) -> None:
        """Open an MP4 file."""
        self._decoder = _torchcodec().VideoDecoder(
            _as_tensor(data),
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
            device=settings.device,
            transforms=_resize(settings.image_size),
        )
        _check_count(len(self._decoder), camera)
        self._data, self._camera, self._settings = data, camera, settings
        self._tick = camera.time_base[0] / camera.time_base[1]
        self._times = [tick * self._tick for tick in _ticks(camera)]
        self._replacement: PyAVDecoder | None = None

    def frames(self, indices: Sequence[int]) -> torch.Tensor:
        """Frames by ascending index: (n, H, W, 3) uint8."""
        if self._replacement is None:
            try:
                found = self._decoder.get_frames_at(list(indices))
            except RuntimeError:
                found = None
            if found is not None and self._are_of(found.pts_seconds.tolist(), indices):
                return torch.as_tensor(found.data)
            self._replacement = PyAVDecoder(self._data, self._camera, self._settings)
        return self._replacement.frames(indices)

    def _are_of(self, times: Sequence[float], indices: Sequence[int]) -> bool:
        pairs = zip(times, indices, strict=True)
        return all(abs(time - self._times[index]) < self._tick / 2 for time, index in pairs)


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
        self._stream.codec_context.thread_count = 1  # FFmpeg starts one per CPU otherwise, for every open decoder
        _check_count(self._stream.frames, camera)
        self._pts = _ticks(camera)
        self._keyframes = camera.keyframes
        self._pixels = partial(_upright, size=settings.image_size) if pixels is None else pixels
        self._device = settings.device
        self._coming: Iterator[av.VideoFrame] | None = None
        self._next = 0
        """The frame that comes first of those."""

    def frames(self, indices: Sequence[int]) -> torch.Tensor:
        """Frames by ascending index: (n, H, W, C)."""
        found = {index: torch.from_numpy(self._pixels(self._frame(index))) for index in dict.fromkeys(indices)}
        return torch.stack([found[index] for index in indices]).to(self._device)

    def _frame(self, index: int) -> av.VideoFrame:
        keyframe = self._keyframes[max(0, bisect_right(self._keyframes, index) - 1)]
        coming, self._coming = self._coming, None  # after an error or at the end nothing comes any more
        if coming is None or not keyframe <= self._next <= index:
            del coming  # before the file is used otherwise
            coming = _decoded(self._packets_from(self._pts[keyframe]))
        for frame in coming:
            if frame.pts == self._pts[index]:
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


def _decoded(packets: "Iterable[av.Packet[av.VideoStream]]") -> Iterator[av.VideoFrame]:
    """Frames of packets as they are shown; no method, or a decoder would keep itself alive."""
    for packet in packets:
        yield from packet.decode()


def open_decoder(
    data: memoryview, camera: CameraRecord, settings: PictureSettings, where: str, depth: DepthScale | None = None
) -> FrameDecoder:
    """A decoder for one slice, of depth with this scale.

    Raises FormatError for a file that cannot be decoded; `where` names it.
    """
    kind: Callable[[memoryview, CameraRecord, PictureSettings], FrameDecoder]
    if depth is not None:  # torchcodec gives 8-bit RGB
        kind = partial(PyAVDecoder, pixels=DepthPixels(depth, settings.image_size))
    else:
        kind = PyAVDecoder if _torchcodec() is None else TorchcodecDecoder
    return _named(lambda: kind(data, camera, settings), where)


def decode_frames(
    decoder: FrameDecoder, camera: CameraRecord, indices: Sequence[int], settings: PictureSettings, where: str
) -> Pictures:
    """Pictures (H, W, C) by ascending index. Raises FormatError naming `where`."""
    frames = _named(lambda: decoder.frames(indices), where)
    size = (camera.height, camera.width)
    allowed = (size, size[::-1]) if settings.image_size is None else (settings.image_size,)  # a display matrix turns
    if frames.shape[:3] not in [(len(indices), *pixels) for pixels in allowed]:
        raise FormatError(f"{where}: frames of {tuple(frames.shape[1:3])} pixels where its record says {size}")
    return frames.numpy() if frames.is_cpu else list(frames)


def _upright(frame: av.VideoFrame, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """RGB (H, W, 3), turned as the file's display matrix says, which torchcodec does by itself."""
    turns = round(frame.rotation / 90) % 4
    height, width = (None, None) if size is None else size[::-1] if turns % 2 else size
    pixels = frame.reformat(format="rgb24", width=width, height=height, interpolation="BILINEAR", **ONE_THREAD)
    return np.ascontiguousarray(np.rot90(pixels.to_ndarray(), turns))


class _Bytes:
    """Memory as NumPy asks for it. Said to be writable, of which torch would warn otherwise; nobody writes."""

    def __init__(self, data: memoryview) -> None:
        array = np.frombuffer(data, dtype=np.uint8)
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}
        self._data = data


def _as_tensor(data: memoryview) -> torch.Tensor:
    """The same bytes as a tensor, not a copy."""
    return torch.from_numpy(np.asarray(_Bytes(data)))


def _resize(size: tuple[int, int] | None) -> list[Any] | None:
    """torchcodec's transforms: resizing in the decoder's filter graph."""
    if size is None:
        return None
    from torchcodec import transforms  # noqa: PLC0415 - only where it is used: it needs FFmpeg

    return [transforms.Resize(size)]  # type: ignore[attr-defined]


def _ticks(camera: CameraRecord) -> list[int]:
    """When each frame of the slice is shown, in ticks."""
    return [first + step * i for first, step, count in camera.pts for i in range(count)]


def _check_count(num_frames: int, camera: CameraRecord) -> None:
    if num_frames != camera.num_frames:
        raise FormatError(f"{num_frames} frames in the slice, {camera.num_frames} in its record")


def _named(action: Callable[[], T], where: str) -> T:
    try:
        return action()
    except (RuntimeError, ValueError, IndexError, av.FFmpegError) as error:  # what torchcodec and PyAV raise
        raise FormatError(f"{where}: cannot be decoded: {error}") from error


@cache
def _torchcodec() -> Any:
    """torchcodec.decoders, or None with a warning where it cannot be loaded."""
    try:
        from torchcodec import decoders  # noqa: PLC0415 - its absence is an answer, not an error
    except (ImportError, RuntimeError, OSError) as error:
        warnings.warn(
            "torchcodec cannot be loaded, so video is decoded by PyAV, which is slower. It needs FFmpeg's shared "
            f"libraries (Debian and Ubuntu: apt-get install ffmpeg). The reason was: {str(error).splitlines()[0]}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return decoders

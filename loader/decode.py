"""Decoding frames of an episode's slice: one interface, torchcodec behind it, PyAV where that cannot be loaded.

A decoder is used by one thread at a time.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol, TypeVar

import av
import numpy as np
import torch

from roboshard.shards.errors import FormatError
from roboshard.shards.schema import CameraRecord

T = TypeVar("T")


class FrameDecoder(Protocol):
    """Random access to the frames of one slice."""

    def frames(self, indices: Sequence[int]) -> torch.Tensor:
        """Frames by ascending index: (n, H, W, 3) uint8."""


class TorchcodecDecoder:
    """torchcodec in exact mode: frames are found by a scan of all packets, never guessed from the frame rate."""

    def __init__(self, data: memoryview, camera: CameraRecord) -> None:
        """Open an MP4 file."""
        self._decoder = _torchcodec().VideoDecoder(
            bytes(data), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        if len(self._decoder) != camera.num_frames:
            raise FormatError(f"{len(self._decoder)} frames in the slice, {camera.num_frames} in its record")

    def frames(self, indices: Sequence[int]) -> torch.Tensor:
        """Frames by ascending index: (n, H, W, 3) uint8."""
        return torch.as_tensor(self._decoder.get_frames_at(list(indices)).data)


class PyAVDecoder:
    """PyAV: seeks to the last safe keyframe and decodes forward from it."""

    def __init__(self, data: memoryview, camera: CameraRecord) -> None:
        """Open an MP4 file."""
        self._container = av.open(io.BytesIO(data), "r")
        self._stream = self._container.streams.video[0]
        self._pts = [first + step * i for first, step, count in camera.pts for i in range(count)]
        self._keyframes = camera.keyframes

    def frames(self, indices: Sequence[int]) -> torch.Tensor:
        """Frames by ascending index: (n, H, W, 3) uint8."""
        found: dict[int, torch.Tensor] = {}
        for index in indices:
            if index not in found:
                found |= self._decode_from(index, set(indices))
        return torch.stack([found[index] for index in indices])

    def _decode_from(self, index: int, wanted: set[int]) -> dict[int, torch.Tensor]:
        """All wanted frames from `index` to the next keyframe."""
        after = int(np.searchsorted(self._keyframes, index, side="right"))
        start = self._keyframes[max(0, after - 1)]
        stop = self._keyframes[after] if after < len(self._keyframes) else len(self._pts)
        targets = {self._pts[i]: i for i in range(index, stop) if i in wanted}
        found: dict[int, torch.Tensor] = {}
        self._container.seek(self._pts[start], stream=self._stream, backward=True)
        for frame in self._container.decode(self._stream):
            if frame.pts in targets:
                found[targets[frame.pts]] = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                if len(found) == len(targets):
                    return found
        raise FormatError(f"frame {index} was not decoded")


def open_decoder(data: memoryview, camera: CameraRecord, where: str) -> FrameDecoder:
    """A decoder for one slice. Raises FormatError for a file that cannot be decoded; `where` names it."""
    kind: Callable[[memoryview, CameraRecord], FrameDecoder] = (
        PyAVDecoder if _torchcodec() is None else TorchcodecDecoder
    )
    return _named(lambda: kind(data, camera), where)


def decode_frames(decoder: FrameDecoder, indices: Sequence[int], where: str) -> torch.Tensor:
    """(n, H, W, 3) uint8 by ascending index. Raises FormatError naming `where`."""
    return _named(lambda: decoder.frames(indices), where)


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

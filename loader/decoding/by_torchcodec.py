"""Decoding by torchcodec: on GPUs, and what the packet decoder does not serve."""

import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from roboshard.loader.decoding.by_pyav import check_count
from roboshard.loader.decoding.pictures import Picture
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.shards.errors import FormatError
from roboshard.shards.gop import decode_cost
from roboshard.shards.schema import CameraRecord

CHUNK_FRAMES = 8
"""Frames asked for at once: few enough to be still in the cores' caches when they are copied."""


class TorchcodecDecoder:
    """torchcodec in exact mode, the time of every frame checked.

    It seeks by presentation time where the demuxer counts in decoding time, and so starts a keyframe too late in
    streams that reorder further than their keyframes are apart; and it takes every keyframe for a safe one.
    """

    def __init__(self, data: memoryview, camera: CameraRecord, settings: PictureSettings) -> None:
        """Open an MP4 file."""
        self._decoder = torchcodec().VideoDecoder(
            _as_tensor(data),
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
            device=settings.device,
        )
        check_count(len(self._decoder), camera)
        self._camera = camera
        self._tick = camera.time_base[0] / camera.time_base[1]
        self._times = [tick * self._tick for tick in camera.ticks().tolist()]
        self.last_frame: int | None = None
        """The frame that it gave last."""
        self.num_decoded = 0
        """Frames decoded so far, as `shards.gop.decode_cost` counts them."""

    def frames(self, indices: Sequence[int]) -> Iterator[Picture]:
        """Frames by ascending index: (H, W, 3) uint8, on the GPU where one decodes.

        Raises RuntimeError, and FormatError where it gives other frames than were asked for.
        """
        for first in range(0, len(indices), CHUNK_FRAMES):
            chunk = indices[first : first + CHUNK_FRAMES]
            for index, picture in zip(chunk, self._chunk(chunk), strict=True):
                self.num_decoded += decode_cost([index], self._camera.keyframes, self.last_frame)
                self.last_frame = index
                yield picture

    def _chunk(self, indices: Sequence[int]) -> Iterator[Picture]:
        found = self._decoder.get_frames_at(list(indices))
        if not self._are_of(found.pts_seconds.tolist(), indices):
            raise FormatError(f"other frames came than {indices[0]} to {indices[-1]}")
        return iter(found.data.numpy() if found.data.is_cpu else found.data)

    def _are_of(self, times: Sequence[float], indices: Sequence[int]) -> bool:
        pairs = zip(times, indices, strict=True)
        return all(abs(time - self._times[index]) < self._tick / 2 for time, index in pairs)


class _Bytes:
    """Memory as NumPy asks for it. Said to be writable, of which torch would warn otherwise; nobody writes."""

    def __init__(self, data: memoryview) -> None:
        array = np.frombuffer(data, dtype=np.uint8)
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}
        self._data = data


def _as_tensor(data: memoryview) -> torch.Tensor:
    """The same bytes as a tensor, not a copy."""
    return torch.from_numpy(np.asarray(_Bytes(data)))


@cache
def torchcodec() -> Any:
    """torchcodec.decoders, or None with a warning where it cannot be loaded."""
    try:
        from torchcodec import decoders  # noqa: PLC0415 - its absence is an answer, not an error
    except (ImportError, RuntimeError, OSError) as error:
        warnings.warn(
            "torchcodec cannot be loaded, so this video is decoded by PyAV, which is slower. It needs FFmpeg's shared"
            f" libraries (Debian and Ubuntu: apt-get install ffmpeg). The reason was: {str(error).splitlines()[0]}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return decoders

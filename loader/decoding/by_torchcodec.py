"""Decoding by torchcodec, on GPUs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from roboshard.common.errors import FormatError
from roboshard.loader.decoding.gpu_fallback import notice_fallback
from roboshard.loader.decoding.open_decoders import bytes_held
from roboshard.loader.decoding.parameter_sets import starts_of_gops
from roboshard.loader.decoding.pictures import Picture
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import SliceBytes
from roboshard.loader.decoding.torchcodec_module import torchcodec
from roboshard.shards.gop import decode_cost
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import SlicePackets

CHUNK_FRAMES = 8
"""Frames asked for at once: few enough to be still in the cores' caches when they are copied."""


class TorchcodecDecoder:
    """torchcodec in exact mode, the time of every frame checked.

    It seeks by presentation time where the demuxer counts in decoding time, and so starts a
    keyframe too late in streams that reorder further than their keyframes are apart; and it takes
    every keyframe for a safe one.
    """

    def __init__(self, data: SliceBytes, camera: CameraRecord, settings: PictureSettings) -> None:
        """Prepare for a slice, which `read_slice` has read and `seeks_right` allows."""
        self._slice, self._camera, self._device = data, camera, settings.device
        self._decoder: Any = None
        self._tick = camera.time_base[0] / camera.time_base[1]
        self._times = [tick * self._tick for tick in camera.ticks().tolist()]
        self.last_frame: int | None = None
        """The frame that the decoder gave last; None: the next one begins at a keyframe."""
        self.num_decoded = 0
        """Frames decoded so far, as `shards.gop.decode_cost` counts them."""

    @property
    def held_bytes(self) -> int:
        """About how many bytes the decoder's pictures take between two visits; 0: it is closed."""
        return 0 if self._decoder is None else bytes_held(self._camera)

    def release(self) -> None:
        """Close the decoder; the next frame begins at a keyframe."""
        self._decoder = None
        self.last_frame = None

    def frames(self, indices: Sequence[int]) -> Iterator[Picture]:
        """Yield frames by ascending index: (H, W, 3) uint8, on the GPU where one decodes.

        Raises RuntimeError, and FormatError where it gives other frames than were asked for.
        """
        for first in range(0, len(indices), CHUNK_FRAMES):
            chunk = indices[first : first + CHUNK_FRAMES]
            for index, picture in zip(chunk, self._chunk(chunk), strict=True):
                self.num_decoded += decode_cost([index], self._camera.keyframes, self.last_frame)
                self.last_frame = index
                yield picture

    def _chunk(self, indices: Sequence[int]) -> Iterator[Picture]:
        is_new = self._decoder is None
        if is_new:
            self._decoder = self._opened()
        found = self._decoder.get_frames_at(list(indices))
        if is_new:
            notice_fallback(self._decoder, self._camera, self._device)
        if not self._are_of(found.pts_seconds.tolist(), indices):
            raise FormatError(f"other frames came than {indices[0]} to {indices[-1]}")
        return iter(found.data.numpy() if found.data.is_cpu else found.data)

    def _opened(self) -> Any:
        decoder = torchcodec().VideoDecoder(
            _as_tensor(self._slice.whole()),
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
            device=self._device,
        )
        if len(decoder) != self._camera.num_frames:
            raise FormatError(
                f"{len(decoder)} frames in the slice, {self._camera.num_frames} in its record"
            )
        return decoder

    def _are_of(self, times: Sequence[float], indices: Sequence[int]) -> bool:
        pairs = zip(times, indices, strict=True)
        return all(abs(time - self._times[index]) < self._tick / 2 for time, index in pairs)


def seeks_right(packets: SlicePackets, camera: CameraRecord) -> bool:
    """Whether torchcodec finds the keyframes of a slice, and decodes from each as if it had decoded
    all before it.

    It looks by the time of showing for a keyframe that the demuxer finds by the time of decoding,
    and takes each for a safe one.
    """
    tables = packets.tables
    places = np.flatnonzero(tables.is_sync)
    found = np.searchsorted(tables.dts[places], tables.pts[places], side="right") - 1
    if not np.array_equal(found, np.arange(len(places))):
        return False
    if not np.array_equal(np.sort(tables.as_shown[camera.keyframes]), places):
        return False
    starts = starts_of_gops(packets.payload, tables, places.tolist(), camera.codec, camera.pix_fmt)
    return starts is None or all(
        start.sets and start.is_final and not start.is_led for start in starts
    )


class _Bytes:
    """Memory as NumPy asks for it.

    Said to be writable, of which torch would warn otherwise; nobody writes.
    """

    def __init__(self, data: memoryview) -> None:
        array = np.frombuffer(data, dtype=np.uint8)
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}
        self._data = data


def _as_tensor(data: memoryview) -> torch.Tensor:
    """Return a uint8 tensor over the same bytes, not a copy."""
    return torch.from_numpy(np.asarray(_Bytes(data)))

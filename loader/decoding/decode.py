"""Decoding frames of an episode's slice: which decoder serves it, decided once, before its first
frame.

    on the CPU   by_packets.py      packets from memory, through FFmpeg's decoders of PyAV
      colors     rgb.py, colors.py  as torchcodec makes them, and LeRobot with it
      depths     depth.py           codes to millimetres
    on a GPU     by_torchcodec.py   but depth, and slices in which torchcodec would seek wrongly:
                                    those as on the CPU
                                    moved there

A slice is read by `shards.slices.read_slice` before any of them sees it. What its decoder cannot
decode is an error.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import av
import torch

from roboshard.common.errors import FormatError
from roboshard.loader.decoding.by_packets import PacketDecoder
from roboshard.loader.decoding.by_torchcodec import TorchcodecDecoder, seeks_right
from roboshard.loader.decoding.depth import depth_pixels
from roboshard.loader.decoding.open_decoders import Keeps
from roboshard.loader.decoding.pictures import Picture, resized, with_pixels
from roboshard.loader.decoding.rgb import picture_of
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import SliceBytes
from roboshard.loader.decoding.torchcodec_module import torchcodec, turns_pictures
from roboshard.shards.features import DepthScale
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import SlicePackets, read_slice

FAILURES = (RuntimeError, ValueError, IndexError, av.FFmpegError)
"""Errors that decoders raise for what they cannot decode."""


class FrameDecoder(Keeps, Protocol):
    """Random access to the frames of one slice. Used by one thread at a time."""

    @property
    def last_frame(self) -> int | None:
        """The frame that the decoder goes on from; None: it begins at a keyframe."""

    @property
    def num_decoded(self) -> int:
        """Frames decoded so far."""

    def frames(self, indices: Sequence[int]) -> Iterator[Picture]:
        """Yield frames by ascending index: (H, W, 3) uint8; of depth (H, W, 1) float32 in
        millimetres.

        Each is to be used before the next one is asked for.
        """


def open_decoder(
    data: SliceBytes,
    camera: CameraRecord,
    settings: PictureSettings,
    where: str,
    depth: DepthScale | None = None,
) -> FrameDecoder:
    """Choose the decoder for one slice.

    Args:
        data: The slice.
        camera: Its record.
        settings: What is wanted.
        where: Names the slice in errors.
        depth: The scale of depth video.

    Raises:
        FormatError: The slice is not a file as the format has it, or not what its record says.
    """
    with _naming(where):
        whole = data.whole()
        packets = read_slice(whole, camera)
        if depth is None and decodes_on_gpu(settings) and _is_for_torchcodec(packets, camera):
            return TorchcodecDecoder(data, camera, settings)
        on_cpu = PacketDecoder(data, packets, camera, settings, _picture_maker(packets, depth))
        return on_cpu if settings.device == "cpu" else Moved(on_cpu, settings.device)


def decodes_on_gpu(settings: PictureSettings) -> bool:
    """Whether pictures come from a GPU where it can decode them."""
    return settings.device != "cpu" and torchcodec() is not None


def _is_for_torchcodec(packets: SlicePackets, camera: CameraRecord) -> bool:
    """Whether torchcodec gives a slice's frames as they are, the right way up."""
    return seeks_right(packets, camera) and (packets.tables.quarter_turns == 0 or turns_pictures())


def _picture_maker(
    packets: SlicePackets, depth: DepthScale | None
) -> Callable[[av.VideoFrame], Picture]:
    if depth is not None:
        return partial(depth_pixels, scale=depth)
    return partial(picture_of, quarter_turns=packets.tables.quarter_turns)


class Moved:
    """A decoder whose pictures go to a GPU."""

    def __init__(self, decoder: PacketDecoder, device: str) -> None:
        self._decoder, self._device = decoder, device

    @property
    def last_frame(self) -> int | None:
        """The frame that the decoder goes on from; None: it begins at a keyframe."""
        return self._decoder.last_frame

    @property
    def num_decoded(self) -> int:
        """Frames decoded so far."""
        return self._decoder.num_decoded

    @property
    def held_bytes(self) -> int:
        """About how many bytes the decoder holds between two visits of its slice; 0: it is not
        open.
        """
        return self._decoder.held_bytes

    def release(self) -> None:
        """Close the decoder, if it is open; the next frame begins at a keyframe."""
        self._decoder.release()

    def frames(self, indices: Sequence[int]) -> Iterator[Picture]:
        """Yield frames by ascending index, as tensors (H, W, C) on the GPU."""
        for picture in self._decoder.frames(indices):
            yield torch.as_tensor(with_pixels(picture), device=self._device)


def decode_frames(
    decoder: FrameDecoder,
    camera: CameraRecord,
    indices: Sequence[int],
    settings: PictureSettings,
    where: str,
) -> Iterator[Picture]:
    """Yield pictures (H, W, C) by ascending index, each to be used before the next. Raises
    FormatError naming `where`.
    """
    size = (camera.height, camera.width)
    settings.kept.take(decoder)
    try:
        for picture in decoder.frames(indices):
            found = picture.shape[:2]
            if found not in (size, size[::-1]):  # a display matrix turns
                raise ValueError(f"frames of {tuple(found)} pixels where its record says {size}")
            yield picture if settings.image_size is None else resized(picture, settings.image_size)
    except FAILURES as error:
        raise _unreadable(where, error) from error
    finally:
        settings.kept.give_back(decoder)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Make a FormatError that names `where` of what decoders raise."""
    try:
        yield
    except FAILURES as error:
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: BaseException) -> FormatError:
    return FormatError(f"{where}: cannot be decoded: {error}")

"""Decoding frames of an episode's slice: one interface, three decoders behind it.

Packets straight from memory (by_packets.py) where the CPU decodes; torchcodec for GPUs, and for what the first does
not convert; PyAV for depth, where torchcodec cannot be loaded, and for the rest of a slice that another one fails on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import av

from roboshard.loader.decoding.by_packets import packet_decoder
from roboshard.loader.decoding.by_pyav import PyAVDecoder
from roboshard.loader.decoding.by_torchcodec import TorchcodecDecoder, torchcodec
from roboshard.loader.decoding.depth import depth_pixels
from roboshard.loader.decoding.pictures import Picture, resized
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.shards.errors import FormatError
from roboshard.shards.features import DepthScale
from roboshard.shards.schema import CameraRecord

FAILURES = (RuntimeError, ValueError, IndexError, av.FFmpegError)
"""What decoders raise."""


class FrameDecoder(Protocol):
    """Random access to the frames of one slice. Used by one thread at a time."""

    @property
    def last_frame(self) -> int | None:
        """The frame that it goes on from; None: it begins at a keyframe."""

    @property
    def num_decoded(self) -> int:
        """Frames decoded so far."""

    def frames(self, indices: Sequence[int]) -> Iterator[Picture]:
        """Frames by ascending index: (H, W, 3) uint8; of depth (H, W, 1) float32 in millimetres.

        Each is to be used before the next one is asked for.
        """


def open_decoder(
    data: memoryview,
    camera: CameraRecord,
    settings: PictureSettings,
    where: str,
    depth: DepthScale | None = None,
) -> FrameDecoder:
    """A decoder for one slice, of depth with this scale.

    Raises FormatError for a file that cannot be decoded; `where` names it.
    """
    with _naming(where):
        if depth is not None:  # the others give 8-bit RGB
            return PyAVDecoder(data, camera, settings, partial(depth_pixels, scale=depth))
        decoder: FrameDecoder | None = packet_decoder(data, camera, settings)
        if decoder is None and torchcodec() is not None:
            decoder = TorchcodecDecoder(data, camera, settings)
        by_pyav = partial(PyAVDecoder, data, camera, settings)
        return by_pyav() if decoder is None else ReplacedOnFailure(decoder, by_pyav)


class ReplacedOnFailure:
    """A decoder that gives way to another one for good at the first frame that it cannot give."""

    def __init__(self, decoder: FrameDecoder, replacement: Callable[[], FrameDecoder]) -> None:
        """`replacement` opens the other one."""
        self._decoder = decoder
        self._replacement: Callable[[], FrameDecoder] | None = replacement
        self._decoded_before = 0

    @property
    def last_frame(self) -> int | None:
        """Of the one that serves now."""
        return self._decoder.last_frame

    @property
    def num_decoded(self) -> int:
        """Of both."""
        return self._decoded_before + self._decoder.num_decoded

    def frames(self, indices: Sequence[int]) -> Iterator[Picture]:
        """Frames by ascending index. Raises what the replacement does."""
        given = 0
        if self._replacement is not None:
            try:
                for picture in self._decoder.frames(indices):
                    yield picture
                    given += 1
            except FAILURES:
                self._decoded_before = self._decoder.num_decoded
                self._decoder, self._replacement = self._replacement(), None
            else:
                return
        yield from self._decoder.frames(indices[given:])


def decode_frames(
    decoder: FrameDecoder,
    camera: CameraRecord,
    indices: Sequence[int],
    settings: PictureSettings,
    where: str,
) -> Iterator[Picture]:
    """Pictures (H, W, C) by ascending index, each to be used before the next. Raises FormatError naming `where`."""
    size = (camera.height, camera.width)
    allowed = {size, size[::-1]}  # a display matrix turns
    with _naming(where):
        for picture in decoder.frames(indices):
            if picture.shape[:2] not in allowed:
                raise ValueError(
                    f"frames of {tuple(picture.shape[:2])} pixels where its record says {size}"
                )
            yield resized(picture, settings.image_size)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """What decoders raise becomes a FormatError that says where."""
    try:
        yield
    except FAILURES as error:
        raise FormatError(f"{where}: cannot be decoded: {error}") from error

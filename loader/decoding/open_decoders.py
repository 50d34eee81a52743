"""Decoders that stay open between two visits of their slices, under a budget of bytes."""

import weakref
from collections import OrderedDict
from threading import Lock
from typing import Protocol

from roboshard.shards.schema import CameraRecord

FRAMES_HELD = 12
"""Pictures that an open decoder is counted as: those that others refer to, and those in flight."""


def bytes_held(camera: CameraRecord) -> int:
    """Return about how many bytes the pictures take that a camera's open decoder holds."""
    return FRAMES_HELD * camera.width * camera.height * 3 // 2  # 8 bits, 4:2:0


class Keeps(Protocol):
    """What may hold a decoder open."""

    @property
    def held_bytes(self) -> int:
        """About how many bytes the open decoder holds; 0: none is open."""

    def release(self) -> None:
        """Close the decoder; the next frame begins at a keyframe."""


class KeptDecoders:
    """Which decoders are open and not in use, the one that was used longest ago first. For any
    number of threads.
    """

    def __init__(self, max_bytes: int) -> None:
        """Keep decoders open whose bytes are `max_bytes` in all."""
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._idle: OrderedDict[int, tuple[weakref.ref[Keeps], int]] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """About how many bytes the open decoders hold that are not in use."""
        return self._num_bytes

    def take(self, decoder: Keeps) -> None:
        """Begin to use a decoder: until it is given back, nobody else closes it."""
        with self._lock:
            _, num_bytes = self._idle.pop(id(decoder), (None, 0))
            self._num_bytes -= num_bytes

    def give_back(self, decoder: Keeps) -> None:
        """End a use of a decoder; others may have to be closed to make room for it."""
        num_bytes = decoder.held_bytes
        if not num_bytes:
            return
        with self._lock:
            self._idle[id(decoder)] = (weakref.ref(decoder), num_bytes)
            self._num_bytes += num_bytes
            while self._num_bytes > self._max_bytes:
                _, (found, its_bytes) = self._idle.popitem(last=False)
                self._num_bytes -= its_bytes
                oldest = found()  # None: its episode has gone
                if oldest is not None:
                    oldest.release()

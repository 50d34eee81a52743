"""Memory for the pictures of a batch: handed out as tensors, and used again when nobody holds them
any more.

Fresh memory costs a page fault every 4 KiB, which together take about as long as decoding the
pictures.
"""

import math
import mmap
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.loader.order.plan import Share

TRIMMED_EVERY = 512
"""Loans after which buffers are given up that none of those loans needed."""
FITS = 2
"""A buffer serves requests that fill at least one part in so many of it: the last batch of an epoch
is smaller.
"""

Buffer = NDArray[np.uint8]
Own = TypeVar("Own", bound="OwnBuffers")


class Where(NamedTuple):
    """Pictures of a step that several workers make together."""

    share: Share
    key: str
    is_transformed: bool = False
    """Whether they are what the user's transform made of the key's pictures."""


class Lender(Protocol):
    """What lends memory."""

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a contiguous tensor with anything in it; its memory is the caller's until the last
        view of it is gone.
        """


class Buffers(Lender, Protocol):
    """Where the memory of batches comes from."""

    def of(self, where: Where) -> Lender:
        """Return what lends the tensor that others put their part of the same batch into."""

    def may_begin(self, share: Share, waits: bool) -> bool:
        """Whether there is memory for a step that several workers make together; if `waits`, not
        before there is.
        """


class OwnBuffers:
    """Buffers of a process that makes all of each step that it makes: nobody else has a say."""

    def of(self: Own, where: Where) -> Own:  # noqa: ARG002 - wherever it is
        """Return these buffers."""
        return self

    def may_begin(self, share: Share, waits: bool) -> bool:  # noqa: ARG002 - it is free
        """Return True."""
        return True


class ReusedBuffers(OwnBuffers):
    """Memory of this process, used again when nobody holds a tensor over it any more."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._free: list[Buffer] = []  # the least recently used first
        self._loans = 0
        self._spare = 0  # free buffers that have not been needed since the last trim
        self._lent: dict[int, tuple[weakref.ref[Any], Buffer]] = {}
        """Id of the reference to a lease -> that reference, and the buffer that is lent."""
        self._ended: deque[weakref.ref[Any]] = deque()
        """References to leases that are gone. They come in any thread at any point, and without a
        function in Python: in the middle of one an interrupt would be raised, and dropped.
        """

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor with anything in it, over a free buffer that fits or fresh memory."""
        num_bytes = max(1, size_in_bytes(shape, dtype))
        with self._lock:
            buffer = self._take(num_bytes)
        buffer = _fresh(num_bytes) if buffer is None else buffer
        lease, tensor = lease_of(buffer, shape, dtype)
        reference = weakref.ref(lease, self._ended.append)
        self._lent[id(reference)] = reference, buffer
        return tensor

    def _take(self, num_bytes: int) -> Buffer | None:
        """Return the smallest free buffer that fits, which is taken; None: there is none."""
        while self._ended:
            _, buffer = self._lent.pop(id(self._ended.popleft()))
            self._free.append(buffer)
        fitting = [
            i for i, free in enumerate(self._free) if num_bytes <= free.nbytes <= FITS * num_bytes
        ]
        place = min(reversed(fitting), key=lambda i: self._free[i].nbytes, default=None)
        found = None if place is None else self._free.pop(place)
        self._spare = min(self._spare, len(self._free))
        self._loans += 1
        if self._loans % TRIMMED_EVERY == 0:
            del self._free[: self._spare]
            self._spare = len(self._free)
        return found


class PinnedBuffers(OwnBuffers):
    """Page-locked memory, from which copies to a GPU run beside the program.

    torch keeps and reuses such memory by itself, and waits for copies out of it that are still
    under way.
    """

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor with anything in it, in page-locked memory."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


class DeviceBuffers(OwnBuffers):
    """Memory of a GPU, which torch keeps and reuses by itself."""

    def __init__(self, device: str) -> None:
        self._device = device

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor with anything in it, in the memory of the GPU."""
        return torch.empty(tuple(shape), dtype=dtype, device=self._device)


def _fresh(num_bytes: int) -> Buffer:
    """Return memory straight from the system: in the heap, its comings and goings would leave gaps
    that stay.
    """
    memory = mmap.mmap(-1, max(1, num_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)


def size_in_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Return how many bytes a tensor of this shape and dtype takes."""
    return math.prod(shape) * dtype.itemsize


def lease_of(buffer: Buffer, shape: Sequence[int], dtype: torch.dtype) -> tuple[Any, torch.Tensor]:
    """Return (lease, tensor) over the beginning of `buffer`: the lease lives until the tensor's
    last view is gone.

    The storage of a tensor made by torch.from_numpy holds the array it was made from.
    """
    num_bytes = size_in_bytes(shape, dtype)
    lease = buffer[: max(1, num_bytes)]
    return lease, torch.from_numpy(lease)[:num_bytes].view(dtype).view(tuple(shape))

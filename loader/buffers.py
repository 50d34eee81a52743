"""Memory for the pictures of a batch: handed out as tensors, and used again when nobody holds them any more.

Fresh memory costs a page fault every 4 KiB, which together take about as long as decoding the pictures.
"""

import weakref
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

KEPT = 16
"""Free buffers that are kept; a batch takes one per camera."""
FITS = 2
"""A buffer serves requests down to this fraction of its size: the last batch of an epoch is smaller."""

Buffer = NDArray[np.uint8]


class Buffers(Protocol):
    """Where the memory of batches comes from."""

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor with anything in it; its memory is the caller's until the last view of it is gone."""


class ReusedBuffers:
    """Memory of this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._free: list[Buffer] = []
        self._returned: deque[Buffer] = deque()  # filled by finalizers, which may run in any thread at any point

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """See `Buffers`."""
        num_bytes = max(1, size_in_bytes(shape, dtype))
        with self._lock:
            buffer = self._take(num_bytes)
        lease, tensor = lease_of(np.empty(num_bytes, dtype=np.uint8) if buffer is None else buffer, shape, dtype)
        weakref.finalize(lease, self._returned.append, lease.base).atexit = False
        return tensor

    def _take(self, num_bytes: int) -> Buffer | None:
        """The smallest free buffer that fits."""
        while self._returned:
            self._free.append(self._returned.popleft())
        fitting = [buffer for buffer in self._free if num_bytes <= buffer.nbytes <= FITS * num_bytes]
        found = min(fitting, key=lambda buffer: buffer.nbytes, default=None)
        self._free = [buffer for buffer in self._free if buffer is not found][-KEPT:]
        return found


class PinnedBuffers:
    """Page-locked memory, from which copies to a GPU run beside the program.

    torch keeps and reuses such memory by itself, and waits for copies out of it that are still under way.
    """

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """See `Buffers`."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


class DeviceBuffers:
    """Memory of a GPU, which torch keeps and reuses by itself."""

    def __init__(self, device: str) -> None:
        self._device = device

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """See `Buffers`."""
        return torch.empty(tuple(shape), dtype=dtype, device=self._device)


def size_in_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes of a tensor."""
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def lease_of(buffer: Buffer, shape: Sequence[int], dtype: torch.dtype) -> tuple[Any, torch.Tensor]:
    """(lease, tensor) over the beginning of `buffer`: the lease lives until the tensor's last view is gone.

    The storage of a tensor made by torch.from_numpy holds the array it was made from.
    """
    num_bytes = size_in_bytes(shape, dtype)
    lease = buffer[: max(1, num_bytes)]
    return lease, torch.from_numpy(lease)[:num_bytes].view(dtype).view(tuple(shape))

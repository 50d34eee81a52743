"""Batches from a worker process to its parent, through shared memory that is mapped once and used
again and again.

    worker    lends a segment to the decoder, sends its number, and lends it again when its flag
              says that it is free
    parent    maps a segment when it first hears of it, and clears its flag when the user has let
              go of it

A segment has no name in the file system: when both processes are gone, however they ended, so is
the memory.
"""

import mmap
import os
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.reduction import DupFd
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch

from roboshard.common.memory_files import anonymous_file
from roboshard.loader.batches.buffers import (
    FITS,
    Buffer,
    OwnBuffers,
    lease_of,
    size_in_bytes,
)

BATCHES_HELD = 3
"""Batches of one worker that the user may hold in its segments; further ones are copied out of
them.
"""
SMALL_BYTES = 1 << 16
"""Tensors up to this size travel in the message."""
POLL_S = 0.001


@dataclass(frozen=True, kw_only=True)
class SegmentPlan:
    """What both sides know of each other; picklable while a process is started."""

    token: str
    """Name of the parent's side, by which messages find it."""
    segments_per_worker: int
    batches_held: int
    """Batches of one worker that may be in its segments as they have come: those that the user may
    hold there, and those of their message that wait for him.
    """
    flags: Any
    """Shared bytes, one per worker and segment: 1 while its memory is somebody's."""

    @classmethod
    def make(
        cls,
        *,
        start_method: str,
        num_workers: int,
        num_keys: int,
        batches_ahead: int,
        steps_of_message: int = 1,
    ) -> "SegmentPlan":
        """Plan for batches of `num_keys` tensors, `batches_ahead` of which a worker may have made
        and not handed over; they come `steps_of_message` together.
        """
        held = BATCHES_HELD + steps_of_message - 1
        segments = num_keys * (batches_ahead + held + 2)  # and one being received, one to spare
        return cls(
            token=uuid.uuid4().hex,
            segments_per_worker=segments,
            batches_held=held,
            flags=get_context(start_method).RawArray("B", num_workers * segments),
        )


class _Place(NamedTuple):
    """Where a tensor lies in shared memory."""

    segment: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


class _Loan:
    """One use of a segment by the worker."""

    sent = False


class _Segment:
    """Shared memory of the worker."""

    def __init__(self, num_bytes: int) -> None:
        with anonymous_file(num_bytes) as file:
            self.memory: Buffer = np.frombuffer(mmap.mmap(file.fileno(), num_bytes), dtype=np.uint8)
            self.handle: Any = DupFd(file.fileno())  # given to the parent once
        self.loan = _Loan()


class SegmentSender(OwnBuffers):
    """The worker's side: `Buffers` in shared memory, and messages about them."""

    def __init__(self, plan: SegmentPlan, worker: int) -> None:
        """Allocate nothing before it is needed."""
        self._plan = plan
        self._worker = worker
        self._process = os.getpid()
        self._segments: list[_Segment] = []
        self._lock = Lock()

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor with anything in it, over a segment that is free.

        Waits for a free segment, which comes: the parent copies what its user holds on to.
        """
        while (tensor := self._lend_if_free(shape, dtype)) is None:
            time.sleep(POLL_S)
        return tensor

    def pack(self, batch: Mapping[str, Any]) -> "Message":
        """Return a message that holds the batch: large tensors by their place in shared memory."""
        values = {
            key: self._packed(value) if _fits(value) else value for key, value in batch.items()
        }
        used = {
            value.segment: self._segments[value.segment]
            for value in values.values()
            if isinstance(value, _Place)
        }
        handles = {}
        for number, segment in used.items():
            if segment.handle is not None:
                handles[number] = segment.handle, segment.memory.nbytes
                segment.handle = None
        return Message(self._plan.token, self._worker, values, handles)

    def _packed(self, tensor: torch.Tensor) -> Any:
        if tensor.nbytes <= SMALL_BYTES:
            return tensor.numpy()
        address = tensor.untyped_storage().data_ptr()
        for number, segment in enumerate(self._segments):
            if segment.memory.ctypes.data == address:
                segment.loan.sent = (
                    True  # from here on the parent frees it, whenever the tensor goes
                )
                strides = tuple(tensor.stride())
                return _Place(
                    number, tensor.dtype, tuple(tensor.shape), strides, int(tensor.storage_offset())
                )
        moved = self._lend_if_free(tensor.shape, tensor.dtype)
        if moved is None:
            return tensor.numpy()
        moved.numpy()[...] = tensor.numpy()
        return self._packed(moved)

    def _lend_if_free(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        with self._lock:
            number = self._free_segment(max(1, size_in_bytes(shape, dtype)))
            if number is None:
                return None
            self._plan.flags[self._flag(number)] = 1
        loan = self._segments[number].loan = _Loan()
        lease, tensor = lease_of(self._segments[number].memory, shape, dtype)
        weakref.finalize(lease, self._dropped, number, loan).atexit = False
        return tensor

    def _free_segment(self, num_bytes: int) -> int | None:
        """Return the number of a free segment that fits, else of a new one; None: there can be
        none.
        """
        free = [i for i in range(len(self._segments)) if not self._plan.flags[self._flag(i)]]
        fitting = [
            i for i in free if num_bytes <= self._segments[i].memory.nbytes <= FITS * num_bytes
        ]
        if fitting:
            return min(fitting, key=lambda i: self._segments[i].memory.nbytes)
        if len(self._segments) < self._plan.segments_per_worker:
            self._segments.append(_Segment(num_bytes))
            return len(self._segments) - 1
        if free:  # all of other sizes
            self._segments[free[0]] = _Segment(num_bytes)
            return free[0]
        return None

    def _flag(self, number: int) -> int:
        return self._worker * self._plan.segments_per_worker + number

    def _dropped(self, number: int, loan: _Loan) -> None:
        if not loan.sent:
            _free(self._plan.flags, self._flag(number), self._process)


class SegmentReceiver:
    """The parent's side: it makes batches of the messages of its workers."""

    def __init__(self, plan: SegmentPlan) -> None:
        """Unpack messages of `plan` here, as long as this exists."""
        self._plan = plan
        self._mapped: dict[tuple[int, int], Buffer] = {}
        self._loans: dict[
            int, list[Any]
        ] = {}  # finalizers of the leases that each worker's segments are under
        _RECEIVERS[plan.token] = self

    def unpack(self, message: "Message") -> dict[str, Any]:
        """Return the batch. What the user holds of it keeps its segments from being used again."""
        for number, (handle, num_bytes) in message.handles.items():
            self._mapped[message.worker, number] = _map(handle.detach(), num_bytes)
        alive = self._loans[message.worker] = [
            loan for loan in self._loans.get(message.worker, []) if loan.alive
        ]
        segments = {value.segment for value in message.values.values() if isinstance(value, _Place)}
        copied = len(alive) >= self._plan.batches_held * len(segments)
        # One lease each: a segment is free after the last of the keys that look at it.
        leased = {segment: self._lease(message.worker, segment, copied) for segment in segments}
        return {key: _unpacked(value, leased, copied) for key, value in message.values.items()}

    def _lease(self, worker: int, segment: int, copied: bool) -> torch.Tensor:
        """Return the bytes of a segment, which is free when their last view is gone."""
        memory = self._mapped[worker, segment]
        lease, whole = lease_of(memory, (memory.nbytes,), torch.uint8)
        flag = worker * self._plan.segments_per_worker + segment
        loan = weakref.finalize(lease, _free, self._plan.flags, flag, os.getpid())
        loan.atexit = False
        if not copied:
            self._loans[worker].append(loan)
        return whole


def _free(flags: Any, flag: int, process: int) -> None:
    if os.getpid() == process:  # a fork lets go of its copy, and its parent may hold the batch
        flags[flag] = 0


def _unpacked(value: Any, leased: Mapping[int, torch.Tensor], copied: bool) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if not isinstance(value, _Place):
        return value
    whole, itemsize = leased[value.segment], value.dtype.itemsize
    items = whole[: len(whole) // itemsize * itemsize].view(value.dtype)
    tensor = items.as_strided(value.shape, value.strides, value.offset)
    return torch.from_numpy(np.array(tensor.numpy())) if copied else tensor


_RECEIVERS: "weakref.WeakValueDictionary[str, SegmentReceiver]" = weakref.WeakValueDictionary()


class Message:
    """A packed batch; it arrives as the batch itself."""

    def __init__(
        self,
        token: str,
        worker: int,
        values: Mapping[str, Any],
        handles: Mapping[int, tuple[Any, int]],
    ) -> None:
        self.token = token
        self.worker = worker
        self.values = values
        self.handles = handles

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.token, self.worker, self.values, self.handles)


def _received(*parts: Any) -> dict[str, Any]:
    message = Message(*parts)
    receiver = _RECEIVERS.get(message.token)
    return {} if receiver is None else receiver.unpack(message)  # closed since: nobody waits for it


def _fits(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor) and value.is_cpu and value.dtype != torch.bfloat16
    )  # which NumPy lacks


def _map(descriptor: int, num_bytes: int) -> Buffer:
    try:
        return np.frombuffer(mmap.mmap(descriptor, num_bytes), dtype=np.uint8)
    finally:
        os.close(descriptor)

"""Memory of batches that several workers make together: each puts the pictures of its own samples
where they belong.

    slots     the memory of one batch each, of which a key has one region; in one file that has no
              name, is as large as it would ever have to be, and takes memory where it is used
    parent    grants slots to the coming steps, which is a word in memory that all map, and grants
              one again when the user has let go of its batch
    workers   begin a step once they see its grant

After an iteration that ended early workers may still be at steps of it, each until it hears of the
next one. So grants are of a generation, and no worker uses those of a new one before all have left
the one before.
"""

import itertools
import mmap
import os
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch

from roboshard.common.errors import OptionError, RoboshardError
from roboshard.common.memory_files import SharedMemoryFile, anonymous_file
from roboshard.loader.batches.buffers import Buffer, Where, lease_of, size_in_bytes
from roboshard.loader.look_ahead.decode_ahead import (
    LOOK_AHEAD_BYTES,
    LOOK_AHEAD_STEPS,
    look_ahead_steps,
)
from roboshard.loader.order.plan import Share
from roboshard.loader.running.segment_pool import BATCHES_HELD, POLL_S, SegmentSender

REGION_BYTES = 1 << 34
"""Bytes that a key of a batch may take. They are addresses, and no memory before they are used."""

EpochStep = tuple[int, int]
"""An epoch and a step of it."""


def transformed(key: str) -> str:
    """Return the name of the region for what the user's transform made of a key's pictures."""
    return f"transformed {key}"


class Region(NamedTuple):
    """Pictures of a key, of all of a batch, in its slot: with the channels last in memory."""

    number: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    """As they lie in memory: (n, H, W, C) or (n, T, H, W, C)."""


class AbandonedError(RoboshardError):
    """A worker waited for a step that nobody wants any more."""


@dataclass(frozen=True, kw_only=True)
class SharedBatchesPlan:
    """What all sides know of each other; picklable while a process is started."""

    file: SharedMemoryFile
    keys: tuple[str, ...]
    """Keys that have a region."""
    generation: Any
    """A shared word: the generation that is wanted."""
    reached: Any
    """Shared words, one per worker: the generation that it is at; it has left those before."""
    waiting: int
    """Steps granted slots beside those that are decoded at once: made by some members, and not by
    all, or on their way in a message.
    """
    granted: Any
    """Shared words, one per slot: which step may use it (`word_of`); 0: none may."""

    @classmethod
    def make(
        cls, *, start_method: str, num_workers: int, keys: Sequence[str], waiting: int
    ) -> "SharedBatchesPlan":
        """Reserve addresses for batches with pictures of these keys; `waiting` as
        `order.teams.steps_on_their_way` says.

        Raises:
            OptionError: the process may not have files as large as that, though they are in memory,
                and empty.
        """
        context = get_context(start_method)
        num_slots = LOOK_AHEAD_STEPS[1] + waiting + BATCHES_HELD + 1
        keys = (*keys, *map(transformed, keys))
        with anonymous_file() as file:
            try:
                file.truncate(num_slots * len(keys) * REGION_BYTES)
            except OSError as error:
                raise OptionError(
                    "num_workers: worker processes share a file in memory that is empty at first, "
                    f"and large enough for all batches: {error}; raise the limit of a file's size "
                    "(`ulimit -f unlimited`)"
                ) from error
            return cls(
                file=SharedMemoryFile(file),
                keys=keys,
                generation=context.RawArray("q", 1),
                reached=context.RawArray("q", num_workers),
                granted=context.RawArray("q", num_slots),
                waiting=waiting,
            )


def word_of(generation: int, epoch: int, step: int) -> int:
    """Return the word by which a step is known: one, so that it is written and read as a whole."""
    return (generation % (1 << 15) << 48) + (epoch % (1 << 16) << 32) + (1 + step) % (1 << 32)


class _Regions:
    """The regions that one process has mapped."""

    def __init__(self, plan: SharedBatchesPlan) -> None:
        self._plan = plan
        self._mapped: dict[tuple[int, int], Buffer] = {}

    def memory(self, slot: int, number: int, num_bytes: int) -> Buffer:
        """Return the memory of a region, of so many bytes at least.

        Raises:
            OSError: there is no memory for it.
        """
        found = self._mapped.get((slot, number))
        if found is None or found.nbytes < num_bytes:
            found = self._mapped[slot, number] = self._map(slot, number, max(1, num_bytes))
        return found

    def begins_at(self, slot: int, number: int) -> int | None:
        """Return the address of a region; None: it is not mapped."""
        found = self._mapped.get((slot, number))
        return None if found is None else found.ctypes.data

    def _map(self, slot: int, number: int, num_bytes: int) -> Buffer:
        if num_bytes > REGION_BYTES:
            key = self._plan.keys[number]
            raise OptionError(
                f"batch_size: pictures of {key!r} take {num_bytes} bytes in one batch, and workers "
                f"can make {REGION_BYTES} together: take a smaller one, or num_workers=0"
            )
        file = self._plan.file.descriptor
        start = (slot * len(self._plan.keys) + number) * REGION_BYTES
        size = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if hasattr(os, "posix_fallocate"):  # an error here, and no crash at the first use
            os.posix_fallocate(file, start, size)
        return np.frombuffer(mmap.mmap(file, size, offset=start), dtype=np.uint8)


class MemberBuffers:
    """A worker's side: `Buffers` of batches that it makes together with others, and of its own."""

    def __init__(self, plan: SharedBatchesPlan, own: SegmentSender, worker: int) -> None:
        """Lend from `own` what is no others' business."""
        self._plan = plan
        self._own = own
        self._worker = worker
        self._parent = os.getppid()
        self._regions = _Regions(plan)
        self._generation = 0

    def reach(self, generation: int) -> None:
        """Begin a generation. Nothing of this worker may be at steps of those before it."""
        self._generation = self._plan.reached[self._worker] = generation

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor with anything in it, of this worker alone."""
        return self._own.lend(shape, dtype)

    def of(self, where: Where) -> "_Together":
        """Return what lends the tensor of a step that all members of its team are lent."""
        return _Together(self, where)

    def lend_together(self, shape: Sequence[int], dtype: torch.dtype, where: Where) -> torch.Tensor:
        """Return the tensor of a step that all members of its team are lent.

        Raises:
            AbandonedError: the step has no memory (any more).
        """
        slot = self._slot(where.share)
        if slot is None:
            raise AbandonedError(f"step {where.share.step} has no memory")
        key = transformed(where.key) if where.is_transformed else where.key
        number = self._plan.keys.index(key)
        memory = self._regions.memory(slot, number, size_in_bytes(shape, dtype))
        return lease_of(memory, shape, dtype)[1]

    def may_begin(self, share: Share, waits: bool) -> bool:
        """Whether a slot is granted to a step; if it `waits`, not before one is.

        Raises:
            AbandonedError: nobody wants the step any more.
        """
        while self._slot(share) is None:
            if not waits:
                return False
            if self._plan.generation[0] != self._generation or os.getppid() != self._parent:
                raise AbandonedError(f"step {share.step} is not wanted any more")
            time.sleep(POLL_S)
        return True

    def region(self, key: str, pictures: torch.Tensor, share: Share) -> Region | None:
        """Return where pictures of a step, (n, ..., C, H, W), lie for all workers; None:
        elsewhere.
        """
        slot = self._slot(share)
        if slot is None:
            return None
        address = pictures.untyped_storage().data_ptr()
        for number, name in enumerate(self._plan.keys):
            is_it = name in (key, transformed(key))
            if is_it and self._regions.begins_at(slot, number) == address:
                return Region(number, pictures.dtype, tuple(pictures.movedim(-3, -1).shape))
        return None

    def _slot(self, share: Share) -> int | None:
        """Return the slot that is granted to a step, when all workers have left the generations
        before.
        """
        word = word_of(self._generation, share.epoch, share.step)
        granted = list(self._plan.granted)
        if word not in granted or min(self._plan.reached) < self._generation:
            return None
        return granted.index(word)


class _Together(NamedTuple):
    """Lends one tensor of a step."""

    buffers: MemberBuffers
    where: Where

    def lend(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return it."""
        return self.buffers.lend_together(shape, dtype, self.where)


class SharedBatches:
    """The parent's side: it grants slots, and knows when the user has let go of their batches."""

    def __init__(self, plan: SharedBatchesPlan) -> None:
        """Grant nothing yet."""
        self._plan = plan
        self._regions = _Regions(plan)
        self._coming: Iterator[EpochStep] = iter(())
        self._granted: deque[tuple[EpochStep, int]] = deque()
        """Steps with their slots, in order."""
        self._held: dict[int, list[weakref.ref[Any]]] = {}
        """Slot -> references to what the user has of it; that of the last batch comes last."""
        self._slot = 0
        self._num_bytes = LOOK_AHEAD_BYTES
        """Bytes of the last batch's pictures: while batches are large, fewer steps have slots."""

    def begin(self, coming: Iterator[EpochStep]) -> int:
        """Want these steps from now on, and no others; return the generation of their grants."""
        self.end()
        self._coming = coming
        return int(self._plan.generation[0])

    def end(self) -> None:
        """Want none of the steps any more that were granted a slot."""
        self._plan.generation[0] += 1
        self._plan.granted[:] = [0] * len(self._plan.granted)
        self._granted.clear()
        self._coming = iter(())

    def grant(self) -> None:
        """Grant slots to coming steps: first those that were used last, for they have memory."""
        used = {slot for _, slot in self._granted}
        slots = dict.fromkeys((*reversed(self._held), *range(len(self._plan.granted))))
        free = (slot for slot in slots if slot not in used and not self._is_held(slot))
        generation = self._plan.generation[0]
        most = look_ahead_steps(self._num_bytes) + self._plan.waiting
        for slot in itertools.islice(free, max(0, most - len(self._granted))):
            place = next(self._coming, None)
            if place is None:
                return
            self._granted.append((place, slot))
            self._plan.granted[slot] = word_of(generation, *place)

    def take(self, place: EpochStep) -> None:
        """Take a step: its pictures can be asked for now.

        Raises:
            RuntimeError: another one was to come next.
        """
        granted, self._slot = self._granted.popleft()
        if granted != place:
            raise RuntimeError(f"(epoch, step) {place} came, where {granted} has memory")
        self._plan.granted[self._slot] = 0
        self._held.pop(self._slot, None)
        self._held[self._slot] = []
        self._num_bytes = 0

    def pictures(self, region: Region) -> torch.Tensor:
        """Return the pictures of a key of the step that was taken, (n, ..., C, H, W).

        What the user holds of them keeps their slot; for one who holds many batches they are
        copied.
        """
        num_bytes = size_in_bytes(region.shape, region.dtype)
        memory = self._regions.memory(self._slot, region.number, num_bytes)
        lease, tensor = lease_of(memory, region.shape, region.dtype)
        self._num_bytes += num_bytes
        others = sum(self._is_held(slot) for slot in self._held if slot != self._slot)
        if others >= BATCHES_HELD:
            tensor = torch.from_numpy(np.array(tensor.numpy()))
        else:
            self._held[self._slot].append(weakref.ref(lease))
        return tensor.movedim(-1, -3)

    def _is_held(self, slot: int) -> bool:
        return any(reference() is not None for reference in self._held.get(slot, ()))

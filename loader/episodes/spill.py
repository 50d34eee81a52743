"""Images of rows in a file without a name, where memory would be full of them: read back when they
are decoded.
"""

import os
import tempfile
import weakref
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from threading import Lock
from typing import overload

from roboshard.storage.stored import read_up_to

SMALL_BYTES = 1 << 16
"""Bytes of an episode's images below which a file is not worth it."""


class SpilledFiles(Sequence[bytes | None]):
    """The files of an episode's images, of which only their places are in memory.

    For any number of threads.
    """

    def __init__(self, descriptor: int, ends: Sequence[int], is_there: Sequence[bool]) -> None:
        """Say where the files lie: end to end, the first one from `ends[0]` to `ends[1]`."""
        self._descriptor, self._ends, self._is_there = descriptor, ends, is_there

    def __len__(self) -> int:
        """Return how many rows there are, each with a file or None."""
        return len(self._is_there)

    @overload
    def __getitem__(self, row: int) -> bytes | None: ...

    @overload
    def __getitem__(self, row: slice) -> list[bytes | None]: ...

    def __getitem__(self, row: int | slice) -> bytes | list[bytes | None] | None:
        """Return the file of a row; None: it has none."""
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not self._is_there[row]:
            return None
        begin, end = self._ends[row], self._ends[row + 1]
        data = read_up_to(self._descriptor, begin, end - begin)
        if len(data) != end - begin:
            raise OSError("a temporary file of this process is shorter than it was")
        return data


class SpillStore:
    """Where a process keeps images of rows.

    The file has no name: it is gone with the process, however that ends.
    """

    def __init__(self) -> None:
        """Keep nothing yet: no file is made before the first images are large enough."""
        self._lock = Lock()
        self._descriptor: int | None = None
        self._free: list[tuple[int, int]] = []
        """(offset, length) of what may be written over, by offset; no two of them touch."""
        self._released: deque[tuple[int, int]] = deque()
        """(offset, length) of what was released and is not in `_free` yet, in any order."""
        self._end = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of the store's file."""
        return self._end

    def keep(self, files: Sequence[bytes | None]) -> Sequence[bytes | None]:
        """Return the same files; where they are large, they are in memory no more."""
        length = sum(len(file) for file in files if file is not None)
        if length < SMALL_BYTES:
            return files
        offset = self._take(length)
        try:
            descriptor = self._write(offset, b"".join(file for file in files if file is not None))
        except OSError:  # the disk is full: they stay in memory
            self._release(offset, length)
            return files
        sizes = [0 if file is None else len(file) for file in files]
        ends = list(accumulate(sizes, initial=offset))
        spilled = SpilledFiles(descriptor, ends, [file is not None for file in files])
        # The store lives as long as what it keeps, since this holds it.
        weakref.finalize(spilled, self._release, offset, length).atexit = False
        return spilled

    def _write(self, offset: int, data: bytes) -> int:
        with self._lock:
            if self._descriptor is None:
                with tempfile.TemporaryFile(prefix="roboshard-") as file:
                    self._descriptor = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._descriptor)
            descriptor = self._descriptor
        left = memoryview(data)
        while left:
            written = os.pwrite(descriptor, left, offset)
            left, offset = left[written:], offset + written
        return descriptor

    def _take(self, length: int) -> int:
        """Return where so many bytes may be written: the first gap that they fit in, or the end."""
        with self._lock:
            while self._released:
                self._add_gap(*self._released.popleft())
            for place, (offset, free) in enumerate(self._free):
                if free >= length:
                    rest = [(offset + length, free - length)] if free > length else []
                    self._free[place : place + 1] = rest
                    return offset
            self._end += length
            return self._end - length

    def _release(self, offset: int, length: int) -> None:
        """Let a place be written over.

        It may be called wherever the garbage collector runs: no lock is taken.
        """
        self._released.append((offset, length))

    def _add_gap(self, offset: int, length: int) -> None:
        merged: list[tuple[int, int]] = []
        for begin, size in sorted([*self._free, (offset, length)]):
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((begin, size))
        self._free = merged

"""The pictures of one camera in files that any number of processes share.

    pictures-000   the pictures in the order of their rows; most of it may be holes
    marks          of each picture 8 bytes: MAGIC and the CRC32C of row and picture; zeros: it is
                   not there

A mark is written after its picture: so a process that is killed leaves nothing that is believed.
Two processes that write the same picture write the same bytes. Files are written by the kernel's
calls, which say where a disk is full, and read through mappings, which copy twice as fast.
"""

import json
import mmap
import os
import stat
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from roboshard.loader.frame_cache.layout import MARK_BYTES, IntArray, StoreSpec

MAGIC = 0x52534631
MOST_BYTES = 1 << 40
"""Most bytes of one file of pictures: file systems have limits."""
FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW

UNKNOWN, FOUND, GOOD, BAD = 0, 1, 2, 3
"""What a process knows of a picture: nothing, it is marked, it is what it must be, it is
damaged.
"""


class FrameStore:
    """The pictures of one camera. For any number of threads."""

    def __init__(self, folder: Path, spec: StoreSpec, *, is_checked: bool) -> None:
        """Open the files of a store, and make them where they are missing and can be made.

        Args:
            folder: Where stores lie, each in a folder of its own.
            spec: Which one this is.
            is_checked: Whether pictures that are found are held against their checksums.

        Raises:
            OSError: They cannot be opened, or are not what this makes.
        """
        self.spec = spec
        self._dtype = np.dtype(spec.dtype)
        self._rows_a_file = max(1, MOST_BYTES // spec.picture_bytes)
        self._state = np.zeros(spec.num_rows, dtype=np.uint8)
        self._sums = np.zeros(spec.num_rows, dtype=np.uint32)
        self._is_checked = is_checked
        self.is_writable = True
        """Whether pictures can be added."""
        own = folder / spec.name
        with suppress(OSError):
            own.mkdir(exist_ok=True)
            _describe(own, spec)
        marks = own / "marks"
        self._files: list[int] = []
        """Descriptors of the files of pictures."""
        opened: list[int] = []
        weakref.finalize(self, _close, opened)
        self.marks, self.is_writable = _opened(marks, spec.num_rows * MARK_BYTES)
        opened.append(self.marks)
        self._pictures: list[NDArray[Any]] = []
        for number, first in enumerate(range(0, spec.num_rows, self._rows_a_file)):
            rows = min(self._rows_a_file, spec.num_rows - first)
            length = rows * spec.picture_bytes
            file, is_writable = _opened(own / f"pictures-{number:03d}", length)
            opened.append(file)
            self._files.append(file)
            self.is_writable &= is_writable
            memory = mmap.mmap(file, length, prot=mmap.PROT_READ)
            pictures = np.frombuffer(memory, dtype=self._dtype)
            self._pictures.append(pictures.reshape(rows, *spec.shape))

    def has(self, rows: IntArray) -> NDArray[np.bool_]:
        """Return which pictures are there, as far as this process knows: see `look`."""
        state = self._state[rows]
        has: NDArray[np.bool_] = (state == FOUND) | (state == GOOD)
        return has

    def look(self, first: int, stop: int) -> None:
        """Learn which pictures of the rows from `first` to `stop` other processes have written."""
        data = os.pread(self.marks, (stop - first) * MARK_BYTES, first * MARK_BYTES)
        whole = len(data) // MARK_BYTES * MARK_BYTES  # less than all where the file was cut off
        marks = np.frombuffer(data[:whole], dtype="<u4").reshape(-1, 2)
        new = first + np.flatnonzero(marks[:, 1] == MAGIC)
        new = new[self._state[new] == UNKNOWN]
        self._sums[new] = marks[new - first, 0]
        self._state[new] = FOUND if self._is_checked else GOOD

    def good(self, rows: IntArray) -> NDArray[np.bool_]:
        """Return which pictures are there and are what was written, each checked once."""
        self._notice_cuts()
        for row in rows[self._state[rows] == FOUND].tolist():
            if _checksum(self.picture(row), row) == self._sums[row]:
                self._state[row] = GOOD
            else:
                self._drop(row)
        good: NDArray[np.bool_] = self._state[rows] == GOOD
        return good

    def picture(self, row: int) -> NDArray[Any]:
        """Return the picture (H, W, C) of a row, which must be good; not to be written to."""
        number, place = divmod(row, self._rows_a_file)
        picture: NDArray[Any] = self._pictures[number][place]
        return picture

    def copy(self, rows: IntArray, target: NDArray[Any]) -> None:
        """Copy good pictures to an array (n, H, W, C) of their type: one call for all of them."""
        if len(self._pictures) == 1:
            # "clip", since other modes copy what they give once more; the rows are within bounds.
            np.take(self._pictures[0], rows, axis=0, out=target, mode="clip")
            return
        for row, place in zip(rows.tolist(), target, strict=True):
            np.copyto(place, self.picture(row))

    def fits(self, picture: Any) -> bool:
        """Return whether a picture is one of those that the store is for."""
        return tuple(picture.shape) == self.spec.shape and picture.dtype == self._dtype

    def write(self, rows: Sequence[int], pixels: NDArray[Any]) -> int:
        """Keep a picture for rows that all show it, and return how many bytes were written.

        Raises:
            OSError: The disk is full, or the like: nothing more is to be written.
        """
        written = 0
        data = np.ascontiguousarray(pixels).data.cast("B")
        for row in rows:
            if self._state[row] == GOOD:
                continue
            number, place = divmod(row, self._rows_a_file)
            _write(self._files[number], data, place * len(data))
            checksum = _checksum(pixels, row)
            mark = np.array([checksum, MAGIC], dtype="<u4").tobytes()
            _write(self.marks, memoryview(mark), row * MARK_BYTES)
            self._sums[row] = checksum
            self._state[row] = GOOD
            written += len(data)
        return written

    def _notice_cuts(self) -> None:
        """Take pictures for damaged that lie in no file any more: to read a mapping there ends the
        process.

        A file that was cut off is not written to again, which would make it longer: other processes
        could not tell then what it has lost.
        """
        for number, file in enumerate(self._files):
            first = number * self._rows_a_file
            stop = min(first + self._rows_a_file, self.spec.num_rows)
            left = first + os.fstat(file).st_size // self.spec.picture_bytes
            if left < stop:
                self.is_writable = False
                self._state[left:stop] = BAD

    def _drop(self, row: int) -> None:
        """Take the mark from a picture that is damaged; where that fails, this process remembers
        it.
        """
        self._state[row] = BAD
        if self.is_writable:
            with suppress(OSError):
                os.pwrite(self.marks, bytes(MARK_BYTES), row * MARK_BYTES)


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)


def _checksum(pixels: NDArray[Any], row: int) -> int:
    start = crc32c(row.to_bytes(8, "little"))
    return int(crc32c(np.ascontiguousarray(pixels).data.cast("B"), start))


def _write(file: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def _opened(path: Path, length: int) -> tuple[int, bool]:
    """Return a file of a length, and whether it can be written; what is not written of it is
    zeros.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, 0o666)
        is_writable = True
    except OSError:
        file = os.open(path, os.O_RDONLY | FLAGS)
        is_writable = False
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is no regular file")
        if found.st_size < length:  # new, or cut off: what is missing has no valid checksum
            os.ftruncate(file, length)
    except BaseException:
        os.close(file)
        raise
    return file, is_writable


def _describe(folder: Path, spec: StoreSpec) -> None:
    """Say to people what a folder holds."""
    about = folder / "about.json"
    if not about.exists():
        about.write_text(json.dumps(json.loads(spec.about), indent=2) + "\n", encoding="utf-8")

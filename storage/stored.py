"""Bytes that lie in a local file, and files that stay open to read them: a shard, or an entry of
the disk cache.
"""

import errno
import os
import resource
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

Identity = tuple[int, int, int, int]
"""What tells one file from another: device, inode, size, and when it was written (nanoseconds)."""

MIN_OPEN_FILES, MAX_OPEN_FILES = 64, 1024
"""Files that a process keeps open: a cache has one for each episode, and opening it for every frame
would cost a tenth of decoding a small picture.
"""
SHARE_OF_FILES = 4
"""One in so many of the files that the system lets a process open, often 1,024, may stay open;
sockets and pipes are others.
"""


@dataclass(frozen=True, slots=True)
class StoredRange:
    """Some bytes of a local file, which were verified once."""

    path: str
    offset: int
    length: int

    def part(self, begin: int, length: int) -> "StoredRange":
        """Return the range of `length` of these bytes, from `begin` on."""
        return StoredRange(self.path, self.offset + begin, length)


def read_up_to(descriptor: int, offset: int, length: int) -> bytes:
    """Return `length` bytes of an open file from `offset`, fewer only where it ends before.

    One call of the system may bring fewer than there are.
    """
    chunks = [os.pread(descriptor, length, offset)]
    offset, length = offset + len(chunks[0]), length - len(chunks[0])
    while length > 0 and (chunk := os.pread(descriptor, length, offset)):
        chunks.append(chunk)
        offset, length = offset + len(chunk), length - len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class OpenFiles:
    """The files that were read last, open for reading; any number of threads may read at once."""

    def __init__(self, most: int | None = None) -> None:
        """Start with no file open; up to `most` stay open, or None: as many as may."""
        self._most = _allowed_files() if most is None else most
        self._lock = Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._known: dict[str, Identity] = {}
        """Path -> which file it was when it was opened first."""

    def read(self, stored: StoredRange, begin: int, end: int) -> bytes:
        """Return the bytes from `begin` to `end` of a range.

        Raises:
            OSError: The file is not there any more, another one is in its place, or it cannot be
                read.
            EOFError: It is shorter than it was.
        """
        file = self._opened(stored.path)  # held here: another thread may drop it meanwhile
        descriptor = file.descriptor
        length, offset = end - begin, stored.offset + begin
        data = read_up_to(descriptor, offset, length)
        if len(data) < length:
            raise EOFError(f"it ends at offset {offset + len(data)}")
        return data

    def identity(self, path: str) -> Identity:
        """Return which file a path is. Raises OSError as `read` does."""
        return self._opened(path).identity

    def expect(self, path: str, identity: Identity) -> None:
        """Take no other file for the one at `path` than this one, which another process has
        verified.
        """
        with self._lock:
            self._known.setdefault(path, identity)

    def close(self) -> None:
        """Close the files; another read opens its own again."""
        with self._lock:
            self._files.clear()

    def _opened(self, path: str) -> "_File":
        with self._lock:
            file = self._files.get(path)
            if file is not None:
                self._files.move_to_end(path)
                return file
        file = _File(path)
        with self._lock:
            if self._known.setdefault(path, file.identity) != file.identity:
                del self._known[path]
                raise OSError(errno.ESTALE, "another file is in its place", path)
            self._files[path] = file
            while len(self._files) > self._most:
                self._files.popitem(last=False)
        return file


def _allowed_files() -> int:
    """Return how many files this process may keep open to read from them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_OPEN_FILES
    return min(MAX_OPEN_FILES, max(MIN_OPEN_FILES, soft // SHARE_OF_FILES))


class _File:
    """An open file, closed when nobody reads it any more."""

    def __init__(self, path: str) -> None:
        """Open the file. A FIFO does not make this wait."""
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        found = os.fstat(self.descriptor)
        self.identity: Identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        """Close the file; as a program ends, modules may be gone before this is."""
        descriptor = vars(self).pop("descriptor", None)  # None: it could not be opened
        if descriptor is not None:
            close(descriptor)

"""The files of a disk cache: their names, their checksums, descriptors and locks.

    FOLDER/CACHEDIR.TAG                   whose folder this is, for people and backups too
    FOLDER/roboshard-cache/account        bytes in use; who changes them holds its lock
    FOLDER/roboshard-cache/3f7/
        <object>-<offset>-<length>        an entry: the bytes, then MAGIC and their CRC32C
        ....part                          an entry being made, locked by its maker

Marker and account are kept by `cache_folder`. Functions here raise plain OSError where the file
system refuses.
"""

import errno
import hashlib
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from roboshard.common.errors import OptionError

HOME = "roboshard-cache"
"""All that the cache ever removes lies in this sub-folder."""
PART = ".part"

TRAILER = struct.Struct("<4sI")
"""MAGIC and the CRC32C of bytes and name. A trailer, as it is written and read with the bytes, on
any file system.
"""
MAGIC = b"RSC2"
FLAGS = (
    os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
)  # links are not followed; a FIFO cannot make an open wait
ENTRY_NAME = re.compile(r"([0-9a-f]{64})-(0|[1-9][0-9]{0,18})-([1-9][0-9]{0,18})(\.part)?")


class CacheKey(NamedTuple):
    """What is read: some bytes of one object at one place, and what they must be."""

    object: str
    """64 hex digits that stand for the object: where it lies and which version of it. Never a claim
    alone.
    """
    offset: int
    """Where the bytes begin in the object."""
    crc32c: int | None
    """Checksum of the bytes that are read. It is no part of an entry's name: it is what the entry
    is held against.

    None: not known before; who asks holds the bytes against a hash that he knows.
    """


def object_of(place: str, size: int, version: str) -> str:
    """Return what stands for an object in keys.

    Args:
        place: where it lies, as `storage.identity` writes it. Bytes of one place are never given
            out for another, whatever hashes the two claim.
        size: its size in bytes.
        version: what tells it from an earlier one at the same place, such as the hash that its
            owner states.

    Returns:
        64 lower-case hex digits.
    """
    return hashlib.sha256("\n".join((place, str(size), version)).encode()).hexdigest()


def entry_name(key: CacheKey, length: int) -> str:
    """The file name of an entry. Raises OptionError for what is no hash, offset or length."""
    name = f"{key.object}-{key.offset}-{length}"
    if not (match := ENTRY_NAME.fullmatch(name)) or match[4]:
        raise OptionError(
            f"{name!r}: no cache key; it takes 64 lower-case hex digits, an offset and a length "
            "above 0"
        )
    return name


def entry_length(name: str) -> int | None:
    """Bytes that an entry, or one being made, holds by its name; None for any other name."""
    match = ENTRY_NAME.fullmatch(name)
    return int(match[3]) if match else None


def bucket_name(name: str) -> str:
    """Return which of 4096 sub-folders an entry lies in: a million entries are 250 in each, also
    where they are all of one shard.
    """
    return f"{crc32c(name.encode()) & 0xFFF:03x}"


# -- Descriptors -----------------------------------------------------------------------------------

_open: set[int] = set()
_guard = threading.Lock()


def _after_fork_in_child() -> None:
    # A child forked while another thread holds a lock would hold it too, and longer than its owner.
    for descriptor in _open:
        os.close(descriptor)
    _open.clear()
    _guard.release()


os.register_at_fork(
    before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_after_fork_in_child
)


@contextmanager
def opened(name: str | Path, flags: int, parent: int | None = None) -> Iterator[int]:
    """Open a file; its descriptor is closed at the end, and in forked children at once."""
    with _guard:
        descriptor = os.open(name, flags | FLAGS, 0o666, dir_fd=parent)
        _open.add(descriptor)
    try:
        yield descriptor
    finally:
        with _guard:
            if descriptor in _open:
                _open.remove(descriptor)
                os.close(descriptor)


@contextmanager
def opened_home(folder: Path, *, make: bool = False) -> Iterator[int]:
    """Open the sub-folder that holds everything of a cache."""
    if make:
        _make_folder(str(folder / HOME), None)
    with opened(folder / HOME, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        yield descriptor


@contextmanager
def opened_bucket(folder: Path, name: str, *, make: bool = False) -> Iterator[int]:
    """Open the sub-folder that an entry lies in."""
    with opened_home(folder, make=make) as home:
        if make:
            _make_folder(bucket_name(name), home)
        with opened(bucket_name(name), os.O_RDONLY | os.O_DIRECTORY, home) as descriptor:
            yield descriptor


def _make_folder(name: str, parent: int | None) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)


# -- Entries ---------------------------------------------------------------------------------------


def read_entry(descriptor: int, name: str, length: int, expected: int | None) -> bytes | None:
    """Return the bytes of an open entry; None unless they are whole and have the CRC32C that is
    `expected`, if any.

    The bytes are gone over once: the checksum of the trailer continues theirs.

    Raises:
        OSError: not a regular file, or it cannot be read.
    """
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", name)
    if found.st_size != length + TRAILER.size:
        return None
    data = _pread(descriptor, length, 0)
    checksum = crc32c(data)
    if len(data) != length or expected not in (None, checksum):
        return None
    trailer = _pread(descriptor, TRAILER.size, length)
    return data if trailer == _trailer(name, checksum) else None


def write_entry(descriptor: int, name: str, data: bytes | memoryview, checksum: int) -> None:
    """Fill a file with an entry whose bytes have this CRC32C.

    It is not synced: what a power cut tears, its checksum shows.
    """
    left = memoryview(data)
    offset = 0
    while offset < len(data):
        offset += os.pwrite(descriptor, left[offset:], offset)
    os.pwrite(descriptor, _trailer(name, checksum), offset)


def _trailer(name: str, checksum: int) -> bytes:
    return TRAILER.pack(MAGIC, crc32c(name.encode(), checksum))


def _pread(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length and (
        more := os.pread(descriptor, length - len(data), offset + len(data))
    ):
        data += more  # the kernel reads 2 GiB at a time at most
    return data

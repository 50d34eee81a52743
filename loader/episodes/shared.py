"""Episodes that one worker has read, verified and parsed, for the other workers of its rank.

A file in memory without a name, that all of them have open: a table that says of which episode the
bytes lie where, and a ring of bytes, the oldest of which are written over. Whoever writes holds a
lock of the system, which goes with its process. Readers hold none: checksums tell them what was
written over meanwhile, or never finished, and then they read the episode themselves.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from crc32c import crc32c

from roboshard.common.memory_files import SharedMemoryFile, anonymous_file

SLOTS = 1 << 14
"""Episodes that the table has a place for. Two whose positions are equal modulo this share one."""
LARGEST = 1 / 16
"""Share of the ring that one episode may take."""

CURSOR = struct.Struct("<Q")
"""Bytes written so far: modulo the ring's size, where the next ones go."""
ENTRY = struct.Struct("<QQII")
"""An entry of the table: position + 1, offset in the ring, length, CRC32C of the bytes."""
CHECKSUM = struct.Struct("<I")
"""CRC32C of an entry of the table, which it follows."""
ENTRY_BYTES = ENTRY.size + CHECKSUM.size
TABLE_AT = 4096
RING_AT = TABLE_AT + SLOTS * ENTRY_BYTES


class SharedEpisodes:
    """Bytes by the positions of episodes, in memory that processes share. For one thread each."""

    def __init__(self, max_bytes: int) -> None:
        """Make room for at most `max_bytes`, which are taken up as they are written.

        Pickled while a process is started it is the same one there.
        """
        self._size = max_bytes
        with anonymous_file() as file:
            file.truncate(RING_AT + max_bytes)
            self._file = SharedMemoryFile(file)

    def __contains__(self, position: int) -> bool:
        """Whether an episode is there, and likely to be there still when `get` is called soon."""
        return self._entry(position) is not None

    def get(self, position: int) -> bytes | None:
        """Return what was kept of an episode; None: nothing, or it was written over."""
        entry = self._entry(position)
        if entry is None:
            return None
        offset, length, checksum = entry
        data = os.pread(self._file.descriptor, length, RING_AT + offset)
        return data if len(data) == length and crc32c(data) == checksum else None

    def put(self, position: int, data: bytes) -> None:
        """Keep the bytes of an episode, in the place of the oldest."""
        if len(data) > LARGEST * self._size:
            return
        with self._locked():
            (cursor,) = CURSOR.unpack(os.pread(self._file.descriptor, CURSOR.size, 0))
            if cursor % self._size + len(data) > self._size:  # in one piece
                cursor += self._size - cursor % self._size
            offset = cursor % self._size
            os.pwrite(self._file.descriptor, CURSOR.pack(cursor + len(data)), 0)
            os.pwrite(self._file.descriptor, data, RING_AT + offset)
            entry = ENTRY.pack(position + 1, offset, len(data), crc32c(data))
            os.pwrite(self._file.descriptor, entry + CHECKSUM.pack(crc32c(entry)), _place(position))

    def _entry(self, position: int) -> tuple[int, int, int] | None:
        """Return offset, length and checksum of an episode's bytes; None: they are not there."""
        packed = os.pread(self._file.descriptor, ENTRY_BYTES, _place(position))
        found, offset, length, checksum = ENTRY.unpack_from(packed)
        if found != position + 1 or packed[ENTRY.size :] != CHECKSUM.pack(
            crc32c(packed[: ENTRY.size])
        ):
            return None
        return offset, length, checksum

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._file.descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file.descriptor, fcntl.LOCK_UN)


def _place(position: int) -> int:
    return TABLE_AT + position % SLOTS * ENTRY_BYTES

"""The bytes of a slice, read where they lie when packets of it are wanted."""

from collections.abc import Callable
from typing import Protocol

from roboshard.common.errors import StorageError
from roboshard.storage.stored import OpenFiles, StoredRange


class SliceBytes(Protocol):
    """The bytes of a slice. For any number of threads."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the slice that are held in memory."""

    def whole(self) -> memoryview:
        """Return all bytes of the slice."""

    def part(self, begin: int, end: int) -> memoryview:
        """Return the bytes from `begin` to `end`."""


class InMemory:
    """A slice that is held in memory."""

    def __init__(self, data: memoryview) -> None:
        """Hold the bytes of a slice."""
        self._data = data

    @property
    def num_bytes(self) -> int:
        """Bytes of the slice, all of which are held in memory."""
        return len(self._data)

    def whole(self) -> memoryview:
        """Return all bytes of the slice."""
        return self._data

    def part(self, begin: int, end: int) -> memoryview:
        """Return the bytes from `begin` to `end`."""
        return self._data[begin:end]


class InFile:
    """A slice that lies in a local file, and was verified there."""

    num_bytes = 0

    def __init__(
        self,
        files: OpenFiles,
        stored: StoredRange,
        where: str,
        again: Callable[[], memoryview] | None,
        on_read: Callable[[int], None],
    ) -> None:
        """Say where a slice lies, of which nothing is read yet.

        Args:
            files: What reads.
            stored: Where the slice lies.
            where: Names the slice in errors.
            again: Fetches the slice anew where the file is no more, as a disk cache may remove its
                own; None: that is an error.
            on_read: Told the bytes of each read of the file.
        """
        self._files, self._stored, self._where, self._again = files, stored, where, again
        self._on_read = on_read

    def whole(self) -> memoryview:
        """Return all bytes of the slice."""
        return self.part(0, self._stored.length)

    def part(self, begin: int, end: int) -> memoryview:
        """Return the bytes from `begin` to `end`.

        Raises:
            StorageError: The file cannot be read any more, or is shorter than it was.
        """
        try:
            found = memoryview(self._files.read(self._stored, begin, end))
        except (OSError, EOFError) as error:
            if self._again is not None:
                return self._again()[begin:end]
            raise StorageError(
                f"{self._where}: cannot be read any more: {error}; the dataset was changed while "
                "it is loaded"
            ) from error
        self._on_read(len(found))
        return found

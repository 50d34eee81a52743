"""Reading by URL: one function each for a size, a range, a small file, a listing; whatever the storage."""

from collections.abc import Iterator
from typing import Protocol
from urllib.parse import urlsplit

from roboshard.shards.errors import StorageError
from roboshard.shards.storage.local import LocalStorage
from roboshard.shards.storage.urls import is_local, shown

COPY_CHUNK = 1 << 20


class Storage(Protocol):
    """What a kind of storage must be able to do."""

    def size(self, url: str) -> int:
        """Size in bytes."""

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""

    def read_all(self, url: str, max_bytes: int) -> bytes:
        """A whole file of at most `max_bytes`; a larger one is refused before it is read."""

    def list_files(self, url: str) -> dict[str, int]:
        """Size in bytes of every file under a folder, by path relative to it."""


def storage_of(url: str) -> Storage:
    """The storage that serves a URL. Raises StorageError for schemes that are not served."""
    if is_local(url):
        return LocalStorage()
    scheme = urlsplit(url).scheme
    if url.startswith("pipe:"):
        raise StorageError(f"{url}: pipe: URLs would run a shell command and are refused; give a path")
    raise StorageError(f"{shown(url)}: {scheme}:// is not served by this release; copy the dataset to a local folder")


def size(url: str) -> int:
    """Size in bytes of what lies at `url`. Raises MissingError, StorageError."""
    return storage_of(url).size(url)


def read_range(url: str, offset: int, length: int) -> bytes:
    """Exactly `length` bytes of `url` from `offset`.

    Raises DamageError where the file ends before, MissingError, StorageError.
    """
    return storage_of(url).read_range(url, offset, length)


def read_all(url: str, max_bytes: int) -> bytes:
    """A whole small file. Raises StorageError when it is larger than `max_bytes`, before reading it."""
    return storage_of(url).read_all(url, max_bytes)


def list_files(url: str) -> dict[str, int]:
    """Size in bytes of every file under a folder, by path relative to it. Raises MissingError, StorageError."""
    return storage_of(url).list_files(url)


def read_range_chunks(url: str, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a range in order, COPY_CHUNK at a time, so that memory does not grow with the range."""
    for start in range(offset, offset + length, COPY_CHUNK):
        yield read_range(url, start, min(COPY_CHUNK, offset + length - start))

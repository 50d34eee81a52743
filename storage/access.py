"""Reading by URL: one function each for a size, a range, a small file, a listing; whatever the storage."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from roboshard.common.errors import StorageError
from roboshard.storage.local import LocalStorage
from roboshard.storage.retry import PATIENCE, Patience
from roboshard.storage.urls import is_local, place_of

COPY_CHUNK = 1 << 20


class Storage(Protocol):
    """What a kind of storage must be able to do."""

    def size(self, url: str, *, patience: Patience) -> int:
        """Size in bytes."""

    def read_range(
        self, url: str, offset: int, length: int, *, total: int | None, patience: Patience
    ) -> bytes:
        """Exactly `length` bytes from `offset` of an object that must have `total` bytes, where that is known."""

    def read_all(self, url: str, max_bytes: int, *, patience: Patience) -> bytes:
        """A whole file of at most `max_bytes`; a larger one is refused before it is read."""

    def list_files(self, url: str, *, patience: Patience) -> dict[str, int]:
        """Size in bytes of every file under a folder, by path relative to it."""


@runtime_checkable
class Resolving(Protocol):
    """A storage that remembers where URLs lead."""

    def forget(self, url: str) -> None:
        """Ask anew next time."""


def storage_of(url: str) -> Storage:
    """The storage that serves a URL. Raises StorageError for schemes that are not served."""
    if is_local(url):
        return LocalStorage()
    if url.startswith("pipe:"):
        raise StorageError(
            f"{url}: pipe: URLs would run a shell command and are refused; give a path"
        )
    # What a kind of storage needs is imported where it is used: reading local files must not wait for it.
    scheme = url.partition("://")[0].lower()
    if scheme in ("http", "https"):
        from roboshard.storage.http import HttpStorage  # noqa: PLC0415

        return HttpStorage()
    if scheme == "hf":
        from roboshard.storage.hub import HubStorage  # noqa: PLC0415

        return HubStorage()
    from roboshard.storage.objects import FsspecStorage  # noqa: PLC0415

    return FsspecStorage.serving(url)


def size(url: str, *, patience: Patience = PATIENCE) -> int:
    """Size in bytes of what lies at `url`. Raises MissingError, StorageError."""
    return storage_of(url).size(url, patience=patience)


def read_range(
    url: str, offset: int, length: int, *, total: int | None = None, patience: Patience = PATIENCE
) -> bytes:
    """Exactly `length` bytes of `url` from `offset`.

    `total` is the size that the file must have: checked with the read itself, so `size` need not be asked before.

    Raises DamageError where the file ends before, has another size or changes while it is read; MissingError,
    StorageError.
    """
    return storage_of(url).read_range(url, offset, length, total=total, patience=patience)


def read_all(url: str, max_bytes: int, *, patience: Patience = PATIENCE) -> bytes:
    """A whole small file. Raises StorageError when it is larger than `max_bytes`, before reading it."""
    return storage_of(url).read_all(url, max_bytes, patience=patience)


def list_files(url: str, *, patience: Patience = PATIENCE) -> dict[str, int]:
    """Size in bytes of every file under a folder, by path relative to it. Raises MissingError, StorageError."""
    return storage_of(url).list_files(url, patience=patience)


def forget(url: str) -> None:
    """Drop what this process remembers of where a URL leads: what came from there was wrong, or is replaced."""
    storage = storage_of(url)
    if isinstance(storage, Resolving):
        storage.forget(url)


def pinned(url: str, *, patience: Patience = PATIENCE) -> str:
    """A URL that keeps meaning what `url` means now: a Hub dataset's branch becomes its commit."""
    if not url.startswith("hf://datasets/"):
        return url
    from roboshard.storage import hub  # noqa: PLC0415 - only for the Hub

    return hub.pinned(url, patience=patience)


def identity(url: str) -> str:
    """Return what a remote URL names, without credentials: equal for the same object at the same place, else not."""
    if url.startswith("hf://"):
        from roboshard.storage import hub  # noqa: PLC0415 - only for the Hub

        return hub.place_of(url)
    return place_of(url)


def read_range_chunks(url: str, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a range in order, COPY_CHUNK at a time, so that memory does not grow with the range."""
    for start in range(offset, offset + length, COPY_CHUNK):
        yield read_range(url, start, min(COPY_CHUNK, offset + length - start))

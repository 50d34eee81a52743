"""Storage by URL: the store that serves one; a size, a range, a small file, a listing."""

from collections.abc import Iterator

from roboshard.common.errors import OptionError, StorageError
from roboshard.storage.api import Store, WritableStore
from roboshard.storage.local import LocalStore
from roboshard.storage.retry import READING, RetryPolicy
from roboshard.storage.urls import is_local, place_of, redacted

COPY_CHUNK = 1 << 20


def store_of(url: str) -> Store:
    """The store that serves a URL; nothing is opened.

    Raises StorageError for what is not served.
    """
    if is_local(url):
        return LocalStore(url)
    if url.startswith("pipe:"):
        raise StorageError(
            f"{url}: pipe: URLs would run a shell command and are refused; give a path"
        )
    # What a kind of storage needs is imported where it is used: reading local files must not wait
    # for it.
    scheme = url.partition("://")[0].lower()
    if scheme in ("http", "https"):
        from roboshard.storage.http.store import HttpStore  # noqa: PLC0415

        return HttpStore(url)
    if scheme == "hf":
        from roboshard.storage.hub.store import hub_store  # noqa: PLC0415

        return hub_store(url)
    from roboshard.storage.filesystems import check_served  # noqa: PLC0415
    from roboshard.storage.objects import FsspecStore  # noqa: PLC0415

    check_served(url)
    return FsspecStore(url)


def writable_store(url: str) -> WritableStore:
    """The store to write below a URL; nothing is opened.

    Raises OptionError for what cannot be written to.
    """
    root = url.rstrip("/") or "/"
    if is_local(root):
        return LocalStore(root)
    if url.startswith(("http://", "https://", "pipe:")) or "?" in url or "#" in url:
        raise OptionError(
            f"{redacted(url)}: cannot be written to; give a folder, hf://, s3://, gs:// or such a "
            "URL"
        )
    if url.startswith("hf://"):
        from roboshard.storage.hub.store import hub_store  # noqa: PLC0415

        try:
            return hub_store(root)
        except StorageError as error:
            raise OptionError(str(error)) from None
    from roboshard.storage.objects import FsspecStore  # noqa: PLC0415

    return FsspecStore(root)


def size(url: str, *, policy: RetryPolicy = READING) -> int:
    """Size in bytes of what lies at `url`. Raises MissingError, StorageError."""
    return store_of(url).size(policy=policy)


def read_range(
    url: str, offset: int, length: int, *, total: int | None = None, policy: RetryPolicy = READING
) -> bytes:
    """Exactly `length` bytes of `url` from `offset`.

    `total` is the size that the file must have: checked with the read itself, so `size` need not be
    asked before.

    Raises DamageError where the file ends before, has another size or changes while it is read;
    MissingError, StorageError.
    """
    return store_of(url).read_range("", offset, length, total=total, policy=policy)


def read_all(url: str, max_bytes: int, *, policy: RetryPolicy = READING) -> bytes:
    """A whole small file.

    Raises StorageError when it is larger than `max_bytes`, before reading it.
    """
    return store_of(url).read_all("", max_bytes, policy=policy)


def list_files(url: str, *, policy: RetryPolicy = READING) -> dict[str, int]:
    """Size in bytes of every file under a folder, by path relative to it.

    Raises MissingError, StorageError.
    """
    return store_of(url).list_files(policy=policy)


def forget(url: str) -> None:
    """Drop what this process remembers of where a URL leads: what came from there was wrong, or is
    replaced.
    """
    store_of(url).forget()


def pinned(url: str, *, policy: RetryPolicy = READING) -> str:
    """A URL that keeps meaning what `url` means now: a Hub dataset's branch becomes its commit."""
    if not url.startswith("hf://datasets/"):
        return url
    from roboshard.storage.hub.store import DatasetStore  # noqa: PLC0415 - only for the Hub

    return DatasetStore(url).pinned(policy=policy)


def identity(url: str) -> str:
    """Return what a remote URL names, without credentials: equal for the same object at the same
    place, else not.
    """
    if url.startswith("hf://"):
        from roboshard.storage.hub import store  # noqa: PLC0415 - only for the Hub

        return store.identity(url)
    return place_of(url)


def read_range_chunks(url: str, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a range in order, COPY_CHUNK at a time, so that memory does not grow with the
    range.
    """
    return store_of(url).chunks("", offset, offset + length, COPY_CHUNK)

"""The one boundary through which shards, manifests and indexes are read and written.

Callers say `read_range(url, offset, length)` and get exactly those bytes or an error that names the URL.
Local paths and file:// are served here; a further kind of storage is one more class with the same three reads.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from roboshard.shards.errors import DamageError, MissingError, RoboshardError, StorageError
from roboshard.shards.names import SHARD_FOLDER

COPY_CHUNK = 1 << 20


class Storage(Protocol):
    """What a kind of storage must be able to do."""

    def size(self, url: str) -> int:
        """Size in bytes."""

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""


class LocalStorage:
    """Files of this machine, read by position, so that threads and forked processes never share a cursor."""

    def size(self, url: str) -> int:
        """Size of a regular file in bytes."""
        with _opened(url) as descriptor:
            return os.fstat(descriptor).st_size

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; a shorter file is damage."""
        with _opened(url) as descriptor:
            available = os.fstat(descriptor).st_size - offset
            if length > available:  # before anything of a claimed length is allocated
                raise DamageError(f"{url}: ends {length - available} bytes before offset {offset + length}")
            chunks = []
            while length > 0:
                chunk = os.pread(descriptor, length, offset)
                if not chunk:
                    raise DamageError(f"{url}: ended at offset {offset} while it was read")
                chunks.append(chunk)
                offset, length = offset + len(chunk), length - len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def storage_of(url: str) -> Storage:
    """The storage that serves a URL. Raises StorageError for schemes that are not served."""
    if is_local(url):
        return LocalStorage()
    scheme = urlsplit(url).scheme
    if url.startswith("pipe:"):
        raise StorageError(f"{url}: pipe: URLs would run a shell command and are refused; give a path")
    raise StorageError(f"{url}: {scheme}:// is not served by this release; copy the dataset to a local folder")


def is_local(url: str) -> bool:
    """Whether a URL is a path of this machine."""
    return url.startswith("file://") or ("://" not in url and not url.startswith("pipe:"))


def local_path(url: str) -> Path:
    """The path behind a local URL."""
    return Path(unquote(urlsplit(url).path)) if url.startswith("file://") else Path(url)


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
    length = size(url)
    if length > max_bytes:
        raise StorageError(f"{url}: {length} bytes, more than the {max_bytes} that such a file may have")
    return read_range(url, 0, length)


def read_range_chunks(url: str, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a range in order, COPY_CHUNK at a time, so that memory does not grow with the range."""
    for start in range(offset, offset + length, COPY_CHUNK):
        yield read_range(url, start, min(COPY_CHUNK, offset + length - start))


def join(root: str, name: str) -> str:
    """The URL of `name` under `root`."""
    return f"{root.rstrip('/')}/{name}" if root != "/" else f"/{name}"


def write_atomic(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a local file so that it appears whole or not at all, and survives a power cut once it appears.

    `write` is given a temporary file beside the target; it is synced and renamed, or removed on any error.

    Raises:
        StorageError: no space, no permission, no folder.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except RoboshardError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


TEMPORARY_SUFFIX = ".roboshard-tmp"


def write_bytes(path: Path, data: bytes) -> None:
    """`write_atomic` of bytes at hand."""
    write_atomic(path, lambda file: _write(file, data))


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)


def remove_temporaries(root: Path) -> None:
    """Remove what a killed writer left of the dataset at `root`: only files that `write_atomic` named.

    Deeper folders are left alone: another dataset may be being written there.
    """
    for folder in (root, root / SHARD_FOLDER):
        for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _opened(url: str) -> Iterator[int]:
    path = local_path(url)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise MissingError(f"{url}: no such file") from None
    except OSError as error:
        raise StorageError(f"{url}: cannot be opened: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise StorageError(f"{url!r}: cannot be opened: {error}") from None
    try:
        if not path.is_file():
            raise StorageError(f"{url}: not a regular file")
        yield descriptor
    except RoboshardError:
        raise
    except OSError as error:
        raise StorageError(f"{url}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)

"""Files of this machine: read by position, written whole or not at all."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from roboshard.shards.errors import DamageError, MissingError, RoboshardError, StorageError
from roboshard.shards.names import SHARD_FOLDER
from roboshard.shards.storage.retry import PATIENCE, Patience
from roboshard.shards.storage.urls import local_path


class LocalStorage:
    """Files of this machine, read by position, so that threads and forked processes never share a cursor.

    Nothing is tried twice here, so `patience` is not needed.
    """

    def size(self, url: str, *, patience: Patience = PATIENCE) -> int:  # noqa: ARG002
        """Size of a regular file in bytes."""
        with _opened(url) as descriptor:
            return os.fstat(descriptor).st_size

    def read_range(
        self,
        url: str,
        offset: int,
        length: int,
        *,
        total: int | None = None,
        patience: Patience = PATIENCE,  # noqa: ARG002
    ) -> bytes:
        """Exactly `length` bytes from `offset`; a shorter file, or one that has not `total` bytes, is damage."""
        with _opened(url) as descriptor:
            found = os.fstat(descriptor).st_size
            if total is not None and found != total:
                raise DamageError(
                    f"{url}: {found} bytes where {total} are expected: cut off or replaced"
                )
            available = found - offset
            if length > available:  # before anything of a claimed length is allocated
                raise DamageError(
                    f"{url}: ends {length - available} bytes before offset {offset + length}"
                )
            chunks = []
            while length > 0:
                chunk = os.pread(descriptor, length, offset)
                if not chunk:
                    raise DamageError(f"{url}: ended at offset {offset} while it was read")
                chunks.append(chunk)
                offset, length = offset + len(chunk), length - len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def read_all(self, url: str, max_bytes: int, *, patience: Patience = PATIENCE) -> bytes:  # noqa: ARG002
        """A whole file of at most `max_bytes`."""
        length = self.size(url)
        if length > max_bytes:
            raise StorageError(
                f"{url}: {length} bytes, more than the {max_bytes} that such a file may have"
            )
        return self.read_range(url, 0, length)

    def list_files(self, url: str, *, patience: Patience = PATIENCE) -> dict[str, int]:  # noqa: ARG002
        """Size in bytes of every regular file under a folder; a link to one counts, hidden files do not."""
        root = local_path(url)
        if not root.is_dir():
            raise MissingError(f"{url}: no such folder")
        paths = (path for path in root.rglob("[!.]*") if path.is_file())
        return dict(
            sorted((path.relative_to(root).as_posix(), path.stat().st_size) for path in paths)
        )


def write_atomic(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a local file so that it appears whole or not at all, and survives a power cut once it appears.

    `write` is given a temporary file beside the target; it is synced and renamed, or removed on any error. Its name
    is nobody else's, on whatever machine: two that write the same file at once do not meet before it is whole.

    Raises:
        StorageError: no space, no permission, no folder.
    """
    temporary = path.with_name(
        f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    )
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

"""Folders of this machine, or of one that is mounted."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from roboshard.common.errors import (
    DamageError,
    MissingError,
    OptionError,
    RoboshardError,
    StorageError,
)
from roboshard.storage.api import WritableStore
from roboshard.storage.content import StoredFile, Upload
from roboshard.storage.files import TEMPORARY_SUFFIX, remove_file, write_atomic
from roboshard.storage.retry import READING, AttemptError, RetryPolicy, explained
from roboshard.storage.stored import read_up_to
from roboshard.storage.urls import local_path, redacted


class LocalStore(WritableStore):
    """Files of this machine, read by position, so that threads and forked processes never share a
    cursor.

    Nothing is tried twice here, so `policy` is not needed.
    """

    def size(self, path: str = "", *, policy: RetryPolicy = READING) -> int:  # noqa: ARG002
        """Size of a regular file in bytes."""
        with _opened(self.at(path)) as descriptor:
            return os.fstat(descriptor).st_size

    def read_range(
        self,
        path: str,
        offset: int,
        length: int,
        *,
        total: int | None = None,
        policy: RetryPolicy = READING,  # noqa: ARG002
    ) -> bytes:
        """Exactly `length` bytes from `offset`; a shorter file, or one that has not `total` bytes,
        is damage.
        """
        url = self.at(path)
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
            data = read_up_to(descriptor, offset, length)
        if len(data) < length:
            raise DamageError(f"{url}: ended at offset {offset + len(data)} while it was read")
        return data

    def files(self, *, policy: RetryPolicy = READING) -> dict[str, StoredFile]:  # noqa: ARG002
        """Every regular file under the folder; a link to one counts, hidden files do not."""
        root = local_path(self.url)
        if not root.is_dir():
            raise MissingError(f"{self.url}: no such folder")
        found = (path for path in root.rglob("[!.]*") if path.is_file())
        return {
            path.relative_to(root).as_posix(): StoredFile(size=path.stat().st_size)
            for path in found
        }

    @property
    def _root(self) -> Path:
        return local_path(self.url)

    def create(self, *, private: bool) -> None:
        """Make the folder where it is missing. Raises OptionError where it is to be private."""
        if private:
            raise OptionError(f"{self.url}: --private is for the Hub; use the folder's permissions")
        self._retried(lambda: self._root.mkdir(parents=True, exist_ok=True), "cannot be made")

    def _look(self, paths: Sequence[str]) -> dict[str, StoredFile]:
        there = {path: self._root / path for path in paths if (self._root / path).is_file()}
        return {path: StoredFile(size=file.stat().st_size) for path, file in there.items()}

    def _send(self, uploads: Sequence[Upload]) -> None:
        for upload in uploads:
            path = self._root / upload.path
            for left in path.parent.glob(f".{path.name}.*{TEMPORARY_SUFFIX}"):
                remove_file(left, below=self._root)
            write_atomic(path, partial(_copy, upload), below=self._root)

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            remove_file(self._root / path, below=self._root)

    def _explained(self) -> AbstractContextManager[None]:
        return explained((OSError,), _explain)


def _explain(error: Exception) -> AttemptError:
    cause = getattr(error, "strerror", None) or redacted(str(error))
    kind = MissingError if isinstance(error, FileNotFoundError) else StorageError
    return AttemptError(cause, error=kind, tries=1)


def _copy(upload: Upload, file: IO[bytes]) -> None:
    for chunk in upload.chunks():
        file.write(chunk)


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

"""Files of this machine, written whole or not at all, and without following links that somebody
planted.
"""

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from roboshard.common.errors import RoboshardError, StorageError

TEMPORARY_SUFFIX = ".roboshard-tmp"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def write_atomic(
    path: Path, write: Callable[[IO[bytes]], None], *, below: Path | None = None
) -> None:
    """Write a local file so that it appears whole or not at all, and survives a power cut once it
    appears.

    `write` is given a temporary file beside the target; it is synced and renamed, or removed on any
    error. Its name is nobody else's, on whatever machine: two that write the same file at once do
    not meet before it is whole.

    Args:
        path: the file. A link at this name is replaced, never followed.
        write: writes the content.
        below: the folder that a user named. It may be a link; folders between it and the file may
            not.

    Raises:
        StorageError: no space, no permission, no folder, or a link where a folder is expected.
    """
    temporary = f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with opened_folder(path.parent, below=below, make=True) as folder:
            with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=folder), "wb") as file:
                try:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                    os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
                except BaseException:
                    with suppress(FileNotFoundError):
                        os.unlink(temporary, dir_fd=folder)
                    raise
            os.fsync(folder)
    except RoboshardError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_bytes(path: Path, data: bytes, *, below: Path | None = None) -> None:
    """`write_atomic` of bytes at hand."""
    write_atomic(path, lambda file: _write(file, data), below=below)


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)


def remove_file(path: Path, *, below: Path) -> None:
    """Remove a file, if it is there; links between it and `below`, the folder that a user named,
    are not followed.

    Raises:
        StorageError: a link or something else stands where a folder is expected.
        OSError: it cannot be removed.
    """
    with suppress(FileNotFoundError), opened_folder(path.parent, below=below) as folder:
        os.unlink(path.name, dir_fd=folder)
        os.fsync(folder)


def remove_temporaries_of(process: int, paths: Iterable[Path]) -> None:
    """Remove what a process that was killed left of these files, written by `write_atomic`."""
    for path in paths:
        beginning = f".{path.name}.{process}-"
        with suppress(FileNotFoundError), opened_folder(path.parent) as folder:
            for name in os.listdir(folder):
                if name.startswith(beginning) and name.endswith(TEMPORARY_SUFFIX):
                    os.unlink(name, dir_fd=folder)


def remove_temporaries(root: Path, folders: Iterable[str] = ()) -> None:
    """Remove what a killed writer left in `root` and in the named folders below it.

    Only files that `write_atomic` named are removed. Other folders are left alone: somebody
    else may be writing there.

    Args:
        root: a folder that a user named, which may be a link.
        folders: names relative to it; where none is, nothing is done.

    Raises:
        StorageError: one of the folders is a link, which is not followed.
    """
    for path in (root, *(root / folder for folder in folders)):
        with suppress(FileNotFoundError), opened_folder(path, below=root) as folder:
            for name in os.listdir(folder):
                if name.startswith(".") and name.endswith(TEMPORARY_SUFFIX):
                    with suppress(FileNotFoundError, IsADirectoryError):
                        os.unlink(name, dir_fd=folder)


@contextmanager
def opened_folder(path: Path, *, below: Path | None = None, make: bool = False) -> Iterator[int]:
    """Open a folder for calls that take a `dir_fd`; close it at the end.

    Args:
        path: the folder.
        below: the folder that a user named, which may be a link. None: `path` itself.
        make: make what is not there.

    Raises:
        StorageError: what lies between `below` and `path` is a link or no folder.
        OSError: it is not there, or cannot be opened or made.
    """
    base = path if below is None else below
    if make:
        base.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(base, _FOLDER)
    try:
        for name in path.relative_to(base).parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=descriptor)
            deeper = _deeper(name, descriptor, path)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


def _deeper(name: str, parent: int, path: Path) -> int:
    try:
        if name == os.pardir:
            raise OSError(errno.ELOOP, "leads out of the folder", name)
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise StorageError(
            f"{path}: {name!r} is a link, or no folder. Links inside of a destination are not "
            "followed: remove it, or give as the destination where it leads"
        ) from None


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The folder that appears whole: everything is written beside it, under a name of its own, and renamed at the end."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roboshard.shards import storage
from roboshard.shards.errors import OptionError, RoboshardError, StorageError


@contextmanager
def appearing(destination: Path) -> Iterator[Path]:
    """A folder to write to, empty; it becomes `destination` if nothing is raised, and is removed otherwise.

    What a killed run left is removed when the next one starts.

    Raises:
        OptionError: something is at `destination` already, or another run is writing it.
        StorageError: no space, no permission.
    """
    staging = destination.with_name(f".{destination.name}.roboshard-export")
    _check_free(destination)
    try:
        staging.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(staging, os.O_RDONLY)
        try:
            _lock(descriptor, staging, destination)
            _clear(staging)
            try:
                yield staging
                _sync(staging)
                _check_free(destination)
                staging.rename(destination)  # over an empty folder, too
                storage.sync_folder(destination.parent)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        finally:
            os.close(descriptor)
    except RoboshardError:
        raise
    except OSError as error:
        raise StorageError(
            f"{destination}: cannot be written: {error.strerror or error}"
        ) from error


def _check_free(destination: Path) -> None:
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise OptionError(f"{destination}: exists and is no folder")
    if destination.exists() and any(destination.iterdir()):
        raise OptionError(
            f"{destination}: is not empty. Choose another folder, or remove this one first"
        )


def _lock(descriptor: int, staging: Path, destination: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = staging.exists() and staging.stat().st_ino == os.fstat(descriptor).st_ino
    except BlockingIOError:
        held = False
    if not held:
        raise OptionError(f"{destination}: another export is writing here; wait until it ends")


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(root: Path) -> None:
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        storage.sync_folder(Path(folder))

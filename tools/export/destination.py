"""The folder that appears whole: everything is written beside it, under a name of its own, and
renamed at the end.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from roboshard import storage
from roboshard.common import interrupts
from roboshard.common.errors import OptionError, RoboshardError, StorageError
from roboshard.storage import locks


@contextmanager
def whole_or_not_at_all(destination: Path) -> Iterator[Path]:
    """Yield an empty folder to write to; it becomes `destination` if nothing is raised, and is
    removed otherwise.

    What a killed run left is removed when the next one starts.

    Raises:
        OptionError: something is at `destination` already, or another run is writing it.
        StorageError: no space, no permission.
    """
    staging = destination.with_name(f".{destination.name}.roboshard-export")
    _check_free(destination)
    try:
        with _opened(staging, destination) as descriptor:
            _clear(descriptor)
            remove = partial(shutil.rmtree, staging, ignore_errors=True)
            try:
                with interrupts.removed_at_exit(remove):
                    yield staging
                _sync(staging)
                _check_free(destination)
                staging.rename(destination)  # over an empty folder, too
                storage.sync_folder(destination.parent)
            except BaseException:
                remove()
                raise
    except RoboshardError:
        raise
    except OSError as error:
        raise StorageError(
            f"{destination}: cannot be written: {error.strerror or error}"
        ) from error


@contextmanager
def _opened(staging: Path, destination: Path) -> Iterator[int]:
    """Open and lock the folder beside the destination: made by this run, or left by one of the same
    user; never a link.
    """
    staging.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        staging.mkdir()
    try:
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise _not_ours(staging, destination) from None
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise _not_ours(staging, destination)
        _lock(descriptor, staging, destination)
        yield descriptor
    finally:
        os.close(descriptor)


def _not_ours(staging: Path, destination: Path) -> OptionError:
    return OptionError(
        f"{destination}: the export is put together in {staging.name} beside it, and what has that "
        "name is a link, no folder, or another user's. Remove it, or choose another destination"
    )


def _check_free(destination: Path) -> None:
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise OptionError(f"{destination}: exists and is no folder")
    if destination.exists() and any(destination.iterdir()):
        raise OptionError(
            f"{destination}: is not empty. Choose another folder, or remove this one first"
        )


def _lock(descriptor: int, staging: Path, destination: Path) -> None:
    if not (locks.lock(descriptor, wait=False) and locks.is_at(descriptor, staging)):
        raise OptionError(f"{destination}: another export is writing here; wait until it ends")


def _clear(folder: int) -> None:
    """Remove what lies in an open folder: by its descriptor, so that no link leads elsewhere."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, dir_fd=folder)
            else:
                os.unlink(entry.name, dir_fd=folder)


def _sync(root: Path) -> None:
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        storage.sync_folder(Path(folder))

"""Temporary folders that a lock holds: it goes with the process, which is how a killed one's folder
is told.
"""

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from roboshard.storage.locks import is_at, lock


def make_held_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make a temporary folder, and remove those of this user that no process holds any more.

    Args:
        parent: where it is made, and where others are looked for.
        prefix: how the names of such folders begin.

    Returns:
        The folder, and a descriptor that holds it until it is closed. Whoever is done with the
        folder removes it first.

    Raises:
        OSError: none can be made there, or the file system has no locks.
    """
    for left in parent.glob(f"{prefix}*"):
        with suppress(OSError):  # somebody else's, or gone just now
            _remove_unless_held(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            lock(descriptor, shared=True)
            if is_at(descriptor, folder):
                return folder, descriptor
            os.close(descriptor)  # taken for a killed process's before it was locked, and removed


def join_held_folder(parent: Path, prefix: str, name: str) -> tuple[Path, int]:
    """Make a folder, or join the processes of this user that hold it.

    Folders of this user that no process holds any more are removed, but for the one that is joined.

    Args:
        parent: where it lies, and where others are looked for.
        prefix: how the names of such folders begin.
        name: how the name of this one ends.

    Returns:
        The folder, and a descriptor that holds it, for `leave_held_folder`.

    Raises:
        OSError: it cannot be made, is another user's, or the file system has no locks.
    """
    folder = parent / f"{prefix}{name}"
    for left in parent.glob(f"{prefix}*"):
        if left != folder:
            with suppress(OSError):  # somebody else's, or gone just now
                _remove_unless_held(left)
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            if os.fstat(descriptor).st_uid != os.getuid():
                os.close(descriptor)
                raise PermissionError(errno.EPERM, "it is another user's", str(folder))
            lock(descriptor, shared=True)
            if is_at(descriptor, folder):
                return folder, descriptor
            os.close(descriptor)  # the last one who held it has just removed it


def leave_held_folder(folder: Path, descriptor: int) -> None:
    """Let go of a folder that was joined, and remove it if no other process holds it."""
    try:
        with suppress(OSError):
            if lock(descriptor, wait=False) and is_at(descriptor, folder):
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _remove_unless_held(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        if os.fstat(descriptor).st_uid == os.getuid() and lock(descriptor, wait=False):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)

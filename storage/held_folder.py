"""Temporary folders that a lock holds: it goes with the process, which is how a killed one's folder is told."""

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


def _remove_unless_held(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        if os.fstat(descriptor).st_uid == os.getuid() and lock(descriptor, wait=False):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)

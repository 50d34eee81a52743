"""Locks of the kernel on open files.

They go with their process, however it ends, so a killed one holds nobody up.
"""

import fcntl
import os
import time
from pathlib import Path


def lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file against every other opening of it, in any thread or process.

    Args:
        descriptor: the open file or folder; its lock ends when it is closed.
        shared: hold it together with others who do.
        wait: until the lock can be had; otherwise only if that is now.

    Returns:
        Whether it is held now.

    Raises:
        OSError: the file system has no locks.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, how if wait else how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_within(descriptor: int, seconds: float) -> bool:
    """Lock an open file for oneself; False when not within `seconds`.

    Waits in small steps, as a wait in the kernel could not end in time.
    """
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while not lock(descriptor, wait=False):
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    return True


def unlock(descriptor: int) -> None:
    """Let go of a lock before the descriptor is closed."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_at(descriptor: int, name: str | Path, parent: int | None = None) -> bool:
    """Whether an open file is still the one that has this name; a link is not."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))

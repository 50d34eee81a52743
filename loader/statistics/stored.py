"""Statistics are kept in small files: for the other ranks of the node, and for the next run.

They lie in the user's cache folder, by what they are of. What cannot be kept there is found again.
"""

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from roboshard import storage
from roboshard.common import interrupts, jsonio
from roboshard.common.errors import FormatError, StorageError
from roboshard.loader import topology
from roboshard.storage import locks

MAX_BYTES = 64 << 20
"""Most bytes of a file that is kept: larger statistics are found anew each time."""
MAX_FILES = 1000
"""Most files that are kept; the oldest of more are removed."""


def kept(
    name: str, keys: Collection[str], make: Callable[[], tuple[dict[str, jsonio.Json], bool]]
) -> dict[str, jsonio.Json]:
    """Return the JSON object that is kept under a name, or make it and keep it.

    One process of the node makes it, the others wait for that.

    Args:
        name: 64 hexadecimal digits.
        keys: what the object has.
        make: returns the object, and whether it may be kept.
    """
    folder = _folder()
    if folder is None:
        return make()[0]
    path = folder / f"{name}.json"
    found = _read(path, keys)
    if found is not None:
        return found
    with _one_at_a_time(folder / f"lock-{name[0]}"):
        found = _read(path, keys)
        if found is not None:
            return found
        made, may_keep = make()
        data = jsonio.dump(made)
        if may_keep and len(data) <= MAX_BYTES:
            with suppress(StorageError, OSError):
                storage.write_bytes(path, data)
                _remove_oldest(folder)
    return made


def _folder() -> Path | None:
    """Return the folder for statistics, made if need be; None: there is no place for it."""
    parent = topology.user_cache_folder()
    if parent is None:
        return None
    folder = parent / "roboshard" / "statistics"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def _read(path: Path, keys: Collection[str]) -> dict[str, jsonio.Json] | None:
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        found = jsonio.load(path.read_bytes(), str(path), MAX_BYTES)
    except (OSError, FormatError):
        return None
    return found if found.keys() == set(keys) else None


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock, if this file system has any."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            while not locks.lock(descriptor, wait=False):
                interrupts.pause(interrupts.POLL_S)
        yield
    finally:
        os.close(descriptor)


def _remove_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in files[:-MAX_FILES]:
        path.unlink(missing_ok=True)

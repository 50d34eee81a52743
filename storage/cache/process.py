"""What one process knows of its disk caches: which it has opened, and which it has warned of."""

import os
import threading
from pathlib import Path


class Process:
    """The caches that a process has opened, and whether it has warned of them.

    A fork starts anew.
    """

    def __init__(self) -> None:
        self.opened: set[object] = set()
        self._lock = threading.Lock()
        self._warned: set[Path] = set()

    def warns(self, folder: Path) -> bool:
        """Return whether to warn of a folder: only the first time."""
        with self._lock:
            first = folder not in self._warned
            self._warned.add(folder)
            return first


_process = Process()


def this_process() -> Process:
    """Return what this process knows of its disk caches."""
    return _process


def _after_fork_in_child() -> None:
    global _process  # noqa: PLW0603 - its lock may have been held by a thread that the child does not have
    _process = Process()


os.register_at_fork(after_in_child=_after_fork_in_child)

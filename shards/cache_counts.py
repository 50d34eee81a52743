"""What one process knows of its disk caches: which it has opened, what it counted, whether it warned."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CacheStats:
    """What one process has had of a folder since it began."""

    hits: int = 0
    """Bytes asked for that were there, or that another process or thread was downloading."""
    misses: int = 0
    """Downloads."""
    hit_bytes: int = 0
    """Read from the folder."""
    evicted_bytes: int = 0
    """Removed by this process to make room."""


class Process:
    """What a process knows: which caches it has opened, what it counted, whether it warned. A fork starts anew."""

    def __init__(self) -> None:
        self.opened: set[object] = set()
        self._lock = threading.Lock()
        self._counts: dict[Path, dict[str, int]] = {}
        self._warned: set[Path] = set()

    def add(self, folder: Path, **numbers: int) -> None:
        """Count fields of `CacheStats`."""
        with self._lock:
            counts = self._counts.setdefault(folder, {})
            for name, number in numbers.items():
                counts[name] = counts.get(name, 0) + number

    def stats(self, folder: Path) -> CacheStats:
        """What was counted of a folder."""
        with self._lock:
            return CacheStats(**self._counts.get(folder, {}))

    def warns(self, folder: Path) -> bool:
        """Whether to warn of a folder: the first time."""
        with self._lock:
            first = folder not in self._warned
            self._warned.add(folder)
            return first


_process = Process()


def this_process() -> Process:
    """What this process knows."""
    return _process


def _after_fork_in_child() -> None:
    global _process  # noqa: PLW0603 - its lock may have been held by a thread that the child does not have
    _process = Process()


os.register_at_fork(after_in_child=_after_fork_in_child)

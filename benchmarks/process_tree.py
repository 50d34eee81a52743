"""Memory and CPU time of a process with all of its descendants, watched from outside."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psutil

T = TypeVar("T")

RSS_EVERY_S = 0.1
PSS_EVERY_S = 1.0  # the kernel walks all pages for it


@dataclass(frozen=True)
class Peak:
    """Largest sums over the processes of the tree, in bytes."""

    rss: int
    """Resident; pages that several processes share count once for each."""
    pss: int
    """Proportional: shared pages count once in all. Sampled less often."""


class TreeWatch:
    """A thread that samples the tree of `pid` until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._rss = self._pss = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> Peak:
        """No more samples; the peaks."""
        self._stop.set()
        self._thread.join()
        return Peak(self._rss, self._pss)

    def kill(self) -> None:
        """End every process of the tree that is still there."""
        for process in self._tree():
            _or_none(process.kill)

    def cpu_seconds(self) -> float:
        """User and system time so far of the processes that live and, through their parents, of
        those that ended.
        """
        times = [_or_none(process.cpu_times) for process in self._tree()]
        return sum(
            found.user + found.system + found.children_user + found.children_system
            for found in times
            if found is not None
        )

    def _watch(self) -> None:
        next_pss = time.monotonic()
        while not self._stop.wait(RSS_EVERY_S):
            tree = self._tree()
            found = [_or_none(process.memory_info) for process in tree]
            self._rss = max(self._rss, sum(memory.rss for memory in found if memory is not None))
            if time.monotonic() >= next_pss:
                full = [_or_none(process.memory_full_info) for process in tree]
                self._pss = max(self._pss, sum(memory.pss for memory in full if memory is not None))
                next_pss = time.monotonic() + PSS_EVERY_S

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _or_none(ask: Callable[[], T]) -> T | None:
    """What a process answers, unless it has just ended."""
    try:
        return ask()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None

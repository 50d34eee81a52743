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
    """Proportional: shared pages count once in all. Sampled less often, and not in the window."""


class TreeWatch:
    """A thread that samples the tree of `pid` until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._rss = self._pss = 0
        self._in_window = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def begin_window(self) -> None:
        """From now on the tree is timed, and all but left alone until `stop`.

        A look at all pages of processes that share a gigabyte takes 70 ms of CPU time, in which
        they wait for each other's page faults too.
        """
        self._in_window = True

    def stop(self) -> Peak:
        """Sample what still lives once more and end; the peaks."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self._sample(self._tree(), whole=True)
        return Peak(self._rss, self._pss)

    def hold(self) -> None:
        """Stop every process of the tree, until `go_on`."""
        held: set[int] = set()
        while running := [each for each in self._tree() if each.pid not in held]:
            for process in running:
                _or_none(process.suspend)
                held.add(process.pid)

    def go_on(self) -> None:
        """Let every process of the tree run again."""
        for process in self._tree():
            _or_none(process.resume)

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
        while not self._stop.wait(PSS_EVERY_S if self._in_window else RSS_EVERY_S):
            whole = not self._in_window and time.monotonic() >= next_pss
            self._sample(self._tree(), whole)
            if whole:
                next_pss = time.monotonic() + PSS_EVERY_S

    def _sample(self, tree: list[psutil.Process], whole: bool) -> None:
        found = [_or_none(process.memory_info) for process in tree]
        self._rss = max(self._rss, sum(memory.rss for memory in found if memory is not None))
        if whole:
            full = [_or_none(process.memory_full_info) for process in tree]
            self._pss = max(self._pss, sum(memory.pss for memory in full if memory is not None))

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

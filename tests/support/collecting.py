"""Garbage collection at one moment, in one thread, of what is left in a cycle."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

SOON_S = 20.0


class Collection:
    """A collection that another thread makes once something has been left; none comes before it."""

    def __init__(self) -> None:
        self._left, self._made = threading.Event(), threading.Event()

    def make(self) -> None:
        """Wait until it is left, and collect it, in this thread."""
        self._left.wait(SOON_S)
        gc.collect()
        self._made.set()

    def after(self, leave: Callable[[], T]) -> T:
        """Call what leaves it, and return what that returns when the collection is over."""
        gc.disable()
        try:
            found = leave()
            self._left.set()
            assert self._made.wait(SOON_S)
            return found
        finally:
            gc.enable()


def in_a_cycle(*values: Any) -> None:
    """Leave values in a cycle, which nobody else holds."""
    cycle: list[Any] = [*values]
    cycle.append(cycle)

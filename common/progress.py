"""How far long work has come: libraries report it, and whoever runs them may show it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol


class Progress(Protocol):
    """A receiver that is told how far work has come."""

    def add(self, num_bytes: int = 0, items: int = 0) -> None:
        """Count bytes, from any thread; or items that are done."""


Display = Callable[[str, int, str, int], AbstractContextManager[Progress]]
"""A callback that begins to show work: what is being done, to how many items, what they are called,
and about how many bytes.
"""


class _Unseen:
    def add(self, num_bytes: int = 0, items: int = 0) -> None:
        pass


_display: ContextVar[Display] = ContextVar("display", default=lambda *_: nullcontext(_Unseen()))


@contextmanager
def shown_on(display: Display) -> Iterator[None]:
    """Show the progress of what is called inside; without, nothing is shown."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


def progress_of(
    doing: str, *, items: int, what: str, num_bytes: int
) -> AbstractContextManager[Progress]:
    """Begin work on this many items, `what` they are called, of about this many bytes.

    Returns:
        A context manager that spans the work, and is told how far it has come.
    """
    return _display.get()(doing, items, what, num_bytes)

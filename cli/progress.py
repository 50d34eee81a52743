"""The progress display of what takes long: items done, bytes, rate and time left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from roboshard.common.interrupts import removed_at_exit


@contextmanager
def bar(doing: str, items: int, what: str, num_bytes: int) -> Iterator["_Bar"]:
    """Show a bar over bytes on standard error; nothing where that is no terminal.

    Args:
        doing: what is being done.
        items: to how many things.
        what: what these are called.
        num_bytes: about how many bytes they have.
    """
    display = Progress(
        TextColumn(f"{doing} {{task.fields[done]}}/{items} {what}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    shown = _Bar(display, num_bytes)
    if display.disable:  # rich 13 ends one that is not shown with an empty line
        yield shown
        return
    # A process that is ended inside shall not leave a terminal without its cursor.
    with removed_at_exit(display.stop), display:
        yield shown
        shown.end()


@contextmanager
def counter(what: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show on standard error how many of `what` are done, of how many, as the function is told that
    is yielded.
    """
    console = Console(stderr=True)
    if hidden or not console.is_terminal:
        yield lambda *_: None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Bar:
    def __init__(self, display: Progress, num_bytes: int) -> None:
        self._display = display
        self._task = display.add_task("", total=num_bytes, done=0)
        self._done = 0

    def add(self, num_bytes: int = 0, items: int = 0) -> None:
        """Count bytes, from any thread; or items that are done."""
        self._done += items
        total = max(self._display.tasks[0].total or 0, self._completed + num_bytes)
        self._display.update(self._task, advance=num_bytes, total=total, done=self._done)

    def end(self) -> None:
        """Set the total, which was an estimate, to what was done."""
        self._display.update(self._task, total=self._completed)

    @property
    def _completed(self) -> float:
        return self._display.tasks[0].completed

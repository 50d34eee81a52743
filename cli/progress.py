"""The progress display of what takes long: items done, bytes, rate and time left."""

import atexit
import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class Bar:
    """A bar over bytes, on standard error; silent where that is no terminal. A context manager."""

    def __init__(self, doing: str, items: int, what: str, num_bytes: int) -> None:
        """Expect this many items, `what` they are called, and about this many bytes."""
        self._display = Progress(
            TextColumn(f"{doing} {{task.fields[done]}}/{items} {what}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._display.add_task("", total=num_bytes, done=0)
        self._done = 0

    def __enter__(self) -> Self:
        # A process that is ended inside shall not leave a terminal without its cursor.
        atexit.register(self._display.stop)
        self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._display.update(
                self._task, total=self._completed
            )  # the estimate gives way to what it was
        self._display.stop()
        atexit.unregister(self._display.stop)

    @property
    def _completed(self) -> float:
        return self._display.tasks[0].completed

    def add(self, num_bytes: int = 0, items: int = 0) -> None:
        """Count bytes, from any thread; or items that are done."""
        self._done += items
        total = max(self._display.tasks[0].total or 0, self._completed + num_bytes)
        self._display.update(self._task, advance=num_bytes, total=total, done=self._done)

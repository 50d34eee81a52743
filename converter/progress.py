"""The progress display of a conversion: episodes, bytes, rate and time left."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress


class Progress:
    """A bar over the estimated bytes on standard error; silent where that is no terminal. A context manager."""

    def __init__(self, *, episodes: int, num_bytes: int) -> None:
        """Expect this many episodes and about this many bytes."""
        self._display = RichProgress(
            TextColumn("converting {task.fields[done]}/{task.fields[episodes]} episodes"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._display.add_task("", total=num_bytes, done=0, episodes=episodes)
        self._done = 0

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = self._display.tasks[0]
        if error is None:
            self._display.update(self._task, total=task.completed)  # the estimate gives way to what it was
        self._display.stop()

    def episode_done(self, num_bytes: int) -> None:
        """Count one episode of this many bytes."""
        self._done += 1
        task = self._display.tasks[0]
        total = max(task.total or 0, task.completed + num_bytes)
        self._display.update(self._task, advance=num_bytes, total=total, done=self._done)

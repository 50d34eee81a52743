"""The progress display of a verification: shards, bytes, rate and time left."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress


class Progress:
    """A bar over the bytes to read, on standard error; silent where that is no terminal. A context manager."""

    def __init__(self, *, shards: int, num_bytes: int) -> None:
        """Expect this many shards and about this many bytes."""
        self._display = RichProgress(
            TextColumn("verifying {task.fields[done]}/{task.fields[shards]} shards"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._display.add_task("", total=num_bytes, done=0, shards=shards)
        self._done = 0

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def read(self, num_bytes: int) -> None:
        """Count bytes; from any thread."""
        self._display.update(self._task, advance=num_bytes)

    def shard_done(self) -> None:
        """Count one shard."""
        self._done += 1
        self._display.update(self._task, done=self._done)

"""The progress display of an upload: files, bytes, rate and time left."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

from roboshard.shards.storage.targets import Upload


class Progress:
    """A bar over the bytes to send, on standard error; silent where that is no terminal. A context manager."""

    def __init__(self, *, files: int, num_bytes: int) -> None:
        """Expect this many files and bytes."""
        self._display = RichProgress(
            TextColumn("sending {task.fields[done]}/{task.fields[files]} files"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._display.add_task("", total=num_bytes, done=0, files=files)
        self._done = 0

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def sent(self, uploads: Sequence[Upload]) -> None:
        """Count files that are there now."""
        self._done += len(uploads)
        self._display.update(self._task, advance=sum(upload.size for upload in uploads), done=self._done)

"""Copy into an open file what somebody else writes to a path.

For writers that do not say, or wait for ever, where a disk is full: they get a pipe, and the file
is written here.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

CHUNK = 1 << 20


@contextmanager
def copied_from(
    open_path: Callable[[Path], object], file: IO[bytes]
) -> Iterator[Callable[[], None]]:
    """Copy into `file` until the writer closes the path, which it must have done by the end of the
    block.

    Args:
        open_path: Called with a path that it must have opened for writing, once, when it returns.
        file: Where the bytes go.

    Yields:
        A function that raises OSError where `file` could not be written; so does the end of the
        block. The writer goes on into nothing.
    """
    with tempfile.TemporaryDirectory(prefix="roboshard-") as folder:
        path = Path(folder) / "pipe"
        os.mkfifo(path)
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NONBLOCK
        )  # a reader, so that opening it to write returns
        try:
            open_path(path)
            os.set_blocking(descriptor, True)
            copy = _Copy(descriptor, file)
            try:
                yield copy.check
            finally:
                copy.join()
            copy.check()
        finally:
            os.close(descriptor)


class _Copy(threading.Thread):
    """The thread that copies from the pipe into the file."""

    def __init__(self, descriptor: int, file: IO[bytes]) -> None:
        super().__init__(name="roboshard-pipe", daemon=True)
        self._descriptor, self._file = descriptor, file
        self._error: OSError | None = None
        self.start()

    def run(self) -> None:
        """Copy until the end of the pipe, whatever becomes of the file."""
        while data := os.read(self._descriptor, CHUNK):
            if self._error is None:
                try:
                    self._file.write(data)
                except OSError as error:
                    self._error = error

    def check(self) -> None:
        """Raise the error of writing the file, if there was one."""
        if self._error is not None:
            raise self._error

"""Files written through a pipe: what arrives, and which error."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import IO

import pytest

from roboshard.tools.preview.pipe import copied_from

DATA = bytes(range(256)) * 10_000
"""Far more than a pipe holds."""


class Full(io.BytesIO):
    """A file on a disk that is full after the first part."""

    def write(self, data: object) -> int:
        """Never again."""
        raise OSError(28, "No space left on device")


def test_all_that_is_written_to_the_path_arrives() -> None:
    file, writers = io.BytesIO(), list[IO[bytes]]()
    with copied_from(lambda path: writers.append(path.open("wb")), file) as check:
        for _ in range(3):
            writers[0].write(DATA)
            check()
        writers[0].close()
    assert file.getvalue() == DATA * 3
    assert not [thread.name for thread in threading.enumerate() if thread.name == "roboshard-pipe"]


def test_a_full_disk_is_said_and_does_not_stop_the_writer() -> None:
    writers = list[IO[bytes]]()

    def write_all() -> None:
        with copied_from(lambda path: writers.append(path.open("wb")), Full()):
            writers[0].write(DATA)
            writers[0].close()

    with pytest.raises(OSError, match="No space left"):
        write_all()
    assert writers[0].closed


def test_a_path_that_is_not_opened_and_a_writer_that_fails() -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(path)

    with pytest.raises(PermissionError), copied_from(refuse, io.BytesIO()):
        pass

    def fail() -> None:
        with copied_from(lambda path: path.open("wb").close(), Full()):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

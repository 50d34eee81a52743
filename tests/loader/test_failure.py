"""A worker's error is the same error in its parent."""

from __future__ import annotations

import errno
import pickle
import threading
from typing import Any

import pytest

from roboshard.loader.running.failure import Failure, arrived
from roboshard.shards import DamageError, FormatError, MissingError, OptionError, VersionError


class TwoArguments(Exception):
    def __init__(self, camera: str, frame: int) -> None:
        super().__init__(f"{camera}: frame {frame} is black")
        self.camera = camera


class WritesItsOwnWords(ValueError):
    def __init__(self, number: int) -> None:
        super().__init__(f"{number} is bad")


class OfTheSystem(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is full")
        self.path = path


class HoldsALock(RuntimeError):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class ByItsAttribute(Exception):
    def __init__(self, *, camera: str) -> None:
        super().__init__()
        self.camera = camera

    def __str__(self) -> str:
        return f"nothing from {self.camera}"


def sent(error: Exception) -> Exception:
    """What the parent raises of an error that was raised in a worker."""
    try:
        raise error
    except type(error) as raised:
        message = pickle.loads(pickle.dumps(Failure.of(raised, worker=3)))
    with pytest.raises((type(error), RuntimeError)) as found:
        arrived(message)
    return found.value


@pytest.mark.parametrize(
    "error",
    [
        FormatError("shard-000000.json: contradicts itself:", ["samples: none", "size: 0"]),
        VersionError("a version of its own"),
        DamageError("damaged"),
        MissingError("no such file"),
        OptionError("batch_size must be 1"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "episodes.json"),
        KeyError("action"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ImportError("no module", name="augment"),
        TwoArguments("top", 7),
        WritesItsOwnWords(3),
        OfTheSystem("/dev/shm"),
        HoldsALock("not now"),
        ByItsAttribute(camera="top"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_its_type_and_its_words_are_the_same_and_its_traceback_is_a_note(error: Exception) -> None:
    found = sent(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    (note,) = found.__notes__
    assert note.startswith("In worker process 3:\nTraceback (most recent call last):\n")
    assert "in sent\n    raise error\n" in note


def test_so_are_its_attributes() -> None:
    problems = ["samples: none", "size: 0"]
    attributes: list[tuple[Exception, str, Any]] = [
        (FormatError("contradicts itself:", problems), "problems", tuple(problems)),
        (FileNotFoundError(errno.ENOENT, "not there", "x.tar"), "errno", errno.ENOENT),
        (FileNotFoundError(errno.ENOENT, "not there", "x.tar"), "filename", "x.tar"),
        (TwoArguments("top", 7), "camera", "top"),
        (OfTheSystem("/dev/shm"), "path", "/dev/shm"),
    ]
    for error, name, value in attributes:
        assert getattr(sent(error), name) == value


def test_an_error_of_a_class_that_the_parent_cannot_find_is_named() -> None:
    class Own(Exception):
        pass

    found = sent(Own("no picture is good enough"))
    assert type(found) is RuntimeError
    assert str(found).endswith("Own: no picture is good enough")

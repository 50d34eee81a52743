"""How a command ends its own processes, where its work is stuck and does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

import pytest

from roboshard.cli import process

ENDS_WITHIN_S = 20.0


def hold(folder: str, hears_sigterm: bool, ready: Any) -> None:
    """A child with a folder of its own, which it removes when it is asked to end."""

    def tidy(_number: int, _frame: FrameType | None) -> None:
        Path(folder).rmdir()
        os._exit(0)

    Path(folder).mkdir()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, tidy if hears_sigterm else signal.SIG_IGN)
    ready.set()
    Event().wait()


def stuck(folder: str) -> int:
    """Work that starts two children, says who they are, and then looks at nothing any more."""
    context = get_context("spawn")
    for name in ("tidy", "deaf"):
        ready = context.Event()
        child = context.Process(target=hold, args=(f"{folder}/{name}", name == "tidy", ready))
        child.start()
        ready.wait()
        os.write(sys.stdout.fileno(), f"{child.pid}\n".encode())
    Event().wait()
    return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_processes_of_stuck_work_may_tidy_up_and_are_ended(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as running:
        assert running.stdout is not None
        children = [int(running.stdout.readline()) for _ in range(2)]
        os.killpg(running.pid, number)
        assert running.wait(ENDS_WITHIN_S) == 128 + number
    assert [path.name for path in tmp_path.iterdir()] == ["deaf"], "the other has tidied up"
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


if __name__ == "__main__":
    process.run(lambda arguments: lambda: stuck(arguments[0]))

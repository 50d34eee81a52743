"""Commands in sessions of their own, signaled at any moment, and what must be true of them
after.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BIN = Path(sys.executable).parent
ENDS_WITHIN_S = 5.0
LINE = {
    signal.SIGINT: "interrupted; run the same command again to continue\n",
    signal.SIGTERM: "ended by SIGTERM; run the same command again to continue\n",
    signal.SIGHUP: "ended by SIGHUP; run the same command again to continue\n",
}


@contextlib.contextmanager
def own_handlers() -> Iterator[None]:
    """Run a command in this process: its handlers of signals are its own until its process ends."""
    handlers = {number: signal.getsignal(number) for number in LINE}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Process(NamedTuple):
    """A process, as /proc tells of it."""

    pid: int
    parent: int
    session: int
    command: bytes


def processes() -> Iterator[Process]:
    """All that run; not those that ended and whose parent has not asked how."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended just now
        if state not in "ZX":
            yield Process(int(folder.name), int(parent), int(session), command)


class Command:
    """A command in a session of its own, with a folder for temporary files of its own."""

    def __init__(
        self, folder: Path, command: str, *arguments: str | Path, **environment: str
    ) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._stderr = folder / "stderr"
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [BIN / command, *map(str, arguments)],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=os.environ | {"TMPDIR": str(self.temporary)} | environment,
                start_new_session=True,
            )
        self.begun = time.monotonic()

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def handles_signals(self) -> bool:
        """Whether Python has come to the command's own first line."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return False
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    @property
    def workers(self) -> list[int]:
        return [
            found.pid
            for found in processes()
            if found.session == self.process.pid and b"spawn_main" in found.command
        ]

    @property
    def is_gone(self) -> bool:
        return all(found.session != self.process.pid for found in processes())

    @property
    def said(self) -> str:
        return self._stderr.read_text()

    def send(self, number: int, *, to_group: bool) -> None:
        if to_group:
            os.killpg(self.process.pid, number)
        else:
            os.kill(self.process.pid, number)

    def wait_gone(self, seconds: float = 120.0) -> float:
        """Wait until nothing of it runs.

        Returns:
            The seconds that it took, without those in which it could run and others ran instead.
        """
        begun, delayed = time.monotonic(), self._delayed()
        waited = 0.0
        while self.is_running:
            waited = max(waited, self._delayed() - delayed)
            assert time.monotonic() - begun < seconds, list(processes())
            time.sleep(0.005)
        while not self.is_gone:
            assert time.monotonic() - begun < seconds, list(processes())
            time.sleep(0.02)
        return time.monotonic() - begun - waited

    def _delayed(self) -> float:
        """Seconds that its threads have waited for a processor, all of them together."""
        total = 0
        for schedule in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, IndexError):  # the thread has ended
                total += int(schedule.read_text().split()[1])
        return total / 1e9

    def kill(self) -> None:
        """End what is left of it, when a test has failed."""
        for found in processes():
            if found.session == self.process.pid:
                os.kill(found.pid, signal.SIGKILL)
        self.process.wait()

"""Processes that load for a benchmark, watched from outside: memory and CPU time of the whole tree.

A contender speaks by lines of JSON (peers/window.py says which), and loads only in its turns: in
between all of its processes are held, so that it neither loads ahead nor takes a core from another
one.
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from process_tree import TreeWatch

Run = dict[str, Any]
PRECISION = {
    "samples_per_s": 1,
    "frames_per_s": 1,
    "cpu_s": 2,
    "cpu_ms_per_frame": 3,
    "elapsed_s": 3,
}


@dataclass(frozen=True)
class Program:
    """How a contender is started."""

    command: list[str]
    environment: dict[str, str] | None = None


class CaseError(Exception):
    """A contender did not give a result."""


class EndedError(Exception):
    """A contender's process ended before it had said what was waited for."""


@dataclass(frozen=True)
class Used:
    """What a contender has done since its window began."""

    frames: int = 0
    elapsed_s: float = 0.0
    """Its own turns."""
    cpu_s: float = 0.0

    def __sub__(self, before: "Used") -> "Used":
        """Return what it has done since."""
        return Used(
            self.frames - before.frames,
            self.elapsed_s - before.elapsed_s,
            self.cpu_s - before.cpu_s,
        )

    @property
    def rates(self) -> Run:
        """Frames a second, and CPU milliseconds a frame."""
        return {
            "frames_per_s": self.frames / self.elapsed_s,
            "cpu_ms_per_frame": 1000 * self.cpu_s / self.frames,
        }


class Contender:
    """A process that loads in its turns."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Watch this process, which has just been started."""
        self.watch = TreeWatch(process.pid)
        self.used = Used()
        self.result: Run | None = None
        """What it said at the end of its window; None: that is to come."""
        self._process = process
        self._cpu_before = 0.0

    def warm_up(self) -> None:
        """Wait until its window begins."""
        self._hear("window")
        self.watch.begin_window()
        self.watch.hold()
        self._cpu_before = self.watch.cpu_seconds()

    def take_turn(self) -> None:
        """Let it load for a turn, whose length is its own to know."""
        self.watch.go_on()
        self._say_go_on()
        said = self._hear("turn", "result")
        self.watch.hold()
        cpu_s = self.watch.cpu_seconds() - self._cpu_before
        self.used = Used(said["frames"], said["elapsed_s"], cpu_s)
        if said["event"] == "result":
            self.result = said

    def end(self) -> None:
        """Let it end by itself, once its window is over."""
        self.watch.go_on()
        self._say_go_on()
        self._process.wait()

    def _hear(self, *events: str) -> Run:
        """Return the first of these events that it tells of; other lines are of libraries."""
        for line in stream(self._process.stdout):
            if line.startswith('{"event"'):
                said: Run = json.loads(line)
                if said["event"] in events:
                    return said
        raise EndedError

    def _say_go_on(self) -> None:
        try:
            stream(self._process.stdin).write("\n")
            stream(self._process.stdin).flush()
        except BrokenPipeError:
            raise EndedError from None


@contextmanager
def started(program: Program, timeout_s: float | None = None) -> Iterator[Contender]:
    """Start a contender; afterwards none of its processes is left.

    Raises:
        CaseError: It ended, or was killed after `timeout_s`, before it was through.
    """
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            program.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=program.environment,
            text=True,
        ) as process,
    ):
        contender = Contender(process)
        timer = threading.Timer(timeout_s or 0.0, contender.watch.kill)
        if timeout_s is not None:
            timer.start()
        try:
            yield contender
        except EndedError:
            late = timeout_s is not None and not timer.is_alive()
            contender.watch.kill()
            code, peak = process.wait(), contender.watch.stop()
            errors.seek(0)
            said = errors.read().strip()
            print(said[-1500:], file=sys.stderr)
            reason = f"killed after {timeout_s} s" if late else f"ended with {code}"
            memory = f"{peak.rss / 1e9:.1f} GB of memory"
            words = ": ".join([f"{reason}, having had {memory}", *said.splitlines()[-1:]])
            raise CaseError(words) from None
        finally:
            timer.cancel()
            contender.watch.kill()
            contender.watch.stop()


def run(program: Program, timeout_s: float, limit: Contender | None = None) -> Run:
    """Run a contender in a fresh process; a `limit` that runs already has turns between its own.

    Returns its rates and memory, and with a limit the limit's rates in the same seconds, as
    `limit_frames_per_s` and `limit_cpu_ms_per_frame`.

    Raises:
        CaseError: It gave no result.
    """
    with started(program, timeout_s) as own:
        own.warm_up()
        before = limit.used if limit else Used()
        while own.result is None:
            own.take_turn()
            if limit:
                limit.take_turn()
        peak = own.watch.stop()
        own.end()
    beside = (limit.used - before).rates if limit else {}
    return derive(own.result, own.used) | {
        **{f"limit_{key}": round(value, PRECISION[key]) for key, value in beside.items()},
        "peak_rss_mb": round(peak.rss / 1e6),
        "peak_pss_mb": round(peak.pss / 1e6),
    }


def derive(said: Run, used: Used) -> Run:
    """Return rates from the counts of a run."""
    rates = {
        "samples_per_s": said["samples"] / used.elapsed_s,
        **used.rates,
        "cpu_s": used.cpu_s,
        "elapsed_s": used.elapsed_s,
    }
    kept = {key: value for key, value in said.items() if key not in ("event", *rates)}
    return {key: round(value, PRECISION[key]) for key, value in rates.items()} | kept


def stream(pipe: IO[str] | None) -> IO[str]:
    """Return a pipe that is there. Raises TypeError where there is none."""
    if pipe is None:
        raise TypeError("the process was started without a pipe")
    return pipe

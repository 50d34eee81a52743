"""Runs of torchrun: waited for in mid-epoch, and killed with all their processes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

Run = subprocess.Popen[bytes]


def kill(runs: Sequence[Run]) -> None:
    """SIGKILL to all launchers and their processes, which are sessions of their own."""
    for run in runs:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(run.pid)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        run.wait()


def kill_after(runs: Sequence[Run], log: Path, steps: int, seconds: float) -> None:
    """Kill runs when a rank has logged so many steps, or after so many seconds."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and all(run.poll() is None for run in runs):
            if log.exists() and len(log.read_text().splitlines()) >= steps:
                break
            time.sleep(0.005)
    finally:
        kill(runs)

"""Publishing seen from outside: the files of a folder, a bucket at one moment, commands that are
killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .servers import LocalHub

BIN = Path(sys.executable).parent


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def hashes(root: Path) -> dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, data in contents(root).items()}


def in_bucket(hub: LocalHub, bucket: str) -> dict[str, str]:
    """Path -> SHA-256, at one moment."""
    return {path: entry["sha256"] for path, entry in hub.bucket_files(bucket).items()}


def batches(hub: LocalHub) -> int:
    """How often something was written to a bucket."""
    return sum(request.path.endswith("/batch") for request in hub.requests)


def start(command: str, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BIN / command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "250", "NO_COLOR": "1"} | environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What a command said that had to succeed."""
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> bool:
    """SIGKILL the process, its children too, as soon as it is `ready`; False where it ended
    before.
    """
    while process.poll() is None and not ready():
        time.sleep(0.03)  # asking costs the server more than the upload does
    was_running = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session: it and its workers, nobody else
    process.communicate(timeout=60)
    return was_running


class Watcher:
    """A reader that looks at the bucket all the time: dataset.json, if there, lists what is
    there.
    """

    def __init__(
        self, hub: LocalHub, bucket: str, datasets: Mapping[str, Mapping[str, str]]
    ) -> None:
        """`datasets`: SHA-256 of a dataset.json -> path -> SHA-256 of all files that it stands
        for.
        """
        self._hub, self._bucket, self._datasets = hub, bucket, datasets
        self._ended = threading.Event()
        self.looks = self.complete = 0
        self.wrong: list[str] = []

    def look(self) -> None:
        there = in_bucket(self._hub, self._bucket)
        self.looks += 1
        if "dataset.json" in there:
            expected = self._datasets[there["dataset.json"]]
            self.wrong += [path for path, sha256 in expected.items() if there.get(path) != sha256]
            self.complete += 1

    def _run(self) -> None:
        while not self._ended.is_set():
            self.look()
            time.sleep(0.1)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
        assert self.looks > 5
        assert not self.wrong, f"dataset.json was there without {sorted(set(self.wrong))}"

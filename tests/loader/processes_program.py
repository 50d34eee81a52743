"""A run with two worker processes that says what it does, for tests to interrupt or kill it.

python processes_program.py ROOT starting|loading|training|forked
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

from roboshard.loader import Loader, make_loader
from roboshard.loader.order import teams

PACE_S = 0.05
FORK_S = 200.0


def loader_of(root: Path, **options: Any) -> Loader:
    return make_loader(str(root), batch_size=4, num_workers=2, seed=1, **options)


def _start(root: Path) -> None:
    """Load for ever; when that is interrupted, load once more and say what is left."""
    loader = loader_of(root)
    try:
        sys.stdout.write('"starts"\n')
        sys.stdout.flush()
        while True:
            for _ in loader:
                pass
    except KeyboardInterrupt:
        again = len(next(iter(loader))["index"])
    loader.close()
    left = [child.pid for child in multiprocessing.active_children()]
    sys.stdout.write(json.dumps({"again": again, "left": left}))


def _fork() -> None:
    """Leave a process behind that knows nothing of the loader, and say which."""
    if fork := os.fork():
        sys.stdout.write(json.dumps({"fork": fork}) + "\n")
    else:
        time.sleep(FORK_S)
        os._exit(0)


def _run(root: Path, mode: str) -> None:
    loader = loader_of(root, pool_episodes=4)
    for announcement in ("step", "again"):
        step = -1
        try:
            while True:
                for _ in loader:
                    step += 1
                    if step == 1 and mode == "forked":
                        _fork()
                    if step == 2:
                        sys.stdout.write(json.dumps({announcement: step}) + "\n")
                        sys.stdout.flush()
                    time.sleep(0 if mode == "loading" else PACE_S)
        except KeyboardInterrupt:
            if announcement == "again":
                raise


if __name__ == "__main__":
    teams.LEAST_PIXELS = 0  # workers make steps together, as of larger pictures
    if sys.argv[2] == "starting":
        _start(Path(sys.argv[1]))
    else:
        _run(Path(sys.argv[1]), sys.argv[2])

"""Processes that use a disk cache, importable as `spawn` needs it; run as a script,
`rounds_of_kills` in itself.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crc32c import crc32c

from roboshard.storage.cache import CacheKey, DiskCache
from roboshard.storage.cache import files as cache_files
from roboshard.storage.cache import folder as cache_folder

NUM_OBJECTS = 60


def content(number: int) -> bytes:
    dice = random.Random(number)
    return dice.randbytes(dice.randrange(20_000, 100_000))


CONTENTS = [content(number) for number in range(NUM_OBJECTS)]
CHECKSUMS = [crc32c(data) for data in CONTENTS]
TOTAL = sum(map(len, CONTENTS))


def key(number: int) -> CacheKey:
    """Some share an object, as episodes of one shard do."""
    shard = hashlib.sha256(bytes([number // 4])).hexdigest()
    return CacheKey(shard, number * 1_000_000, CHECKSUMS[number])


def get(cache: DiskCache, number: int, fetch: Callable[[], bytes] | None = None) -> bytes:
    return cache.get(key(number), len(CONTENTS[number]), fetch or (lambda: CONTENTS[number]))


def entry_path(cache: DiskCache, number: int) -> Path:
    (path,) = cache.folder.glob(f"roboshard-cache/*/{key(number).object}-{key(number).offset}-*")
    return path


def log_and_return(log: Path, number: int, seconds: float = 0.002) -> Callable[[], bytes]:
    """A download that is noted, one line each, whoever does it."""

    def fetch() -> bytes:
        with log.open("a") as file:
            file.write(f"{number}\n")
        time.sleep(seconds)
        return CONTENTS[number]

    return fetch


def read_at_random(
    cache: DiskCache, seed: int, seconds: float, log: Path, start: Any, results: Any
) -> None:
    """Read objects until time is over, every one at least once; put "done", or what was wrong."""
    dice = random.Random(seed)
    results.put("ready")
    start.wait()
    end = time.monotonic() + seconds
    numbers = dice.sample(range(NUM_OBJECTS), NUM_OBJECTS)
    try:
        while numbers or time.monotonic() < end:
            number = numbers.pop() if numbers else dice.randrange(NUM_OBJECTS)
            if get(cache, number, log_and_return(log, number)) != CONTENTS[number]:
                raise ValueError(f"wrong bytes of {number}")
        results.put("done")
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")
        raise


def hold(cache: DiskCache, number: int, held: Path) -> None:
    """Download for ever; `held` appears once that has begun."""

    def fetch() -> bytes:
        held.touch()
        time.sleep(600)
        return b""

    get(cache, number, fetch)


def hold_and_fork(cache: DiskCache, number: int, held: Path) -> None:
    """`hold` in a thread of a process that forks a child, which lives on, and is then killed."""
    threading.Thread(target=hold, args=(cache, number, held), daemon=True).start()
    while not held.exists():
        time.sleep(0.01)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    held.with_suffix(".child").write_text(str(child))
    os.kill(os.getpid(), signal.SIGKILL)


def files_of(cache: DiskCache) -> dict[int, int]:
    """Inode -> size in bytes, of every file in the folder."""
    found = {}
    for folder, _, names in os.walk(cache.folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            found[status.st_ino] = status.st_size
    return found


def rounds_of_kills(folder: Path, rounds: int, seed: int) -> None:
    """Fork two readers, kill them at a random moment, look at the folder; again and again.

    Exits with 1 if wrong.
    """
    cache = DiskCache(folder, TOTAL * 2 // 5)
    cache.open()
    dice = random.Random(seed)
    for _ in range(rounds):
        children = [os.fork() for _ in range(2) if os.getpid() == PARENT]
        if os.getpid() != PARENT:
            mine = random.Random(os.getpid())
            while True:
                number = mine.randrange(NUM_OBJECTS)
                if get(cache, number) != CONTENTS[number]:
                    os._exit(3)
        time.sleep(dice.uniform(0, 0.03))
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            if not os.WIFSIGNALED(status := os.waitpid(child, 0)[1]):
                sys.exit(f"a reader ended by itself: {status}")
        if (used := sum(files_of(cache).values())) > cache.max_bytes:
            sys.exit(f"{used} bytes under a cap of {cache.max_bytes}")
        with cache_files.opened_home(folder) as home, cache_folder.opened_account(home) as account:
            if (known := account.read()) is not None and known < used:
                sys.exit(f"the account says {known} where {used} bytes are")
        for number in dice.sample(range(NUM_OBJECTS), 6):
            if get(cache, number) != CONTENTS[number]:
                sys.exit(f"wrong bytes of {number}")


PARENT = os.getpid()

if __name__ == "__main__":
    rounds_of_kills(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

"""Loading that can be compared across storages and processes; as a script, a run that can be
interrupted.

`python remote_loading.py OPTIONS` prints "begun" and the digest of each batch.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from roboshard.loader import Loader, make_loader
from roboshard.shards import RoboshardError

SMALL = {
    "batch_size": 8,
    "pool_episodes": 4,
    "seed": 3,
    "delta_timestamps": {"action": [0.0, 0.1, 0.2]},
}


def small_loader(urls: Any, **options: Any) -> Loader:
    """Batches of 8 out of pools of 4 episodes."""
    return make_loader(urls, **(SMALL | options))


def digest(batch: dict[str, Any]) -> str:
    """Equal for equal batches: keys, types, shapes and every byte."""
    found = hashlib.sha256()
    for key, value in sorted(batch.items()):
        found.update(key.encode())
        if isinstance(value, torch.Tensor):
            found.update(
                f"{value.dtype} {tuple(value.shape)}".encode()
                + value.contiguous().numpy().tobytes()
            )
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


def digests(batches: Iterable[dict[str, Any]]) -> list[str]:
    """Return a digest of each batch."""
    return [digest(batch) for batch in batches]


def collect(found: list[str], batches: Iterable[dict[str, Any]]) -> None:
    """Add the digests of batches to `found`, which has those before an error."""
    found.extend(map(digest, batches))


def digests_or_error(load: Callable[[], Loader]) -> list[str] | RoboshardError:
    """Return the digests of an epoch of the loader that `load` makes, or its error."""
    try:
        return digests(load())
    except RoboshardError as error:
        return error


def load_to(path: Path, loader: Loader) -> None:
    """Write the digests of an epoch: for child processes."""
    path.write_text(json.dumps(digests(loader)))


def load_epochs(path: Path, urls: str, epochs: int, start: Any, options: dict[str, Any]) -> None:
    """Write the digests of each epoch, one list each, once all who wait at `start` are there: a
    rank.
    """
    torch.set_num_threads(1)
    loader = small_loader(urls, **options)
    start.wait()
    path.write_text(json.dumps([digests(loader) for _ in range(epochs)]))


def read_threads() -> list[threading.Thread]:
    """Return the threads of this process that read ahead."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("roboshard-read")]


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Fail unless what is inside takes less than so many seconds."""
    begun = time.monotonic()
    yield
    taken = time.monotonic() - begun
    assert taken < seconds, f"{taken:.1f} s"


def main(options: dict[str, Any]) -> None:
    """Load batches as told, one line for each."""
    torch.set_num_threads(1)
    loader = small_loader(**options)
    print("begun", flush=True)  # noqa: T201
    for batch in loader:
        print(digest(batch), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

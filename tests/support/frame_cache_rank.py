"""A rank with a frame cache, as a process:
`python frame_cache_rank.py '{"shards": …, "memory": …, …}'`.

It makes its loader, says so, and then loads an epoch for each line on its standard input; after
each it prints, as JSON, a digest of every batch and what its loader counted. `die_at`: kill itself
with half of that picture written.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from roboshard.loader import make_loader
from roboshard.loader.frame_cache import store
from roboshard.loader.running import shared_frames


def digest(batch: dict[str, Any]) -> str:
    found = hashlib.sha256()
    for key, value in sorted(batch.items()):
        is_tensor = isinstance(value, torch.Tensor)
        data = value.contiguous().numpy().tobytes() if is_tensor else repr(value).encode()
        found.update(key.encode() + data)
    return found.hexdigest()


def die_at(number: int) -> None:
    """Have this process killed in the midst of the picture of this number."""
    write, left = store._write, [number]

    def dying(file: int, data: memoryview, offset: int) -> None:
        left[0] -= len(data) > store.MARK_BYTES
        if left[0] < 0:
            write(file, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        write(file, data, offset)

    store._write = dying


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    told = json.loads(sys.argv[1])
    shared_frames.IN_MEMORY = Path(told.pop("memory"))
    shards = told.pop("shards")
    if (number := told.pop("die_at", None)) is not None:
        die_at(number)
    loader = make_loader(shards, **told)
    say("ready")
    for _ in sys.stdin:
        before = vars(loader.stats()).copy()
        batches = [digest(batch) for batch in loader]
        after = vars(loader.stats())
        say(json.dumps([batches, {key: after[key] - before[key] for key in after}]))


if __name__ == "__main__":
    main()

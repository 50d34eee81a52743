"""What a loader's memory depends on, and what it does not.

    python benchmarks/memory.py --shards DATASET

Takes the same number of steps in a process of its own for each case, and prints the peak of its
memory beyond what it takes after its imports, what it says of its episodes in memory, and a digest
of all batches: pools of 16 and of 320 episodes; 64 rank slots on one rank; and a budget of 64 MB,
which has to give the same batches as the default one. The dataset should have 320 episodes or more;
`repeat.py` makes one of a small one.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from report import print_result

CONSUMER = """
import hashlib, itertools, json, resource, sys
import psutil, torch
from roboshard.loader import make_loader

shards, steps, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
before = psutil.Process().memory_info().rss
loader, digest, resident = make_loader(shards, **options), hashlib.sha256(), 0
for batch in itertools.islice(loader, steps):
    for key, value in sorted(batch.items()):
        digest.update(key.encode())
        is_tensor = isinstance(value, torch.Tensor)
        digest.update(value.contiguous().numpy() if is_tensor else repr(value).encode())
    resident = max(resident, loader.stats().resident_bytes)
stats = loader.stats()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({
    "peak_mb": round((peak - before) / 1e6),
    "episodes_mb": round(resident / 1e6, 1),
    "episodes_read": stats.episodes_read,
    "episodes_read_again": stats.episodes_read_again,
    "digest": digest.hexdigest()[:16],
}))
loader.close()
"""


@dataclass(frozen=True)
class Options:
    """Memory of a loader."""

    shards: str
    """A roboshard dataset."""
    steps: int = 40
    batch_size: int = 64
    pools: tuple[int, int] = (16, 320)
    rank_slots: int = 64
    small_budget: int = 64_000_000
    output: Path | None = None
    """Write the JSON here too."""


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    few, many = options.pools
    cases: dict[str, dict[str, Any]] = {
        f"pool of {few}": {"pool_episodes": few},
        f"pool of {many}": {"pool_episodes": many},
        f"{options.rank_slots} rank slots on one rank": {"max_world_size": options.rank_slots},
        f"pool of {many}, {options.small_budget >> 20} MiB": {
            "pool_episodes": many,
            "memory_bytes": options.small_budget,
        },
    }
    found = {name: consumed(options, case) for name, case in cases.items()}
    first: dict[str, str] = {}
    for name, case in found.items():
        case["is_same_as"] = first.setdefault(case["digest"], name)
    values: dict[str, Any] = {
        "batch_size": options.batch_size,
        "steps": options.steps,
        "cases": found,
    }
    print_result("memory", values, options.output)


def consumed(options: Options, case: dict[str, Any]) -> dict[str, Any]:
    """Take the steps in a process of its own."""
    case = {"batch_size": options.batch_size, **case}
    command = [sys.executable, "-W", "ignore", "-c", CONSUMER]
    command += [options.shards, str(options.steps), json.dumps(case)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


if __name__ == "__main__":
    main()

"""What a loader's memory depends on, and what it does not.

    python benchmarks/memory.py --source DATASET

Repeats a local LeRobot v3 dataset until it has --episodes of them, and converts it. Then takes the
same number of steps in a process of its own for each case, and prints the peak of its memory beyond
what it takes after its imports, what it says of its episodes in memory, and a digest of all
batches: pools of 16 and of 320 episodes; 64 rank slots on one rank; and a budget of 8 MB, which
has to give the same batches as the default one.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from repeat import repeat_dataset
from report import print_result
from roboshard.converter import ConvertConfig, convert

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
    """Measure the memory of a loader."""

    source: Path
    """A local LeRobot v3 dataset."""
    episodes: int = 320
    steps: int = 40
    batch_size: int = 64
    pools: tuple[int, int] = (16, 320)
    rank_slots: int = 64
    small_budget: int = 8_000_000
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory() as folder:
        measured(options, converted(options, Path(folder)))


def converted(options: Options, folder: Path) -> Path:
    """Return shards of as many episodes as are wanted, copies of those that there are."""
    info = json.loads((options.source / "meta" / "info.json").read_text())
    size = sum(path.stat().st_size for path in options.source.rglob("*") if path.is_file())
    copies = -(-options.episodes // info["total_episodes"])
    repeat_dataset(options.source, folder / "source", copies * size)
    convert(ConvertConfig(source=str(folder / "source"), destination=str(folder / "shards")))
    shutil.rmtree(folder / "source")
    return folder / "shards"


def measured(options: Options, shards: Path) -> None:
    """Print what each case takes."""
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
    found = {name: consumed(options, shards, case) for name, case in cases.items()}
    first: dict[str, str] = {}
    for name, case in found.items():
        case["is_same_as"] = first.setdefault(case["digest"], name)
    values: dict[str, Any] = {
        "episodes": options.episodes,
        "batch_size": options.batch_size,
        "steps": options.steps,
        "cases": found,
    }
    print_result("memory", values, options.output)


def consumed(options: Options, shards: Path, case: dict[str, Any]) -> dict[str, Any]:
    """Take the steps in a process of its own."""
    case = {"batch_size": options.batch_size, **case}
    command = [sys.executable, "-W", "ignore", "-c", CONSUMER]
    command += [str(shards), str(options.steps), json.dumps(case)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


if __name__ == "__main__":
    main()

"""What a sample costs with each number of worker processes, and what they do twice.

    python benchmarks/worker_cost.py --shards DATASET [DATASET ...]

Loads the same steps in a process of its own for each dataset, order (uniform with each pool, and
sweep) and number of workers, and prints, between two steps in mid-epoch: CPU time of all processes
for each sample; video frames decoded for each one used, which rise with the workers where frames of
a GOP are wanted by several of them; and episodes read for each step, which rise where several need
the same.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import tyro

from report import print_result

CONSUMER = """
import itertools, json, sys
import psutil
from roboshard.loader import make_loader

def cpu_seconds():
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(found.user + found.system for found in times)

def main():
    shards, order, *numbers = sys.argv[1:]
    num_workers, pool, batch_size, warm_up, steps = map(int, numbers)
    loader = make_loader(shards, batch_size=batch_size, num_workers=num_workers,
                         pool_episodes=pool or None, frame_order=order)
    batches = iter(loader)
    for _ in itertools.islice(batches, warm_up):
        pass
    before, cpu = loader.stats(), cpu_seconds()
    steps = sum(1 for _ in itertools.islice(batches, steps))
    after, cpu = loader.stats(), cpu_seconds() - cpu
    used = after.frames_used - before.frames_used
    print(json.dumps({
        "cpu_ms_per_sample": round(1000 * cpu / (steps * batch_size), 4),
        "frames_decoded_per_used": round((after.frames_decoded - before.frames_decoded) / used, 3),
        "episodes_read_per_step": round((after.episodes_read - before.episodes_read) / steps, 2),
    }))
    loader.close()

if __name__ == "__main__":
    main()
"""


@dataclass(frozen=True)
class Options:
    """Measure the cost of workers."""

    shards: tuple[str, ...]
    """Roboshard datasets."""
    num_workers: tuple[int, ...] = (0, 1, 2, 4)
    pools: tuple[int, ...] = (32, 0)
    """Episodes in a pool of uniform order; 0: the default."""
    batch_size: int = 64
    warm_up: int = 60
    """Steps before the measured ones."""
    steps: int = 200
    rounds: int = 1
    """How many times everything is measured, in turn."""
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    cases: dict[str, list[dict[str, float]]] = {}
    orders = [*(("uniform", pool) for pool in options.pools), ("sweep", 0)]
    for _ in range(options.rounds):
        for shards, (order, pool), workers in product(options.shards, orders, options.num_workers):
            name = f"{Path(shards).name}, {order}, {pool or 'default'}, {workers}"
            found = consumed(options, shards, order, workers, pool)
            cases.setdefault(name, []).append(found)
    values: dict[str, Any] = {"batch_size": options.batch_size, "steps": options.steps}
    print_result("worker_cost", values | {"cases": cases}, options.output)


def consumed(
    options: Options, shards: str, order: str, num_workers: int, pool: int
) -> dict[str, float]:
    """Measure one case in a process of its own."""
    numbers = [num_workers, pool, options.batch_size, options.warm_up, options.steps]
    command = [sys.executable, "-W", "ignore", "-c", CONSUMER, shards, order, *map(str, numbers)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


if __name__ == "__main__":
    main()

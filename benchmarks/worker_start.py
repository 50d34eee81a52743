"""How long workers take to give a first batch, and what memory they take.

    python benchmarks/worker_start.py --shards DATASET

Each number of workers has a fresh process, whose imports are not timed. It makes a loader, and when
that has given some batches and is closed, a second one. Of both: seconds from `make_loader` to the
first batch, and CPU time of all processes until then. Then memory: what each worker has for itself,
mean over the workers, and what all processes have, where shared pages count once. Both include
batches, which all of them share.
"""

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from report import print_result

CONSUMER = """
import itertools, json, sys, time
import psutil
from roboshard.loader import make_loader

shards, num_workers, batch_size, steps = sys.argv[1], *map(int, sys.argv[2:])
here = psutil.Process()

def processes():
    return [here, *here.children(recursive=True)]

def cpu_seconds():
    return sum(sum(process.cpu_times()[:2]) for process in processes())

def started():
    cpu, began = cpu_seconds(), time.perf_counter()
    loader = make_loader(shards, batch_size=batch_size, num_workers=num_workers)
    batches = iter(loader)
    next(batches)
    found = {"first_batch_s": time.perf_counter() - began, "cpu_s": cpu_seconds() - cpu}
    for _ in itertools.islice(batches, steps):
        pass
    own = [process.memory_full_info() for process in processes()]
    workers = sorted(memory.uss for memory in own[1:])[-num_workers:] if num_workers else [0]
    found["worker_mb"] = sum(workers) / len(workers) / 1e6
    found["all_mb"] = sum(memory.pss for memory in own) / 1e6
    loader.close()
    return found

print(json.dumps([started(), started()]))
"""


@dataclass(frozen=True)
class Options:
    """Measure the start of workers."""

    shards: str
    """A roboshard dataset."""
    num_workers: tuple[int, ...] = (0, 1, 2, 8)
    batch_size: int = 64
    steps: int = 20
    """Batches that are taken after the first one."""
    runs: int = 3
    """How many times everything is measured, in turn."""
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    rounds = [
        {number: started(options, number) for number in options.num_workers}
        for _ in range(options.runs)
    ]
    cases: dict[str, Any] = {}
    for number in options.num_workers:
        for place, loader in enumerate(("first", "second")):
            found = [each[number][place] for each in rounds]
            cases[f"{number}, {loader}"] = {
                key: round(statistics.median(one[key] for one in found), 3) for key in found[0]
            }
    values = {"batch_size": options.batch_size, "runs": options.runs, "cases": cases}
    print_result("worker_start", values, options.output)


def started(options: Options, num_workers: int) -> list[dict[str, float]]:
    """Measure two loaders, one after the other, in a process of their own."""
    numbers = [num_workers, options.batch_size, options.steps]
    command = [sys.executable, "-W", "ignore", "-c", CONSUMER, options.shards, *map(str, numbers)]
    return list(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


if __name__ == "__main__":
    main()

"""What it costs to resume at the first, a middle and the last step, beside starting.

    python benchmarks/resume_cost.py --shards DATASET

Each run makes a fresh loader, loads the state of one of the steps, and takes one batch; the steps
alternate. Prints medians of the time to the first batch (opening the dataset included) and of the
bytes read until then.
"""

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from report import print_result
from roboshard.loader import Loader, make_loader


@dataclass(frozen=True)
class Options:
    """Measure the cost of resuming."""

    shards: str
    """A roboshard dataset."""
    batch_size: int = 64
    pool_episodes: int = 8
    runs: int = 7
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    last = len(make(options)) - 1
    steps = {"start": 0, "step_1": 1, "half": last // 2, "last": last}
    seconds, num_bytes = defaultdict(list), {}
    for _ in range(options.runs + 1):
        for name, step in steps.items():
            taken, read = first_batch(options, step)
            seconds[name].append(taken)
            num_bytes[name] = read
    values: dict[str, Any] = {"steps_per_epoch": last + 1}
    start_s = statistics.median(seconds["start"][1:])  # the first run warms the page cache
    for name, step in steps.items():
        taken = statistics.median(seconds[name][1:])
        values[name] = {
            "step": step,
            "first_batch_s": round(taken, 4),
            "bytes_read": num_bytes[name],
            "time_over_start": round(taken / start_s, 2),
            "bytes_over_start": round(num_bytes[name] / num_bytes["start"], 2),
        }
    print_result("resume_cost", values, options.output)


def make(options: Options) -> Loader:
    """Make a fresh loader."""
    return make_loader(
        options.shards, batch_size=options.batch_size, pool_episodes=options.pool_episodes
    )


def first_batch(options: Options, step: int) -> tuple[float, int]:
    """Return (seconds to the first batch, bytes read) of a loader that resumes at `step`."""
    started = time.perf_counter()
    loader = make(options)
    if step:
        loader.load_state_dict(loader.state_at(step, world_size=1, batch_size=options.batch_size))
    next(iter(loader))
    return time.perf_counter() - started, loader.stats().bytes_read


if __name__ == "__main__":
    main()

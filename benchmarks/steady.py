"""Whether a loader's memory, open files and threads stay the same from epoch to epoch.

    python benchmarks/steady.py --shards DATASET

Loads `epochs` epochs with each number of workers and prints, after each epoch, the memory of all
processes (PSS: shared pages count once), open files and threads of this process; and the growth of
the memory since the second epoch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tyro

from report import print_result
from roboshard.loader import make_loader


@dataclass(frozen=True)
class Options:
    """Measure memory over epochs."""

    shards: str
    """A roboshard dataset."""
    epochs: int = 20
    num_episodes: int = 4
    """Load only so many episodes, the dataset's first ones, so that epochs are short."""
    batch_size: int = 32
    num_workers: tuple[int, ...] = field(default=(0, 2))
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    values: dict[str, Any] = {"epochs": options.epochs, "frames_per_epoch": 0}
    for num_workers in options.num_workers:
        loader = make_loader(
            options.shards,
            episodes=range(options.num_episodes),
            batch_size=options.batch_size,
            num_workers=num_workers,
        )
        found = []
        for _ in range(options.epochs):
            samples = sum(len(batch["index"]) for batch in loader)
            found.append(state())
        loader.close()
        values["frames_per_epoch"] = samples * len(loader.meta.camera_keys)
        memory = [memory_mb for memory_mb, _, _ in found]
        values[f"workers_{num_workers}"] = {
            "memory_mb": memory,
            "growth_since_second_epoch": round(max(memory[2:]) / memory[1] - 1, 3),
            "open_files": [files for _, files, _ in found],
            "threads": [threads for _, _, threads in found],
        }
    print_result("steady", values, options.output)


def state() -> tuple[int, int, int]:
    """(MB of all processes, open files, threads)."""
    here = psutil.Process()
    processes = [here, *here.children(recursive=True)]
    memory = sum(process.memory_full_info().pss for process in processes)
    return round(memory / 1e6), here.num_fds(), here.num_threads()


if __name__ == "__main__":
    main()

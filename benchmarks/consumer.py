"""What a training loop notices of the loader: how long it waits, and how much its own work slows decoding.

    python benchmarks/consumer.py --shards DATASET

Three consumers take turns on one loader, for `batches` batches each, `runs` times over:

- idle: takes batches as fast as they come. This is the time of a batch.
- python: works in pure Python for 20 ms a batch, holding the interpreter's lock.
- slow: sleeps for twice an idle consumer's batch, as a training step on a GPU would. It should never wait.

Prints medians: milliseconds a batch, and the share of the time that was spent waiting for data, also without the
waits for the first batch of an epoch: epochs of the dataset that this is run on may be very short.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from report import print_result
from roboshard.loader import make_loader
from roboshard.loader.config import FrameOrder

PYTHON_WORK_S = 0.020
UNTIMED = 4
"""Batches at the beginning of each turn: the last consumer left as many behind as are decoded ahead."""


@dataclass(frozen=True)
class Options:
    """Waiting for data."""

    shards: str
    """A roboshard dataset."""
    batch_size: int = 64
    frame_order: FrameOrder = "sweep"
    num_workers: int = 0
    batches: int = 24
    runs: int = 5
    output: Path | None = None
    """Write the JSON here too."""


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    batches = endless(options)
    milliseconds, waiting = defaultdict(list), defaultdict(list)
    take(batches, options.batches, rest)
    for _ in range(options.runs):
        idle_s, *_ = turn(batches, options.batches, rest)
        turns: dict[str, Callable[[], None]] = {"python": work, "slow": lambda idle_s=idle_s: time.sleep(2 * idle_s)}
        milliseconds["idle"].append(1000 * idle_s)
        for name, consume in turns.items():
            seconds, *shares = turn(batches, options.batches, consume)
            milliseconds[name].append(1000 * seconds)
            waiting[name].append(shares)
    values: dict[str, Any] = {"frame_order": options.frame_order, "num_workers": options.num_workers}
    for name, found in milliseconds.items():
        values[name] = {"ms_per_batch": round(statistics.median(found), 1), "runs": [round(ms, 1) for ms in found]}
    for name, found in waiting.items():
        values[name]["waiting"] = round(statistics.median(share for share, _ in found), 4)
        values[name]["waiting_within_epochs"] = round(statistics.median(share for _, share in found), 4)
    slower = [work_ms - idle for idle, work_ms in zip(milliseconds["idle"], milliseconds["python"], strict=True)]
    values["python"]["slower_than_idle_ms"] = round(statistics.median(slower), 1)
    print_result("consumer", values, options.output)


def endless(options: Options) -> Iterator[tuple[int, Any]]:
    """(step of its epoch, batch), epoch after epoch."""
    loader = make_loader(
        options.shards,
        batch_size=options.batch_size,
        frame_order=options.frame_order,
        num_workers=options.num_workers,
        drop_last=True,
    )
    while True:
        yield from enumerate(loader)


def turn(batches: Iterator[tuple[int, Any]], number: int, consume: Callable[[], None]) -> tuple[float, float, float]:
    """(seconds a batch, share of them spent waiting, that without waiting for epochs to begin) of one consumer."""
    take(batches, UNTIMED, consume)
    started = time.perf_counter()
    waited, inside = take(batches, number, consume)
    taken = time.perf_counter() - started
    return taken / number, waited / taken, inside / taken


def take(batches: Iterator[tuple[int, Any]], number: int, consume: Callable[[], None]) -> tuple[float, float]:
    """Seconds of waiting for `number` batches, and for those of them that do not begin an epoch."""
    waited = inside = 0.0
    for _ in range(number):
        started = time.perf_counter()
        step, _ = next(batches)
        seconds = time.perf_counter() - started
        waited, inside = waited + seconds, inside + (seconds if step else 0)
        consume()
    return waited, inside


def rest() -> None:
    """Nothing."""


def work() -> None:
    """Pure Python."""
    until = time.perf_counter() + PYTHON_WORK_S
    while time.perf_counter() < until:
        pass


if __name__ == "__main__":
    main()

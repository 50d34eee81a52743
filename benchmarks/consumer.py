"""What a training loop notices of the loader: how long it waits, and how much its own work slows
decoding.

    python benchmarks/consumer.py --shards DATASET

Three consumers take turns on one loader, for `batches` batches each, `runs` times over:

- idle: takes batches as fast as they come. This is the time of a batch.
- python: works in pure Python for 20 ms a batch, holding the interpreter's lock.
- slow: sleeps for twice an idle consumer's batch, as a training step on a GPU would. It should
  never wait.

Prints medians: milliseconds a batch; the share of the time that was spent waiting for data, also
without the waits for the first batch of an epoch (epochs of the dataset that this is run on may be
very short); and the share spent on letting go of the last batch, as a `for` loop does when it has
the next one: torch passes the interpreter's lock on there, for which decoding threads are waiting.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import tyro

from report import print_result
from roboshard.loader import make_loader
from roboshard.loader.config import FrameOrder

PYTHON_WORK_S = 0.020
UNTIMED = 4
"""Batches at the beginning of each turn: the last consumer left as many behind as are decoded
ahead.
"""


@dataclass(frozen=True)
class Options:
    """Measure how long a training loop waits for data."""

    shards: str
    """A roboshard dataset."""
    batch_size: int = 64
    frame_order: FrameOrder = "sweep"
    num_workers: int = 0
    batches: int = 24
    runs: int = 5
    output: Path | None = None
    """Write the JSON to this file too."""


@dataclass
class Seconds:
    """What some batches took of their consumer."""

    waiting: float = 0.0
    waiting_within_epochs: float = 0.0
    letting_go: float = 0.0


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    batches = Batches(options)
    milliseconds, shares = defaultdict(list), defaultdict(list)
    batches.take(options.batches, rest)
    for _ in range(options.runs):
        idle_s, _ = batches.turn(options.batches, rest)
        turns: dict[str, Callable[[], None]] = {
            "python": work,
            "slow": lambda idle_s=idle_s: time.sleep(2 * idle_s),
        }
        milliseconds["idle"].append(1000 * idle_s)
        for name, consume in turns.items():
            seconds, found = batches.turn(options.batches, consume)
            milliseconds[name].append(1000 * seconds)
            shares[name].append(found)
    values: dict[str, Any] = {
        "frame_order": options.frame_order,
        "num_workers": options.num_workers,
    }
    for name, times in milliseconds.items():
        values[name] = {
            "ms_per_batch": round(statistics.median(times), 1),
            "runs": [round(ms, 1) for ms in times],
        }
    for name, turns_of in shares.items():
        values[name] |= {
            key: round(statistics.median(one[key] for one in turns_of), 4) for key in turns_of[0]
        }
    slower = [
        work_ms - idle
        for idle, work_ms in zip(milliseconds["idle"], milliseconds["python"], strict=True)
    ]
    values["python"]["slower_than_idle_ms"] = round(statistics.median(slower), 1)
    print_result("consumer", values, options.output)


class Batches:
    """Batches of one loader, epoch after epoch."""

    def __init__(self, options: Options) -> None:
        self._loader = make_loader(
            options.shards,
            batch_size=options.batch_size,
            frame_order=options.frame_order,
            num_workers=options.num_workers,
            drop_last=True,
        )
        self._coming = chain.from_iterable(repeat(self._loader))
        self._taken = 0
        self._batch: Any = None

    def take(self, number: int, consume: Callable[[], None]) -> Seconds:
        """Take so many, each for a consumer's work."""
        seconds = Seconds()
        for _ in range(number):
            started = time.perf_counter()
            batch = next(self._coming)
            arrived = time.perf_counter()
            self._batch, batch = batch, None  # the last one goes
            seconds.letting_go += time.perf_counter() - arrived
            seconds.waiting += arrived - started
            seconds.waiting_within_epochs += (arrived - started) * bool(
                self._taken % len(self._loader)
            )
            self._taken += 1
            consume()
        return seconds

    def turn(self, number: int, consume: Callable[[], None]) -> tuple[float, dict[str, float]]:
        """(seconds a batch, shares of them by name) of one consumer."""
        self.take(UNTIMED, consume)
        started = time.perf_counter()
        seconds = self.take(number, consume)
        taken = time.perf_counter() - started
        return taken / number, {name: value / taken for name, value in vars(seconds).items()}


def rest() -> None:
    """Do nothing."""


def work() -> None:
    """Run pure Python for `PYTHON_WORK_S` seconds."""
    until = time.perf_counter() + PYTHON_WORK_S
    while time.perf_counter() < until:
        pass


if __name__ == "__main__":
    main()

"""Time and memory of a plan of 10^12 frames, and of asking it for any step.

    python benchmarks/plan_scale.py

Builds the plan of one epoch over --episodes episodes of about --frames frames, then asks for random
steps of random ranks, for both frame orders. Memory is the peak of what Python and NumPy allocated
while building.
"""

import statistics
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from report import print_result
from roboshard.loader.config import FrameOrder, OrderConfig
from roboshard.loader.order.plan import Episodes, EpochPlan, Slots

SLOTS = Slots(rank_slots=64, global_batch_size=64 * 64)


@dataclass(frozen=True)
class Options:
    """Measure the cost of a plan at scale."""

    episodes: int = 1_000_000
    frames: int = 1_000_000
    """Mean number of frames per episode."""
    seeks: int = 1000
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    episodes = make_episodes(options)
    orders: dict[str, FrameOrder] = {"uniform": "uniform", "sweep": "sweep"}
    values: dict[str, Any] = {"frames": int(episodes.num_rows.sum()), "episodes": options.episodes}
    values |= {name: measure(episodes, order, options.seeks) for name, order in orders.items()}
    print_result("plan_scale", values, options.output)


def make_episodes(options: Options) -> Episodes:
    """Return episodes of random length."""
    rng = np.random.default_rng(0)
    numbers = np.arange(options.episodes)
    lengths = rng.integers(options.frames // 2, options.frames * 3 // 2 + 2, options.episodes)
    return Episodes(
        position=numbers,
        first_row=np.zeros_like(numbers),
        num_rows=lengths,
        storage_rank=numbers,
        shard=numbers // 100,
    )


def measure(episodes: Episodes, frame_order: FrameOrder, seeks: int) -> dict[str, Any]:
    """Building once for time, once for memory; then seeks."""
    order = OrderConfig(frame_order=frame_order)
    started = time.perf_counter()
    plan = EpochPlan(episodes, order, SLOTS, epoch=1)
    build_s = time.perf_counter() - started
    rng = np.random.default_rng(1)
    times = []
    for step, rank in zip(
        rng.integers(0, plan.num_steps, seeks), rng.integers(0, 64, seeks), strict=True
    ):
        started = time.perf_counter()
        plan.step(int(step), [int(rank)])
        times.append(1000 * (time.perf_counter() - started))
    tracemalloc.start()
    EpochPlan(episodes, order, SLOTS, epoch=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "build_s": round(build_s, 3),
        "build_peak_mb": round(peak / 1e6),
        "steps": plan.num_steps,
        "seek_ms_median": round(statistics.median(times), 3),
        "seek_ms_p99": round(statistics.quantiles(times, n=100)[98], 3),
        "samples_per_seek": SLOTS.per_rank_slot,
    }


if __name__ == "__main__":
    main()

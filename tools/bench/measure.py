"""What a loader gives a training: measured over some seconds, after it has warmed up."""

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice, repeat
from typing import Any

from roboshard.common import interrupts
from roboshard.common.errors import OptionError
from roboshard.loader import Loader, make_loader
from roboshard.tools.bench.config import BenchConfig
from roboshard.tools.bench.report import Measurement

WARM_UP = 0.3
"""Share of the time after the first batch that is not measured."""
LEAST_STEPS = 8
"""Least steps of a measurement: batches come in bursts, and fewer would give no rate."""
MOST_TIMES_LONGER = 4.0
"""Slow steps are waited for, but no longer than so many times the time that was given."""


def open_loader(config: BenchConfig, settings: dict[str, Any]) -> Loader:
    """Make the loader of `config`, which `settings` override. Raises what `make_loader` raises."""
    loader = make_loader(config.url, **(config.loader_options() | settings))
    if not len(loader):
        raise OptionError(f"{config.url}: there are no frames to load")
    return loader


def size_of(config: BenchConfig) -> tuple[int, int]:
    """Return how many episodes and frames a dataset has."""
    with closing(open_loader(config, {"num_workers": 0})) as loader:
        return loader.num_episodes, loader.meta.total_frames


def measure(
    config: BenchConfig,
    fixed: dict[str, Any],
    settings: dict[str, Any],
    seconds: float,
    *,
    is_first_epoch: bool = False,
) -> Measurement:
    """Load for some seconds, as a training would, and return what came.

    Args:
        config: the given settings.
        fixed: further keywords of `make_loader`, the same for all measurements.
        settings: those that differ from the given ones; the measurement is named by them.
        seconds: how long, the loader's start included.
        is_first_epoch: measure from the first batch on, and end with the epoch.
    """
    began = time.monotonic()
    with closing(open_loader(config, fixed | settings)) as loader:
        before, is_short = loader.stats(), len(loader) <= LEAST_STEPS
        steps = _steps(loader, config.step_ms, 1 if is_first_epoch else None)
        frames_per_sample = next(steps)
        first_batch = time.monotonic() - began
        warm_up = 0.0 if is_first_epoch else WARM_UP * max(0.0, seconds - first_batch)
        measured_from = time.monotonic() + warm_up
        while time.monotonic() < measured_from:
            next(steps)
        if not (is_first_epoch and is_short):
            before = loader.stats()
        latest = began + MOST_TIMES_LONGER * seconds
        for number, _ in enumerate(steps, 1):
            now = time.monotonic()
            if now >= latest or (now >= began + seconds and number >= LEAST_STEPS):
                break
        after = loader.stats()
    done = after - before
    took = done.wait_seconds + done.step_seconds
    return Measurement(
        settings=settings,
        steps_per_second=done.batches / took,
        samples_per_second=done.samples / took,
        frames_per_second=done.samples * frames_per_sample / took,
        wait_share=done.wait_share,
        frames_decoded_per_frame_used=done.frames_decoded_per_frame_used,
        bytes_read_per_second=after.bytes_read / (time.monotonic() - began),
        first_batch_seconds=first_batch,
        steps=done.batches,
        steps_in_all=after.batches,
    )


def measure_perfect(config: BenchConfig, like: Measurement, seconds: float) -> Measurement | None:
    """Return what a loader that repeats one batch would give; None without `step_ms`."""
    if config.step_ms is None:
        return None
    began, steps = time.monotonic(), 0
    while steps < LEAST_STEPS or time.monotonic() < began + seconds:
        interrupts.pause(config.step_ms / 1000)
        steps += 1
    rate = steps / (time.monotonic() - began)
    per_step = rate / like.steps_per_second
    return Measurement(
        settings={},
        steps_per_second=rate,
        samples_per_second=like.samples_per_second * per_step,
        frames_per_second=like.frames_per_second * per_step,
        wait_share=0.0,
        steps=steps,
    )


def episodes_of_steps(config: BenchConfig, number: int) -> list[int]:
    """Return the indices of the episodes that the first steps of a training take samples of."""
    with closing(open_loader(config, {"num_workers": 0})) as loader:
        drawn = [episodes for episodes, _ in islice(loader.draws(), number)]
    return sorted({int(index) for episodes in drawn for index in episodes})


def _steps(loader: Loader, step_ms: float | None, epochs: int | None) -> Iterator[float]:
    """Take batches, epoch after epoch, and yield after each step the frames of a sample in it."""
    for _ in repeat(None) if epochs is None else repeat(None, epochs):
        for batch in loader:
            shapes = [batch[key].shape for key in loader.meta.video_keys if key in batch]
            # (n, C, H, W), or (n, T, C, H, W) under a window
            frames = sum(shape[1] if len(shape) > 4 else 1 for shape in shapes)
            del batch
            if step_ms is not None:
                interrupts.pause(step_ms / 1000)
            interrupts.check()
            yield float(frames)

"""Stage: samples to batches."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from roboshard.loader.pixels import stack
from roboshard.loader.sample import Sample
from roboshard.loader.stats import LoaderStats
from roboshard.shards.errors import FormatError

Batch = dict[str, Any]


def make_batches(steps: Iterable[Sequence[Sample]], stats: LoaderStats) -> Iterator[Batch]:
    """Stack the samples of a step along a new first axis; strings become lists."""
    for samples in steps:
        started = time.perf_counter()
        batch = {key: _stack(key, [sample[key] for sample in samples]) for key in samples[0]}
        stats.assembly_seconds += time.perf_counter() - started
        yield batch


def single_samples(steps: Iterable[Sequence[Sample]]) -> Iterator[Sample]:
    """Samples as they are, one at a time."""
    for samples in steps:
        yield from samples


def _stack(key: str, values: list[Any]) -> torch.Tensor | list[Any]:
    if not isinstance(values[0], torch.Tensor):
        return values
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise FormatError(
            f"{key!r} has shapes {sorted(shapes)} within one batch and cannot be stacked; use batch_size=None "
            "and a collate function of your own"
        )
    if values[0].dim() >= 3 and values[0].is_cpu and not values[0].is_contiguous():
        return stack(values)
    return torch.stack(values)

"""One batch out of the parts that several workers have made of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.common.errors import FormatError
from roboshard.loader.running.shared_batches import Region, SharedBatches
from roboshard.loader.samples.rows import Batch, check_shapes, in_places

IntArray = NDArray[np.int64]


class Part(NamedTuple):
    """What one worker has made of a batch."""

    values: Any
    """A message that arrives as a `Batch`: values of the worker's samples, (k, ...) tensors or
    lists of k; or a `Region`, where pictures lie in memory that all have put theirs into.
    """
    step: int
    places: IntArray
    """(k,) places of its samples in the batch."""
    size: int
    """n: samples of the batch."""


def join(parts: Sequence[Part], step: int, memory: SharedBatches) -> Batch:
    """Return the batch of a step, which has been taken from `memory`.

    Raises:
        FormatError: values of a key have different shapes or types.
        RuntimeError: these are not the parts of the step.
    """
    number = sum(len(part.places) for part in parts)
    if number != parts[0].size or {part.step for part in parts} != {step}:
        raise RuntimeError(
            f"step {step} came as {number} of {parts[0].size} samples of steps "
            f"{[part.step for part in parts]}"
        )
    parts = [part for part in parts if len(part.places)]
    return {key: _joined(key, parts, memory.pictures) for key in parts[0].values}


def _joined(
    key: str, parts: Sequence[Part], pictures: Callable[[Region], torch.Tensor]
) -> torch.Tensor | list[Any]:
    values = [part.values[key] for part in parts]
    if isinstance(values[0], Region) and all(value == values[0] for value in values):
        return pictures(values[0])
    if isinstance(values[0], list):
        return in_places([part.places for part in parts], values)
    of_parts = [
        pictures(value)[part.places] if isinstance(value, Region) else value
        for part, value in zip(parts, values, strict=True)
    ]
    check_shapes(key, {tuple(value.shape[1:]) for value in of_parts})
    dtypes = {value.dtype for value in of_parts}
    if len(dtypes) > 1:
        raise FormatError(
            f"{key!r} has types {sorted(map(str, dtypes))} within one batch and cannot be stacked; "
            "use batch_size=None and a collate function of your own"
        )
    # Most values are a few numbers, of which a tensor costs several times as much as an array.
    (dtype,) = dtypes
    bits = torch.int16 if dtype == torch.bfloat16 else dtype  # which NumPy lacks
    arrays = [value.view(bits).numpy() for value in of_parts]
    joined = np.empty((parts[0].size, *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    for part, array in zip(parts, arrays, strict=True):
        joined[part.places] = array
    return torch.from_numpy(joined).view(dtype)

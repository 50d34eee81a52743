"""The user's transform of every picture."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from roboshard.loader.batches.buffers import Buffers
from roboshard.loader.config import ImageTransform
from roboshard.loader.samples.rows import Batch, check_shapes


def transform_images(
    batch: Batch,
    *,
    keys: Sequence[str],
    transform: ImageTransform,
    buffers: Buffers,
    on_sample: Callable[[int], None] | None = None,
) -> Batch:
    """Apply the transform per sample and camera, to (C, H, W) or (T, C, H, W); it may work in
    place.

    Args:
        batch: of several samples.
        keys: of the pictures.
        transform: the user's.
        buffers: where results are put together.
        on_sample: told the number of each sample before it is transformed.
    """
    results: dict[str, list[torch.Tensor]] = {key: [] for key in keys}
    for number, sample in enumerate(zip(*(batch[key] for key in keys), strict=True)):
        if on_sample is not None:
            on_sample(number)
        for key, picture in zip(keys, sample, strict=True):
            results[key].append(transform(picture))
    return batch | {key: _joined(key, batch[key], results[key], buffers) for key in keys}


def _joined(
    key: str, pictures: torch.Tensor, results: Sequence[torch.Tensor], buffers: Buffers
) -> torch.Tensor:
    """Return the results as one tensor: the one that the transform was given where it worked in
    place.
    """
    if all(_is_same(result, picture) for result, picture in zip(results, pictures, strict=True)):
        return pictures
    check_shapes(key, {tuple(result.shape) for result in results})
    first = results[0]
    if not first.is_cpu or first.dim() < 3 or first.dtype == torch.bfloat16:
        return torch.stack(list(results))
    # With the channels last in memory, as they usually are; NumPy copies without threads of its
    # own.
    memory = buffers.lend((len(results), *first.movedim(-3, -1).shape), first.dtype)
    for target, result in zip(memory, results, strict=True):
        np.copyto(target.numpy(), result.detach().movedim(-3, -1).numpy())
    return memory.movedim(-1, -3)


def _is_same(result: torch.Tensor, picture: torch.Tensor) -> bool:
    """Whether a transform returned the very tensor that it was given."""
    return result is picture or (
        result.dtype == picture.dtype
        and result.shape == picture.shape
        and result.stride() == picture.stride()
        and result.data_ptr() == picture.data_ptr()
    )

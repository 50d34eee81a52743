"""The user's transform of every picture."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from roboshard.common.errors import OptionError
from roboshard.loader.batches.buffers import Buffers, Where
from roboshard.loader.config import ImageTransform
from roboshard.loader.order.plan import Share
from roboshard.loader.samples.rows import Batch, check_shapes


def transform_images(  # noqa: PLR0913 - keyword-only
    batch: Batch,
    *,
    keys: Sequence[str],
    transform: ImageTransform,
    buffers: Buffers,
    on_sample: Callable[[int], None] | None = None,
    share: Share | None = None,
) -> Batch:
    """Apply the transform per sample and camera, to (C, H, W) or (T, C, H, W); it may work in
    place.

    Args:
        batch: of several samples.
        keys: of the pictures.
        transform: the user's.
        buffers: where results are put together.
        on_sample: told the number of each sample before it is transformed.
        share: which of the batch's samples are transformed; None: all.

    Raises:
        OptionError: the transform returned what is no tensor.
    """
    places = range(len(batch[keys[0]])) if share is None else share.places.tolist()
    results: dict[str, list[torch.Tensor]] = {key: [] for key in keys}
    for place in places:
        if on_sample is not None:
            on_sample(place)
        for key in keys:
            results[key].append(_checked(transform(batch[key][place])))
    return batch | {
        key: _joined(key, batch[key], dict(zip(places, results[key], strict=True)), buffers, share)
        for key in keys
    }


def _checked(result: Any) -> torch.Tensor:
    if not isinstance(result, torch.Tensor):
        raise OptionError(f"image_transforms must return a tensor, not {type(result)}")
    return result


def _joined(
    key: str,
    pictures: torch.Tensor,
    results: Mapping[int, torch.Tensor],
    buffers: Buffers,
    share: Share | None,
) -> torch.Tensor:
    """Return the results, of samples by their places, as one tensor: the one that the transform was
    given where it worked in place.
    """
    if all(_is_same(result, pictures[place]) for place, result in results.items()):
        return pictures
    check_shapes(key, {tuple(result.shape) for result in results.values()})
    first = next(iter(results.values()))
    if not first.is_cpu or first.dim() < 3 or first.dtype == torch.bfloat16:
        return torch.stack(list(results.values()))
    # With the channels last in memory, as they usually are; NumPy copies without threads of its
    # own.
    shape = (len(pictures), *first.movedim(-3, -1).shape)
    lender = buffers if share is None else buffers.of(Where(share, key, is_transformed=True))
    memory = lender.lend(shape, first.dtype)
    for place, result in results.items():
        np.copyto(memory[place].numpy(), result.detach().movedim(-3, -1).numpy())
    return memory.movedim(-1, -3)


def _is_same(result: torch.Tensor, picture: torch.Tensor) -> bool:
    """Whether a transform returned the very tensor that it was given."""
    return result is picture or (
        result.dtype == picture.dtype
        and result.shape == picture.shape
        and result.stride() == picture.stride()
        and result.data_ptr() == picture.data_ptr()
    )

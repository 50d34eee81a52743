"""Transforms of pictures may do as they like with what they are given."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.batches import assert_same
from support.three_pictures import ORDERS, PICTURES, TOP, WINDOWS, load

from roboshard.loader import open_dataset
from roboshard.shards import OptionError

pytestmark = pytest.mark.usefixtures("no_threads_before")


TRANSFORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "in place": lambda picture: picture.clamp_(max=0.5 if picture.is_floating_point() else 100),
    "in place, and a copy of it": lambda picture: picture.clamp_(max=1).clone(),
    "in place, through a view": lambda picture: (
        picture.transpose(-1, -2).clamp_(max=1).transpose(-1, -2)
    ),
    "the same again": lambda picture: picture[:],
    "a part of it": lambda picture: picture[..., 3:, :-5],
    "every other pixel": lambda picture: picture[..., ::2, ::3],
    "turned": lambda picture: picture.transpose(-1, -2),
    "flipped": lambda picture: picture.flip(-1),
    "one row for all": lambda picture: picture[..., :1, :].expand_as(picture),
    "channels first in memory": lambda picture: picture.contiguous() + 0,
    "float64": lambda picture: picture.double() / 7,
    "int16": lambda picture: (picture * 255).to(torch.int16),
    "bool": lambda picture: picture > 0.5,
    "bfloat16": lambda picture: picture.to(torch.bfloat16),
    "grey": lambda picture: picture.float().mean(-3),
    "a vector": lambda picture: picture.float().mean((-1, -2)).flatten(),
    "one number": lambda picture: picture.float().mean(),
    "nothing": lambda picture: picture.float()[..., :0],
    "some in place": lambda picture: (
        picture.clamp_(max=1) if int(picture.sum()) % 2 else picture.clamp(max=1)
    ),
    "larger": lambda picture: picture.repeat_interleave(2, -1),
    "with a gradient": lambda picture: (
        picture.float() * torch.ones((), requires_grad=True)
    ).detach(),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_may_do_as_they_like(
    shards: Path, transform: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    options: dict[str, Any] = ORDERS["uniform"] | {
        "delta_timestamps": {TOP: WINDOWS[TOP]},
        "episodes": [0, 1, 2],
    }
    found = list(load(shards, image_transforms=transform, **options))
    for batch, plain in zip(found, load(shards, **options), strict=True):
        for key in PICTURES:
            plain[key] = torch.stack([transform(picture.clone()) for picture in plain[key]])
        assert_same([batch], [plain])
    singles = load(shards, image_transforms=transform, **options | {"batch_size": None})
    for number, sample in enumerate(singles):
        assert all(
            torch.equal(sample[key], found[number // 5][key][number % 5]) for key in PICTURES
        )


@pytest.mark.parametrize("batch_size", [5, None])
@pytest.mark.parametrize("wrong", [None, 1.0, [1], {}], ids=str)
def test_what_is_no_picture_is_refused(shards: Path, wrong: Any, batch_size: int | None) -> None:
    told = re.escape(f"image_transforms must return a tensor, not {type(wrong)}")
    loader = load(shards, image_transforms=lambda _: wrong, batch_size=batch_size)
    with pytest.raises(OptionError, match=told):
        next(iter(loader))
    with pytest.raises(OptionError, match=told):
        open_dataset(str(shards), image_transforms=lambda _: wrong)[0]


@pytest.mark.parametrize(
    "transform",
    [partial(torch.clamp_, max=1), torch.sqrt],
    ids=["in place", "other dtype"],
)
@pytest.mark.slow
def test_transforms_in_workers(
    shards: Path, transform: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    options: dict[str, Any] = {"batch_size": 16, "image_transforms": transform}
    loader = load(shards, num_workers=2, **options)
    assert_same(list(loader), load(shards, **options))
    loader.close()

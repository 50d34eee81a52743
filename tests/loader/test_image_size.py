"""`image_size`: pictures as if they had been resized afterwards."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.decoders import DECODERS, decode_with
from support.slowly import slowly
from support.three_pictures import LENGTHS, PICTURES, TOP, WRIST, load

from roboshard.loader.decoding.resize import ResizedPicture
from roboshard.shards import OptionError

pytestmark = pytest.mark.usefixtures("no_threads_before")


@pytest.fixture(params=DECODERS)
def each_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_with(request.param, monkeypatch)


@pytest.mark.parametrize("return_uint8", [True, slowly(False)], ids=["uint8", "float"])
@pytest.mark.parametrize("size", [(32, 48), (37, 50), (96, 40), (128, 192), (1, 2)], ids=str)
def test_pictures_are_as_if_resized_afterwards(
    shards: Path, each_decoder: None, size: tuple[int, int], return_uint8: bool
) -> None:
    options: dict[str, Any] = {
        "delta_timestamps": {TOP: [-0.1, 0.0]},
        "episodes": [0, 3],
        "seed": 2,
    }
    plain = load(shards, **options)
    for batch, full in zip(
        load(shards, image_size=size, return_uint8=return_uint8, **options), plain, strict=True
    ):
        for key in PICTURES:
            whole = (
                full[key]
                if full[key].dtype == torch.uint8
                else (full[key] * 255).round().to(torch.uint8)
            )
            pictures = whole.flatten(0, -4).contiguous()
            expected = torch.nn.functional.interpolate(
                pictures, size=size, mode="bilinear", antialias=True
            )
            expected = expected.view(*whole.shape[:-2], *size)
            is_float = full[key].is_floating_point() or not return_uint8
            assert torch.equal(batch[key], expected / 255 if is_float else expected), key


def test_a_picture_that_several_samples_want_is_resized_once(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resized, into = itertools.count(), ResizedPicture.into
    monkeypatch.setattr(
        ResizedPicture, "into", lambda *arguments: (next(resized), into(*arguments))[1]
    )
    options: dict[str, Any] = {
        "delta_timestamps": {WRIST: [-0.2, -0.1, 0.0]},
        "cameras": [WRIST],
        "episodes": [0],
    }
    (batch,) = load(shards, shuffle=False, batch_size=LENGTHS[0], image_size=(20, 30), **options)
    assert batch[WRIST].shape[:2] == (LENGTHS[0], 3)
    assert next(resized) == 2 * LENGTHS[0], "frames of the camera, and images of the rows"


@pytest.mark.parametrize(
    "size", [(20, 30), [20, 30], torch.Size((20, 30)), np.array([20, 30])], ids=repr
)
def test_a_size_may_be_any_pair(shards: Path, size: Any) -> None:
    sample = next(iter(load(shards, batch_size=None, image_size=size)))
    assert {key: tuple(sample[key].shape) for key in PICTURES} == dict.fromkeys(
        PICTURES, (3, 20, 30)
    )


@pytest.mark.parametrize(
    "size",
    [
        (0, 5),
        (5, -1),
        (5,),
        (5, 5, 3),
        (),
        224,
        2.5,
        (5.0, 5.0),
        "55",
        (True, 5),
        (None, 5),
        ("5", "5"),
    ],
    ids=str,
)
def test_what_is_no_size_is_refused(shards: Path, size: Any) -> None:
    with pytest.raises(OptionError, match=r"image_size must be \(height, width\) in pixels, not "):
        load(shards, image_size=size)

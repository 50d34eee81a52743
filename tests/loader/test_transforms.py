"""Transforms of pictures and batches: their random numbers follow from seed, epoch and step, and
disturb nobody's.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roboshard.loader import Loader, make_loader
from roboshard.loader.transforms.randomness import TransformGenerators
from roboshard.shards import OptionError

IMAGE = "observation.image"
Batch = dict[str, Any]


def jitter(picture: torch.Tensor) -> torch.Tensor:
    """A part of the picture, from a place and with a brightness that all three generators have a
    say in.
    """
    left, top = random.randrange(17), int(np.random.randint(17))
    part = picture[..., top : top + 80, left : left + 80].float() * (0.5 + torch.rand(1))
    return part + torch.randn(1)


def noisy(batch: Batch) -> Batch:
    """Noise on the state, a shuffled copy of the indices, tokens of the task."""
    state = batch["observation.state"]
    order = np.random.permutation(len(state))
    batch["noisy"] = state + torch.randn_like(state) * random.random()
    batch["shuffled"] = batch["index"][torch.from_numpy(order)]
    batch["tokens"] = [[len(word) for word in text.split()] for text in batch["task"]]
    return batch


def loader_of(shards: Path, **options: Any) -> Loader:
    given = {"batch_size": 23, "seed": 5, "image_transforms": jitter, "batch_transform": noisy}
    return make_loader(str(shards), **given | options)


def same(batch: Batch, other: Batch) -> bool:
    return batch.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in batch.items()
    )


def two_epochs(loader: Loader) -> list[Batch]:
    return [batch for _ in range(2) for batch in loader]


@pytest.fixture(scope="module")
def expected(pusht_shards: Path) -> list[Batch]:
    return two_epochs(loader_of(pusht_shards))


def test_they_are_random(expected: list[Batch]) -> None:
    assert len(expected) == 56
    first = expected[0]
    assert first[IMAGE].shape == (23, 3, 80, 80)
    assert first["tokens"][0] == [4, 3, 8, 5, 4, 3, 8, 7]
    noise = torch.stack(
        [(it["noisy"] - it["observation.state"])[:20] for it in expected if len(it["index"]) == 23]
    )
    assert len(torch.unique(noise)) > 0.98 * noise.numel()
    brightness = torch.cat([it[IMAGE].amax(dim=(1, 2, 3)) for it in expected])
    assert len(torch.unique(brightness)) > 0.95 * len(brightness)


def test_another_run_has_the_same_batches(pusht_shards: Path, expected: list[Batch]) -> None:
    torch.manual_seed(1)
    found = two_epochs(loader_of(pusht_shards))
    assert all(map(same, found, expected))
    other = next(iter(loader_of(pusht_shards, seed=6, shuffle=False)))
    again = next(iter(loader_of(pusht_shards, seed=7, shuffle=False)))
    assert torch.equal(other["index"], again["index"])
    assert not torch.equal(other[IMAGE], again[IMAGE])
    assert not torch.equal(other["noisy"], again["noisy"])


@pytest.mark.parametrize(
    "num_workers", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_an_interrupted_run_goes_on_with_the_same_batches_whatever_its_workers(
    pusht_shards: Path, expected: list[Batch], num_workers: int
) -> None:
    first = loader_of(pusht_shards)
    found = []
    for batch in first:
        found.append(batch)
        if len(found) == 5:
            break
    state = first.state_dict()
    first.close()
    second = loader_of(pusht_shards, num_workers=num_workers)
    second.load_state_dict(state)
    found += two_epochs(second)
    second.close()
    assert len(found) == 56
    assert all(map(same, found, expected))


def test_other_world_sizes_have_the_same_pictures(
    pusht_shards: Path, expected: list[Batch]
) -> None:
    """Each sample's numbers are those of its place in the global batch."""
    options: dict[str, Any] = {"batch_transform": None, "max_world_size": 2, "drop_last": True}
    alone = [*loader_of(pusht_shards, batch_size=22, **options)]
    ranks = [
        [*loader_of(pusht_shards, batch_size=11, rank=rank, world_size=2, **options)]
        for rank in range(2)
    ]
    for batch, *parts in zip(alone, *ranks, strict=True):
        for key in ("index", IMAGE):
            assert torch.equal(batch[key], torch.cat([part[key] for part in parts]))


def test_ranks_do_not_draw_the_same_numbers(pusht_shards: Path) -> None:
    def scale(batch: Batch) -> Batch:
        return batch | {"drawn": torch.rand(4)}

    drawn = [
        next(iter(loader_of(pusht_shards, batch_transform=scale, rank=rank, world_size=2)))["drawn"]
        for rank in range(2)
    ]
    assert not torch.equal(*drawn)


def test_single_samples_have_the_same_numbers_again(pusht_shards: Path) -> None:
    options: dict[str, Any] = {"batch_size": None, "batch_transform": None}
    found, again = ([*loader_of(pusht_shards, **options)] for _ in range(2))
    assert found[0][IMAGE].shape == (3, 80, 80)
    assert all(map(same, found, again))
    assert not torch.equal(found[0][IMAGE], found[1][IMAGE])


# -- Other people's random numbers -----------------------------------------------------------------


def draws() -> tuple[float, ...]:
    """Of all three generators; of a normal distribution NumPy keeps a second number for the next
    call.
    """
    return (
        float(torch.rand(1)),
        float(torch.randn(1)),
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
    )


@pytest.fixture
def seeded() -> Iterator[None]:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    yield
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])


@pytest.mark.usefixtures("seeded")
def test_a_program_that_draws_meanwhile_disturbs_nobody_and_is_not_disturbed(
    pusht_shards: Path, expected: list[Batch]
) -> None:
    alone = [draws() for _ in range(28)]
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    beside = []
    for batch, other in zip(loader_of(pusht_shards), expected, strict=False):
        beside.append(draws())
        assert same(batch, other)
    assert beside == alone


@pytest.mark.usefixtures("seeded")
def test_the_generators_are_given_back_after_an_error(pusht_shards: Path) -> None:
    def fails(picture: torch.Tensor) -> torch.Tensor:
        draws()
        raise ValueError("no picture")

    torch.manual_seed(3)
    alone = draws()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    with pytest.raises(ValueError, match="no picture"):
        next(iter(loader_of(pusht_shards, image_transforms=fails)))
    assert draws() == alone


def test_another_kind_of_generator_stays_that_of_numpy() -> None:
    module: Any = np.random
    before = module.get_bit_generator()
    own = np.random.PCG64(4)
    expected = np.random.Generator(np.random.PCG64(4)).random(3).tolist()
    module.set_bit_generator(own)
    try:
        with TransformGenerators(1).of_step(0, 0) as reseed:
            reseed("images", 0)
            first = np.random.rand()
        with TransformGenerators(1).of_step(0, 0) as reseed:
            reseed("images", 0)
            assert np.random.rand() == first
        assert module.get_bit_generator() is own
        assert np.random.random(3).tolist() == expected
    finally:
        module.set_bit_generator(before)


def test_the_numbers_are_these() -> None:
    """They stay the same from release to release, as far as those of torch, Python and NumPy do."""
    found = []
    for place in (0, 1):
        with TransformGenerators(7).of_step(2, 30) as reseed:
            reseed("images", place)
            found.append((torch.rand(1).item(), random.random(), float(np.random.rand())))
    assert found == [
        (0.9974002838134766, 0.6757691355501505, 0.5156664496013862),
        (0.1596859097480774, 0.8087926681534588, 0.5969970159426716),
    ]


# -- Where they run --------------------------------------------------------------------------------


def test_without_workers_they_run_where_the_program_waits(pusht_shards: Path) -> None:
    seen: set[str] = set()

    def look(batch: Batch) -> Batch:
        seen.add(threading.current_thread().name)
        return batch

    next(iter(loader_of(pusht_shards, batch_transform=look)))
    assert seen == {threading.current_thread().name}


@pytest.mark.slow
def test_in_workers_they_run_there(pusht_shards: Path) -> None:
    here = os.getpid()

    def look(batch: Batch) -> Batch:
        return {"index": batch["index"], "is_there": os.getpid() != here, "text": "as it is"}

    loader = make_loader(str(pusht_shards), batch_size=100, batch_transform=look, num_workers=1)
    batches = [*loader]
    loader.close()
    assert [batch["is_there"] for batch in batches] == [True] * 7
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == [*range(644)]
    assert loader.stats().samples == 644


def test_what_a_batch_transform_makes_is_the_batch(pusht_shards: Path) -> None:
    def packed(batch: Batch) -> Batch:
        return {"loss_weight": 0.5, "rows": [batch["index"].tolist()]}

    for options in ({}, {"rank": 1, "world_size": 2}, {"drop_last": True}):
        loader = make_loader(
            str(pusht_shards), batch_size=100, batch_transform=packed, cameras=[], **options
        )
        found = [index for batch in loader for index in batch["rows"][0]]
        assert loader.stats().samples == len(found)
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("wrong", [None, {}, [1]], ids=str)
def test_what_is_no_batch_is_refused(pusht_shards: Path, wrong: Any) -> None:
    with pytest.raises(OptionError, match="batch_transform must return a dict"):
        next(iter(loader_of(pusht_shards, batch_transform=lambda _: wrong)))


def test_single_samples_are_no_batches(pusht_shards: Path) -> None:
    with pytest.raises(OptionError, match="batch_size=None gives single samples"):
        make_loader(str(pusht_shards), batch_size=None, batch_transform=noisy)


def test_transforms_of_a_gpu_follow_the_copy(pusht_shards: Path) -> None:
    """What `device=` is told comes after them: here it is the CPU, which says that they were called
    before.
    """
    loader = loader_of(pusht_shards, device="cpu")
    assert next(iter(loader))[IMAGE].shape == (23, 3, 80, 80)

"""A loader's order for torch's DataLoader: the same batches, sample by sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from roboshard.loader import LoaderSampler, make_loader, open_dataset
from roboshard.shards import OptionError

WINDOWS = {"action": [0.0, 0.1, 0.2]}


def batches(loader: Any, dataset: Any, **options: Any) -> list[dict[str, Any]]:
    return list(DataLoader(dataset, batch_sampler=LoaderSampler(loader, dataset), **options))


def indices(loader: Any, dataset: Any) -> list[list[int]]:
    return [dataset.rows(numbers)["index"].tolist() for numbers in LoaderSampler(loader, dataset)]


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if torch.is_tensor(value) else value == second[key]
        for key, value in first.items()
    )


def test_a_dataloader_gives_the_batches_of_the_loader(pusht_shards: Path) -> None:
    url = str(pusht_shards)
    loader = make_loader(url, batch_size=64, delta_timestamps=WINDOWS, seed=3)
    dataset = open_dataset(url, delta_timestamps=WINDOWS)
    theirs = batches(make_loader(url, batch_size=64, seed=3), dataset)
    ours = list(loader)
    assert len(ours) == len(theirs) == 11
    assert all(map(equal, ours, theirs))


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": False},
        {"frame_order": "sweep", "pool_episodes": 3, "episode_order": "shard"},
        {"episodes": [2, 5, 9, 13], "drop_n_first_frames": 2, "drop_n_last_frames": 7},
        {"episode_weights": {1: 2.0, 3: 0.5, 4: 0.0}, "keep_ranges": {7: [(3, 9), (20, 22)]}},
        {"rank": 1, "world_size": 2, "max_world_size": 4, "batch_size": 10},
        {"drop_last": True},
        {"split": ("train", 0.2)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_order_is_that_of_any_loader_for_two_epochs(
    options: dict[str, Any], pusht_shards: Path
) -> None:
    url, options = str(pusht_shards), {"batch_size": 16, "cameras": []} | options
    chosen = {name: options[name] for name in ("episodes", "split") if name in options}
    dataset = open_dataset(url, cameras=[], **chosen)
    loader, order = make_loader(url, **options), make_loader(url, **options)
    for epoch in range(2):
        assert loader.epoch == order.epoch == epoch
        expected = [batch["index"].tolist() for batch in loader]
        assert len(expected) == len(LoaderSampler(order, dataset))
        assert indices(order, dataset) == expected


def test_it_begins_where_the_loader_stands(pusht_shards: Path) -> None:
    url = str(pusht_shards)
    dataset = open_dataset(url, cameras=[])
    whole = indices(make_loader(url, batch_size=16), dataset)
    loader = make_loader(url, batch_size=16)
    loader.load_state_dict(loader.state_at(5, world_size=1, batch_size=16))
    assert indices(loader, dataset) == whole[5:]
    sampler = LoaderSampler(loader, dataset)
    sampler.set_epoch(0)
    assert [dataset.rows(numbers)["index"].tolist() for numbers in sampler] == whole


def test_what_has_no_such_batches_is_refused(pusht_shards: Path, tmp_path: Path) -> None:
    url = str(pusht_shards)
    some = open_dataset(url, episodes=[1, 2])
    with pytest.raises(OptionError, match=r"has not all episodes of the loader: \[0, 3, 4, 5, 6\]"):
        LoaderSampler(make_loader(url), some)
    with pytest.raises(OptionError, match="make it with a batch_size"):
        LoaderSampler(make_loader(url, batch_size=None), some)
    with pytest.raises(OptionError, match="of a mixture"):
        LoaderSampler(make_loader([(url, 1), (url, 1)]), some)

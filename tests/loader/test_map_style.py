"""`open_dataset`: the samples of `make_loader`, by number."""

from __future__ import annotations

import gc
import pickle
import shutil
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from support.batches import threads_left

from roboshard.loader import MapDataset, make_loader, open_dataset
from roboshard.shards import DamageError, OptionError

pytestmark = pytest.mark.usefixtures("no_threads_before")

IMAGE = "observation.image"
WINDOWS = {IMAGE: [-0.2, 0.0], "action": [0.0, 0.1, 0.2]}
Sample = dict[str, Any]


def assert_same(one: Sample, other: Sample) -> None:
    assert list(one) == list(other)
    for key, value in other.items():
        if isinstance(value, torch.Tensor):
            assert (one[key].dtype, one[key].shape) == (value.dtype, value.shape)
            assert torch.equal(one[key], value), key
        else:
            assert one[key] == value


@pytest.fixture(scope="module")
def samples(pusht_shards: Path) -> list[Sample]:
    """In dataset order."""
    return list(
        make_loader(str(pusht_shards), batch_size=None, shuffle=False, delta_timestamps=WINDOWS)
    )


@pytest.fixture
def dataset(pusht_shards: Path) -> MapDataset:
    return open_dataset(str(pusht_shards), delta_timestamps=WINDOWS)


def test_a_sample_is_the_loaders_whatever_was_asked_for_before(
    dataset: MapDataset, samples: list[Sample]
) -> None:
    assert len(dataset) == len(samples)
    for number in [0, 1, 200, 3, len(samples) - 1, 100, 99, 98, -1, -len(samples)]:
        assert_same(dataset[number], samples[number])


def test_samples_asked_for_together_come_in_the_order_of_asking(
    dataset: MapDataset, samples: list[Sample]
) -> None:
    numbers = [5, 4, 300, 5, 17]
    for number, sample in zip(numbers, dataset.__getitems__(numbers), strict=True):
        assert_same(sample, samples[number])
    assert dataset.__getitems__([]) == []


def test_an_episode_is_its_samples(dataset: MapDataset, samples: list[Sample]) -> None:
    for episode in (0, dataset.num_episodes - 1):
        expected = [sample for sample in samples if sample["episode_index"] == episode]
        view = dataset.episode(episode)
        assert len(view) == len(expected)
        for found, sample in zip(view, expected, strict=True):
            assert_same(found, sample)
        assert_same(view[-1], expected[-1])
        assert_same(view[2:9:3][1], expected[5])


def test_rows_come_without_pictures(dataset: MapDataset, samples: list[Sample]) -> None:
    numbers = [300, 4, 5]
    rows = dataset.rows(numbers)
    assert set(rows) == set(samples[0]) - {IMAGE}
    for place, number in enumerate(numbers):
        expected = {key: value for key, value in samples[number].items() if key != IMAGE}
        assert_same({key: rows[key][place] for key in expected}, expected)


@pytest.mark.parametrize("numbers", [[], range(0), torch.zeros(0, dtype=torch.int64)])
def test_rows_of_no_numbers_have_the_keys_and_types_of_all(
    dataset: MapDataset, numbers: Sequence[int]
) -> None:
    none, one = dataset.rows(numbers), dataset.rows([5])
    assert_same(none, {key: values[:0] for key, values in one.items()})
    assert none["action"].shape == (0, 3, 2)
    assert none["task"] == []


def test_numbers_count_over_the_chosen_episodes(pusht_shards: Path, samples: list[Sample]) -> None:
    dataset = open_dataset(str(pusht_shards), episodes=[3, 1], delta_timestamps=WINDOWS)
    expected = [sample for sample in samples if sample["episode_index"] in (1, 3)]
    assert len(dataset) == len(expected)
    assert dataset.num_episodes == 2
    assert_same(dataset[len(expected) - 1], expected[-1])
    assert_same(dataset.episode(3)[0], next(s for s in expected if s["episode_index"] == 3))
    with pytest.raises(
        OptionError, match=r"episode 2 is not in the dataset .* which has 2 episodes from 1 to 3"
    ):
        dataset.episode(2)


@pytest.mark.parametrize("number", [10**6, -(10**6)])
def test_a_number_beyond_the_end_is_an_index_error_so_that_a_for_loop_ends(
    dataset: MapDataset, number: int
) -> None:
    with pytest.raises(IndexError, match=f"sample {number} of {len(dataset)}"):
        dataset[number]


def test_float_pictures_transforms_sizes_and_cameras(
    pusht_shards: Path, samples: list[Sample]
) -> None:
    dataset = open_dataset(
        str(pusht_shards), return_uint8=False, image_transforms=lambda picture: 1 - picture
    )
    assert torch.equal(dataset[7][IMAGE], 1 - samples[7][IMAGE][-1].float() / 255)
    assert open_dataset(str(pusht_shards), image_size=(32, 48))[0][IMAGE].shape == (3, 32, 48)
    assert IMAGE not in open_dataset(str(pusht_shards), cameras=[])[0]


def test_threads_take_turns(dataset: MapDataset, samples: list[Sample]) -> None:
    with ThreadPoolExecutor(4) as executor:
        for number, sample in enumerate(executor.map(dataset.__getitem__, range(40))):
            assert_same(sample, samples[number])


def test_a_copy_and_a_closed_dataset_start_anew(dataset: MapDataset, samples: list[Sample]) -> None:
    assert_same(dataset[3], samples[3])
    assert_same(pickle.loads(pickle.dumps(dataset))[4], samples[4])
    (own,) = dataset._of_process.values()
    in_memory = weakref.ref(own._resources)
    dataset.close()
    gc.collect()
    assert not threads_left()
    assert in_memory() is None
    assert_same(dataset[5], samples[5])


def test_a_dataset_that_raised_an_error_goes_with_its_threads(
    pusht_shards: Path, tmp_path: Path
) -> None:
    """An error holds the frames that it came through, and they the dataset: nothing else may."""
    root = tmp_path / "damaged"
    shutil.copytree(pusht_shards, root)
    for shard in root.glob("shards/*.tar"):
        shard.write_bytes(bytes(len(shard.read_bytes())))

    def fail() -> None:
        dataset = open_dataset(str(root))
        with pytest.raises(DamageError):
            dataset[0]

    fail()
    gc.collect()
    assert not threads_left()

"""What LeRobot's trainer and samplers read from a dataset, held against the bundled dataset's own
files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from roboshard.loader import make_loader, open_dataset
from roboshard.shards import ShardedDataset

BOUNDARIES = ("episode_index", "length", "dataset_from_index", "dataset_to_index")


def test_metadata_is_that_of_the_source(pusht_shards: Path, pusht_source: Path) -> None:
    meta = open_dataset(str(pusht_shards)).meta
    info = json.loads((pusht_source / "meta/info.json").read_text())
    stats = json.loads((pusht_source / "meta/stats.json").read_text())
    assert meta.features == {
        key: spec | {"shape": tuple(spec["shape"])} for key, spec in info["features"].items()
    }
    assert meta.info == info
    totals = ("total_episodes", "total_frames", "total_tasks", "fps", "robot_type")
    assert {name: getattr(meta, name) for name in totals} == {name: info[name] for name in totals}
    assert meta.stats.keys() == stats.keys()
    for key, values in stats.items():
        assert meta.stats[key].keys() == values.keys()
        for name, value in values.items():
            np.testing.assert_array_equal(meta.stats[key][name], np.asarray(value))
    assert make_loader(str(pusht_shards)).meta.features == meta.features
    assert not meta.has_language_columns


def test_episode_boundaries_are_those_of_the_source(pusht_shards: Path, pusht_source: Path) -> None:
    dataset = open_dataset(str(pusht_shards))
    table = dataset.meta.episodes
    expected = pq.read_table(pusht_source / "meta/episodes", columns=list(BOUNDARIES)).sort_by(
        "episode_index"
    )
    assert tuple(table.column_names) == BOUNDARIES
    assert {name: table[name] for name in BOUNDARIES} == expected.to_pydict()
    assert [table[row] for row in range(len(table))] == expected.to_pylist()
    assert (dataset.num_frames, dataset.num_episodes, dataset.episodes) == (644, 14, None)
    assert dataset.absolute_to_relative_idx is None
    with pytest.raises(KeyError, match="videos"):
        table["videos"]
    with pytest.raises(IndexError):
        table[14]


def test_boundaries_of_chosen_episodes_number_their_samples(pusht_shards: Path) -> None:
    dataset = open_dataset(str(pusht_shards), episodes=[5, 2], cameras=[])
    table = dataset.meta.episodes
    assert (dataset.num_episodes, dataset.episodes, len(table)) == (2, [2, 5], 6)
    for episode in range(6):
        numbers = range(table[episode]["dataset_from_index"], table[episode]["dataset_to_index"])
        samples = dataset.__getitems__(numbers)
        assert bool(samples) == (episode in (2, 5))
        assert all(sample["episode_index"] == episode for sample in samples)
        assert [int(sample["frame_index"]) for sample in samples] == list(
            range(table["length"][episode])
        )
    assert table["dataset_to_index"][-1] == dataset.num_frames == len(dataset)


def test_boundaries_of_some_shards_number_their_samples(pusht_shards: Path) -> None:
    index = ShardedDataset.open(str(pusht_shards)).index
    dataset = open_dataset([f"{pusht_shards}/shards/shard-000001.tar"], cameras=[])
    table = dataset.meta.episodes
    inside = set(index.episode_index[index.shard == 1].tolist())
    assert {row for row, length in enumerate(table["length"]) if length} == inside
    for episode in inside:
        assert dataset[table[episode]["dataset_from_index"]]["episode_index"] == episode
        assert dataset[table[episode]["dataset_from_index"]]["frame_index"] == 0

"""LeRobot's datasets on shards, by the contract of its registry: samples are LeRobot's own."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.cases import Case, case_names, check_sample, read_case, read_tool_case, tool_case_names
from support.growing import append, record
from support.lerobot_registry import Registry
from support.lerobot_registry import registry as registry  # noqa: PLC0414 - a fixture

from roboshard.common.errors import MissingError, OptionError
from roboshard.converter import ConvertConfig, convert
from roboshard.loader import open_dataset
from roboshard.tools.lerobot_storage import FORMAT, register, write_meta
from roboshard.tools.lerobot_storage.reader import with_revision

WINDOWS = {"observation.state": [-0.1, 0.0], "action": [0.0, 0.1, 0.2]}


@pytest.fixture
def registered(registry: Registry) -> Registry:
    register()
    register()  # a second time does no harm
    return registry


@pytest.fixture(scope="module")
def pusht(pusht_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pusht") / "shards"
    shutil.copytree(pusht_shards, root)
    write_meta(root)
    return root


def check_equal(found: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            if isinstance(value, torch.Tensor):
                assert one[key].dtype == value.dtype, key
                assert torch.equal(one[key], value), key
            else:
                assert one[key] == value, key


def check_case(case: Case, registry: Registry, folder: Path) -> None:
    root = folder / "shards"
    convert(ConvertConfig(source=str(case.source), destination=str(root), workers=1))
    reader = registry.open(root.as_uri())
    assert len(reader) >= len(case.samples)  # rows that LeRobot's metadata does not count
    numbers = range(len(case.samples))
    for sample, expected in zip(reader.get_items(numbers), case.samples, strict=True):
        check_sample(sample, expected)


@pytest.mark.parametrize("name", ["0.6.1/recorded_depth", "0.4.4/recorded_images", "0.6.1/deleted"])
def test_samples_are_those_that_lerobot_returned(
    name: str, registered: Registry, tmp_path: Path
) -> None:
    check_case(read_tool_case(name, tmp_path), registered, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", case_names())
def test_samples_of_odd_datasets_are_too(name: str, registered: Registry, tmp_path: Path) -> None:
    check_case(read_case(name), registered, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name for name in tool_case_names() if not name.endswith("recorded_with_frames_dropped")],
)
def test_samples_of_what_its_tools_made_are_too(
    name: str, registered: Registry, tmp_path: Path
) -> None:
    check_case(read_tool_case(name, tmp_path), registered, tmp_path)


def test_the_module_keeps_the_contract(registered: Registry, pusht: Path) -> None:
    assert registered.readers == registered.writers
    assert list(registered.readers) == [FORMAT]
    reader = registered.open(pusht)
    assert isinstance(
        reader, pytest.importorskip("lerobot.datasets.dataset_reader").BaseDatasetReader
    )
    assert (reader.num_frames, reader.num_episodes, reader.episodes) == (644, 14, None)
    assert reader.absolute_to_relative_idx is None
    check_equal([reader.get_item(-1)], [reader.get_item(643)])
    with pytest.raises(IndexError):
        reader.get_item(644)


def test_a_folder_its_url_and_the_metadata_alone_lead_to_it(
    registered: Registry, pusht: Path
) -> None:
    readers = [
        registered.open(pusht),
        registered.open(pusht.as_uri()),
        registered.open_of_meta(pusht),
    ]
    one, *others = [reader.get_items([3, 70]) for reader in readers]
    for other in others:
        check_equal(other, one)


def test_windows_are_those_of_open_dataset(registered: Registry, pusht: Path) -> None:
    reader = registered.open(pusht, delta_timestamps=WINDOWS, return_uint8=True)
    dataset = open_dataset(pusht, delta_timestamps=WINDOWS)
    check_equal(reader.get_items([0, 45, 643]), [dataset[number] for number in (0, 45, 643)])


def test_chosen_episodes_are_numbered_as_lerobot_numbers_them(
    registered: Registry, pusht: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = registered.open(pusht)
    with caplog.at_level(logging.WARNING):
        reader = registered.open(pusht, episodes=[5, 2, 99, 5])
    assert "99 are left out" in caplog.text
    assert (reader.episodes, reader.num_episodes) == ([5, 2], 2)
    places = reader.absolute_to_relative_idx
    assert sorted(places.values()) == list(range(len(reader)))
    absolute = sorted(places)[::20]
    check_equal(reader.get_items([places[row] for row in absolute]), whole.get_items(absolute))


def test_transforms_can_be_replaced_and_leave_depth_alone(
    registered: Registry, tmp_path: Path
) -> None:
    case = read_tool_case("0.6.1/recorded_depth", tmp_path)
    root = tmp_path / "shards"
    convert(ConvertConfig(source=str(case.source), destination=str(root), workers=1))
    plain = registered.open(root.as_uri()).get_item(1)
    reader = registered.open(root.as_uri(), image_transforms=torch.zeros_like)
    meta = open_dataset(root).meta
    changed = reader.get_item(1)
    for key in meta.camera_keys:
        assert bool(changed[key].any()) == (key in meta.depth_keys), key
    reader.set_image_transforms(torch.ones_like)
    assert all(
        bool((reader.get_item(1)[key] == 1).all())
        for key in {*meta.camera_keys} - {*meta.depth_keys}
    )
    reader.clear_image_transforms()
    check_equal([reader.get_item(1)], [plain])
    with pytest.raises(TypeError):
        reader.set_image_transforms("none")


def test_workers_get_a_reader_of_their_own(registered: Registry, pusht: Path) -> None:
    reader = registered.open(pusht, episodes=[1])
    expected = reader.get_items([0, 7])
    check_equal(pickle.loads(pickle.dumps(reader)).get_items([0, 7]), expected)


def test_episodes_with_gaps_are_numbered_anew(registered: Registry, tmp_path: Path) -> None:
    source = record(tmp_path / "source", 6, cameras=())
    root = tmp_path / "shards"
    config = ConvertConfig(
        source=str(source.root), destination=str(root), workers=1, episodes="1,3:5"
    )
    convert(config)
    reader = registered.open(root.as_uri())
    samples = reader.get_items(range(len(reader)))
    assert [int(sample["index"]) for sample in samples] == list(range(len(samples)))
    episodes = [int(sample["episode_index"]) for sample in samples]
    assert sorted(set(episodes)) == [0, 1, 2]
    assert episodes == sorted(episodes)
    last = registered.open(root.as_uri(), episodes=[2]).get_items([0])
    first = episodes.index(2)
    check_equal(last, [samples[first]])
    stored = open_dataset(root, episodes=[4])[0]
    assert torch.equal(last[0]["action"], stored["action"])
    windows = {"index": [-0.1, 0.0, 0.1], "episode_index": [0.0]}
    windowed = registered.open(root.as_uri(), delta_timestamps=windows).get_item(first)
    assert windowed["index"].tolist() == [first, first, first + 1]
    assert windowed["episode_index"].tolist() == [2]


def test_a_grown_dataset_is_read_as_its_metadata_says(
    registered: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "shards"
    append(record(tmp_path / "source", 3, cameras=()).root, root)
    write_meta(root)
    append(record(tmp_path / "source", 5, cameras=()).root, root)
    with caplog.at_level(logging.WARNING):
        assert registered.open(root).num_episodes == 3
    assert "has 5 episodes by now" in caplog.text
    assert registered.open(root.as_uri()).num_episodes == 5
    write_meta(root)
    assert registered.open(root).num_episodes == 5


def test_metadata_of_another_dataset_is_refused(
    registered: Registry, pusht: Path, tmp_path: Path
) -> None:
    root = tmp_path / "shards"
    append(record(tmp_path / "source", 3, cameras=()).root, root)
    write_meta(root)
    shutil.rmtree(root / "meta")
    shutil.copytree(pusht / "meta", root / "meta")
    with pytest.raises(OptionError, match=r"snapshots have a fingerprint"):
        registered.open(root)
    (root / "meta/roboshard.json").unlink()
    with pytest.raises(OptionError, match="14 episodes and 644 frames"):
        registered.open(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"depth_output_unit": "m"}, "millimetres"), ({"tolerance_s": -1.0}, "tolerance_s")],
)
def test_options_that_cannot_be_kept_are_refused(
    registered: Registry, pusht: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        registered.open(pusht, **options)


def test_where_there_are_no_shards_the_next_format_is_asked(
    registered: Registry, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        registered.open((tmp_path / "nothing").as_uri())


def test_a_token_is_refused_and_a_revision_goes_into_the_url(
    registered: Registry, pusht: Path
) -> None:
    backend = pytest.importorskip("roboshard.tools.lerobot_storage.backend")
    with pytest.raises(OptionError, match="hf auth login"):
        backend.localize_root(None, pusht.as_uri(), token="hf_secret")
    assert with_revision("hf://datasets/a/b/c", "x/y") == "hf://datasets/a/b@x%2Fy/c"
    assert with_revision("hf://datasets/a/b@main", "v1") == "hf://datasets/a/b@main"
    assert with_revision("s3://a/b", "v1") == "s3://a/b"


def test_without_the_registry_it_says_which_release_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lerobot.datasets.storage", None)
    with pytest.raises(OptionError, match=r"0\.6\.1"):
        register()


def test_meta_is_what_lerobot_reads(pusht: Path, pusht_source: Path) -> None:
    here, there = (
        json.loads((root / "meta/info.json").read_text()) for root in (pusht, pusht_source)
    )
    assert here.pop("storage_format") == FORMAT
    assert {key: here[key] for key in there} == there
    stats = [json.loads((root / "meta/stats.json").read_text()) for root in (pusht, pusht_source)]
    assert stats[0] == stats[1]
    rows, theirs = (pq.read_table(root / "meta/episodes") for root in (pusht, pusht_source))
    for column in ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index"):
        assert rows[column].to_pylist() == theirs[column].to_pylist(), column
    tasks = [pq.read_table(root / "meta/tasks.parquet") for root in (pusht, pusht_source)]
    assert tasks[0].to_pylist() == tasks[1].to_pylist()


def test_meta_replaces_what_was_there_and_needs_a_folder_for_a_url(
    pusht: Path, tmp_path: Path
) -> None:
    old = tmp_path / "meta/episodes/chunk-000/file-001.parquet"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of another time")
    assert write_meta(pusht, tmp_path) == tmp_path
    assert not old.exists()
    assert np.array_equal(*[(root / "meta/info.json").read_bytes() for root in (pusht, tmp_path)])
    with pytest.raises(OptionError, match="name one"):
        write_meta("s3://bucket/shards")
    with pytest.raises(MissingError):
        write_meta(tmp_path / "nothing")

"""Values that rows lack are told before the first batch, and dropped, filled and masked, or None as
asked.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.cases import CASES
from support.converting import converted
from support.damage import Forgery
from support.missing_values import ADDED, COUNT, COUNTED, REWARD, build_missing, rewrite_rows
from support.null_lists import keeps_null_lists

from roboshard.common.errors import FormatError, MissingError, OptionError
from roboshard.loader import make_loader, open_dataset
from roboshard.shards import rebuild
from roboshard.shards.manifest import load_dataset_manifest
from roboshard.tools.inspect import summarize
from roboshard.tools.verify import VerifyConfig, verify

LENGTHS = (6, 5, 7)
ROW_OF = {"reward": REWARD, "count": COUNT}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not keeps_null_lists():
        pytest.skip("this pyarrow keeps no nulls among lists of a fixed length")
    return build_missing(tmp_path_factory.mktemp("missing") / "source")


@pytest.fixture(scope="module")
def root(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return converted(source, tmp_path_factory.mktemp("missing") / "shards")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return converted(CASES / "image_palette/src", tmp_path_factory.mktemp("healthy") / "shards")


# -- One dataset -----------------------------------------------------------------------------------


def test_what_is_missing_is_said_before_anything_is_read(root: str, tmp_path: Path) -> None:
    without_shards = tmp_path / "shards"
    shutil.copytree(root, without_shards)
    shutil.rmtree(without_shards / "shards")
    with pytest.raises(OptionError) as error:
        make_loader(str(without_shards))
    for key, count in COUNTED.items():
        assert f"'{key}' in {count} rows" in str(error.value)
    assert 'on_missing="drop"' in str(error.value)
    assert 'on_missing="fill"' in str(error.value)
    loader = make_loader(str(without_shards), on_missing="drop")  # nothing is read yet
    with pytest.raises(MissingError):
        next(iter(loader))


def test_drop_loads_without_them(root: str) -> None:
    loader = make_loader(root, batch_size=9, on_missing="drop")
    kept = {"observation.state", "action", "timestamp", "frame_index", "episode_index", "index"}
    assert set(loader.meta.features) == kept | {"task_index"}
    assert set(loader.meta.info["features"]) == set(loader.meta.features)
    assert COUNTED.keys().isdisjoint(loader.meta.stats)
    assert loader.meta.camera_keys == ()
    for batch in loader:
        assert set(batch) == kept | {"task_index", "task"}
    with pytest.raises(OptionError, match="'reward' is not a feature"):
        make_loader(root, on_missing="drop", delta_timestamps={"reward": [0.0]})


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"batch_size": None}], ids=str)
def test_fill_puts_zeros_there_and_says_where(root: str, options: dict[str, Any]) -> None:
    loader = make_loader(root, **{"batch_size": 6, "on_missing": "fill"} | options)
    assert set(loader.meta.features) >= COUNTED.keys()
    seen = dict.fromkeys(COUNTED, 0)
    collate = torch.utils.data.default_collate
    singly = "batch_size" in options
    for batch in (collate([sample]) for sample in loader) if singly else loader:
        for key in COUNTED:
            mask = batch[f"{key}_is_missing"]
            assert (mask.dtype, mask.shape) == (torch.bool, batch["index"].shape)
            seen[key] += int(mask.sum())
            if key == "hint":
                expected = ["" if gone else None for gone in mask.tolist()]
                assert [
                    text for text, gone in zip(batch[key], expected, strict=True) if gone == ""
                ] == [""] * int(mask.sum())
            else:
                assert not batch[key][mask].any()
        for key, values in ROW_OF.items():
            rows = batch["index"][~batch[f"{key}_is_missing"]].tolist()
            found = batch[key][~batch[f"{key}_is_missing"]].tolist()
            assert np.array_equal(found, [values[row] for row in rows], equal_nan=True)
        assert batch["count"].dtype == torch.int64
        assert batch["flag"].dtype == torch.bool
        assert batch["absent"].shape[1:] == (3,)
        assert batch["image"].shape[1:] == (3, 64, 96)
    loader.close()
    assert seen == COUNTED


def test_masks_of_windows_say_of_each_row_whether_it_lacks_its_value(root: str) -> None:
    window = [-0.1, 0.0, 0.1]
    keys = ("reward", "image", "pair", "action")
    loader = make_loader(
        root,
        batch_size=18,
        shuffle=False,
        on_missing="fill",
        delta_timestamps=dict.fromkeys(keys, window),
    )
    batch = next(iter(loader))
    first = np.repeat(np.cumsum([0, *LENGTHS[:-1]]), LENGTHS)
    last = np.repeat(np.cumsum(LENGTHS) - 1, LENGTHS)
    around = np.arange(18)[:, None] + [-1, 0, 1]
    rows = np.clip(around, first[:, None], last[:, None])
    is_pad = around != rows
    gone = np.array([value is None for value in REWARD])[rows]
    assert np.array_equal(batch["reward_is_missing"].numpy(), gone)
    assert np.array_equal(batch["reward_is_pad"].numpy(), is_pad | gone)
    assert np.array_equal(batch["action_is_pad"].numpy(), is_pad)
    assert "action_is_missing" not in batch
    assert batch["pair_is_missing"].sum() == 6  # rows 0 and 1, and row 0 again before the start
    assert batch["image"].shape == (18, 3, 3, 64, 96)
    assert not batch["image"][batch["image_is_missing"]].any()
    assert batch["image"][~batch["image_is_missing"]].flatten(1).any(dim=1).all()
    assert batch["count_is_missing"].shape == (18,)


def test_episodes_without_missing_values_are_loaded_as_ever(root: str, tmp_path: Path) -> None:
    source = Path(shutil.copytree(CASES / "null_scalar/src", tmp_path / "source"))
    only_first = pa.array([None, *[1.0] * 17], pa.float32())
    rewrite_rows(
        source,
        lambda table: table.set_column(
            table.schema.get_field_index("next.reward"), "next.reward", only_first
        ),
    )
    other = converted(source, tmp_path / "shards")
    with pytest.raises(OptionError, match=r"'next\.reward' in 1 rows"):
        make_loader(other, episodes=[0, 1])
    batch = next(iter(make_loader(other, episodes=[1, 2], batch_size=12, cameras=[])))
    assert batch["next.reward"].tolist() == [1.0] * 12
    assert "next.reward_is_missing" not in batch
    with pytest.raises(OptionError, match="'absent' in 7 rows"):
        make_loader(root, episodes=[2])


# -- By number -------------------------------------------------------------------------------------


def test_by_number_a_missing_value_is_none_as_lerobot_has_it(root: str) -> None:
    dataset = open_dataset(root)
    for row in (0, 1, 11, 17):
        sample = dataset[row]
        assert not any(key.endswith("_is_missing") for key in sample)
        for key in ("reward", "count"):
            value = ROW_OF[key][row]
            found = sample[key]
            assert (found is None) == (value is None)
            if value is not None:
                assert (found.shape, found.item()) == ((), value)
        assert sample["absent"] is None
        assert sample["nothing"] is None
    assert dataset[1]["image"] is None
    assert dataset[1]["hint"] is None
    assert dataset[1]["pair"] is None
    assert math.isnan(dataset[3]["reward"])
    rows = dataset.rows(range(3))
    assert [value is None for value in rows["reward"]] == [False, True, False]
    assert isinstance(dataset.rows([0, 2])["reward"], torch.Tensor)
    none = dataset.rows([])
    assert list(none) == list(rows)
    assert (none["reward"].dtype, none["reward"].shape) == (torch.float32, (0,))
    with pytest.raises(FormatError, match=re.escape('on_missing="fill"')):
        open_dataset(root, delta_timestamps={"reward": [-0.1, 0.0]})[1]


@pytest.mark.parametrize("choice", ["error", "drop", "fill", "none", "ignore"])
def test_by_number_there_are_the_same_choices(root: str, choice: Any) -> None:
    if choice in ("error", "ignore"):
        with pytest.raises(OptionError, match="on_missing"):
            open_dataset(root, on_missing=choice)
        return
    sample = open_dataset(root, on_missing=choice)[1]
    assert ("reward" in sample) == (choice != "drop")
    assert ("reward_is_missing" in sample) == (choice == "fill")


def test_none_is_no_choice_for_batches(root: str) -> None:
    with pytest.raises(OptionError, match="on_missing must be"):
        make_loader(root, on_missing="none")  # type: ignore[arg-type]


# -- Mixtures --------------------------------------------------------------------------------------


def test_a_mixture_asks_as_one_dataset_does(root: str, healthy: str) -> None:
    mixture = [(root, 1.0), (healthy, 1.0)]
    size = {"image_size": (8, 8), "cameras": []}
    with pytest.raises(OptionError, match=r"dataset 0 .*values are missing: 'image' in 3 rows"):
        make_loader(mixture, **size)
    dropped = next(iter(make_loader(mixture, batch_size=8, on_missing="drop", **size)))
    assert COUNTED.keys().isdisjoint(dropped)
    mixture = [(root, 1.0), (root, 1.0)]
    window = {"reward": [-0.1, 0.0]}
    loader = make_loader(mixture, batch_size=12, on_missing="fill", delta_timestamps=window, **size)
    for batch in loader:
        assert batch["reward_is_missing"].shape == (12, 2)
        assert batch["absent_is_missing"].all()
        assert batch["dataset_index"].shape == (12,)


def test_what_a_dataset_lacks_and_what_a_row_lacks_are_one_mask(root: str, tmp_path: Path) -> None:
    plain = converted(CASES / "null_string/src", tmp_path / "plain")
    loader = make_loader(
        [(root, 1.0), (plain, 1.0)],
        batch_size=18,
        cameras=[],
        on_missing="fill",
        image_size=(8, 8),
        delta_timestamps={"reward": [0.0, 0.1]},
    )
    batch = next(iter(loader))
    other = batch["dataset_index"] == 1
    assert batch["reward_is_missing"].shape == (18, 2)
    assert batch["reward_is_missing"][other].all()
    assert not batch["reward_is_missing"][~other].all()
    assert batch["image_is_missing"][other].all()


# -- What is recorded ------------------------------------------------------------------------------


def test_manifests_record_what_is_missing(root: str, healthy: str) -> None:
    assert load_dataset_manifest(root).missing == COUNTED
    for path in Path(healthy).rglob("*.json"):
        assert '"missing"' not in path.read_text()
    assert summarize(root).features["reward"] == "float32 [1], no value in 2 rows"


def test_verify_notes_it_and_finds_nothing_wrong(root: str, source: Path, healthy: str) -> None:
    report = verify(VerifyConfig(url=root, against=str(source), frames=2))
    assert report.ok, report.as_json()
    (note,) = report.notes
    assert "'reward' in 2 rows" in note
    assert "rebuild" not in note
    assert not verify(VerifyConfig(url=healthy)).notes


@pytest.fixture
def older(root: str, tmp_path: Path) -> Path:
    """As a release wrote it that recorded nothing of the kind."""
    forgery = Forgery(Path(root), tmp_path / "older")

    def forget(members: dict[str, bytes]) -> None:
        record = json.loads(members["json"])
        record.pop("missing", None)
        members["json"] = json.dumps(record).encode()

    for number, shard in enumerate(forgery.shards):
        forgery.dataset["shards"][number].pop("missing", None)
        for at, sample in enumerate(shard["samples"]):
            sample.pop("missing", None)
            forgery.put_members(number, at, forget)
    forgery.seal()
    return forgery.root


def test_of_older_shards_the_first_episode_says_it(older: Path) -> None:
    loader = make_loader(str(older), batch_size=2, on_missing="fill")
    with pytest.raises(FormatError, match=r"episode \d, feature .*roboshard rebuild"):
        next(iter(loader))
    assert open_dataset(str(older))[1]["reward"] is None
    assert bool(open_dataset(str(older), on_missing="fill")[1]["reward_is_missing"])
    report = verify(VerifyConfig(url=str(older)))
    assert report.ok
    assert "roboshard rebuild" in report.notes[0]
    rebuild(older)
    assert load_dataset_manifest(str(older)).missing == COUNTED
    assert next(iter(make_loader(str(older), batch_size=2, on_missing="fill")))


def test_rebuilding_gives_what_the_conversion_wrote(root: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    for path in copy.rglob("*.json"):
        path.unlink()
    rebuild(copy)
    for path in Path(root).rglob("*.json"):
        assert (copy / path.relative_to(root)).read_bytes() == path.read_bytes()


def test_a_manifest_that_says_otherwise_is_a_problem(root: str, tmp_path: Path) -> None:
    forgery = Forgery(Path(root), tmp_path / "forged")
    forgery.shards[0]["samples"][0]["missing"]["reward"] = 5
    report = verify(VerifyConfig(url=forgery.seal()))
    assert any("values are missing" in problem.what for problem in report.problems)


def test_every_kind_is_among_those_that_lack_values() -> None:
    assert {spec["dtype"] for spec, _, _ in ADDED.values()} == {
        "float32",
        "int64",
        "bool",
        "string",
    }

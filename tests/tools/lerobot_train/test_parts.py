"""What feeds LeRobot's trainer, without LeRobot: options, checkpoints, splits, and what is
refused.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from roboshard.cli.lerobot_train import parted
from roboshard.cli.main import dispatch
from roboshard.loader import make_loader, open_dataset
from roboshard.shards import FormatError, MissingError, OptionError
from roboshard.tools.lerobot_train import LoaderOptions, checkpoint, hooks
from roboshard.tools.lerobot_train.checkpoint import Place
from roboshard.tools.lerobot_train.datasets import (
    TrainerDataset,
    TrainerMeta,
    evaluation_samples,
    split_episodes,
)
from roboshard.tools.lerobot_train.split import first_of_each, hold_out

PLACE = Place(
    step=6,
    num_processes=2,
    batch_size=12,
    loader={"rank_slots": 4, "pool_episodes": 64, "episode_order": "shard", "frame_order": "sweep"},
    options={"cache_dir": "/there", "on_missing": "fill"},
)


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says which LeRobot is installed."""

    def say(found: str) -> None:
        monkeypatch.setattr(hooks, "version", lambda _: found)

    return say


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_checkpoint_goes_on_with_the_same_global_batches(processes: int) -> None:
    PLACE.check(processes, 24 // processes)


@pytest.mark.parametrize("sizes", [(1, 12), (2, 24), (3, 8), (8, 3), (4, 12)])
def test_other_sizes_are_refused_with_those_that_do(sizes: tuple[int, int]) -> None:
    with pytest.raises(OptionError, match=r"may be 1 x 24 or 2 x 12 or 4 x 6\. Runs that begin"):
        PLACE.check(*sizes)


def test_options_of_the_run_hold_on_unless_others_are_given() -> None:
    options = PLACE.continued(LoaderOptions(cache_dir="/here", decode_threads=3))
    assert options == LoaderOptions(
        cache_dir="/here",
        decode_threads=3,
        on_missing="fill",
        max_world_size=4,
        pool_episodes=64,
        episode_order="shard",
        frame_order="sweep",
    )


def test_a_place_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "training_state").mkdir()
    PLACE.write(tmp_path)
    assert checkpoint.read(tmp_path) == PLACE
    assert [path.name for path in (tmp_path / "training_state").iterdir()] == [
        "roboshard_loader.json"
    ]
    checkpoint.remove(tmp_path)
    with pytest.raises(MissingError, match="not of `roboshard lerobot-train`"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize("change", [{"more": 1}, {"loader": {}}, {"loader": [1]}])
def test_another_file_is_no_place(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "training_state").mkdir()
    PLACE.write(tmp_path)
    path = tmp_path / checkpoint.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FormatError, match="not what this release writes"):
        checkpoint.read(tmp_path)


def test_the_last_episodes_of_each_task_are_held_out() -> None:
    tasks = {0: "a", 1: "b", 2: "a", 3: "a", 4: "b", 5: "c"}
    assert hold_out(tasks, 0.4) == ([0, 1], [2, 3, 4, 5])
    assert hold_out({3: "a", 1: "a", 2: "a"}, 0.01) == ([3, 1], [2])
    with pytest.raises(OptionError, match="leaves none of 1 episodes"):
        hold_out({0: "a"}, 0.1)


def test_evaluation_has_as_many_samples_of_each_task() -> None:
    assert first_of_each([4, 4, 2, 4, 2, 2], 4) == [2, 4, 0, 1]
    assert first_of_each([4, 4, 2], 1) == [2, 0]


def test_datasets_for_training_and_evaluation(pusht_shards: Path) -> None:
    root = str(pusht_shards)
    training, held_out = split_episodes(root, [9, 2, 5, 13], 0.3)
    assert (training, held_out) == ([9, 2], [5, 13])
    found = open_dataset(root, episodes=held_out)
    dataset = TrainerDataset(found, TrainerMeta(found.meta, "my_dataset"))
    assert (dataset.num_episodes, dataset.episodes, dataset.meta.fps) == (2, [5, 13], 10)
    assert dataset.meta.camera_keys == ("observation.image",)
    assert dataset.meta.stats is not found.meta.stats
    assert evaluation_samples(dataset, root, 0) is dataset
    some = evaluation_samples(dataset, root, 3)
    assert [some[number]["episode_index"].item() for number in range(3)] == [5, 5, 5]
    assert len(some) == 3  # type: ignore[arg-type]


def test_loader_options_are_told_from_the_trainers() -> None:
    arguments = ["--steps=3", "--loader.cache_dir=/x", "--loader.frame_order", "sweep", "--a", "b"]
    ours = ["--loader.cache_dir=/x", "--loader.frame_order", "sweep"]
    assert parted(arguments) == (ours, ["--steps=3", "--a", "b"])


def test_releases_that_were_not_tried_are_refused(release: Any) -> None:
    release("0.7.0")
    with pytest.raises(
        OptionError, match=r"LeRobot 0\.7\.0 is installed.*with 0\.6\.1 and 0\.4\.4"
    ):
        hooks.installed_release()
    release("0.6.1")
    assert hooks.installed_release().make_datasets == "make_train_eval_datasets"


def test_names_are_replaced_for_a_while_and_only_those_that_are_there() -> None:
    trainer = ModuleType("trainer")
    trainer.cycle = original = lambda batches: batches  # type: ignore[attr-defined]
    with hooks.replaced(trainer, {"cycle": len}), hooks.command_line(["--steps=3"]):
        assert trainer.cycle is len
        assert sys.argv == ["lerobot-train", "--steps=3"]
    assert trainer.cycle is original
    with (
        pytest.raises(OptionError, match="has no save_checkpoint"),
        hooks.replaced(trainer, {"cycle": len, "save_checkpoint": len}),
    ):
        pass
    assert trainer.cycle is original


def test_the_command_says_that_lerobot_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(hooks, "version", missing)
    assert dispatch(["lerobot-train", "--steps=1"]) == 2
    assert "LeRobot is not installed here" in capsys.readouterr().err


def test_a_loaders_state_has_what_a_place_needs(pusht_shards: Path, tmp_path: Path) -> None:
    loader = make_loader(str(pusht_shards), batch_size=8, max_world_size=2)
    (tmp_path / "training_state").mkdir()
    replace(PLACE, loader=loader.state_dict()).write(tmp_path)
    options = checkpoint.read(tmp_path).continued(LoaderOptions()).given()
    again = make_loader(str(pusht_shards), batch_size=8, **options | {"cache_dir": None})
    again.load_state_dict(checkpoint.read(tmp_path).loader)

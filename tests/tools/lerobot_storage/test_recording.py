"""Recording into shards: saved episodes stay, whatever is interrupted, and more can follow."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.growing import record
from support.lerobot_registry import FEATURES, Meta, OneEpisode, Registry, begin, record_one
from support.lerobot_registry import registry as registry  # noqa: PLC0414 - a fixture
from support.lerobot_source import Camera

from roboshard.cli.main import dispatch
from roboshard.common.errors import MissingError, OptionError, StorageError
from roboshard.converter import ConvertConfig, convert
from roboshard.loader import open_dataset
from roboshard.shards.manifest import load_dataset_manifest
from roboshard.shards.snapshots import load_snapshot
from roboshard.tools.lerobot_storage import create, recover, register, resume
from roboshard.tools.lerobot_storage.staging import FOLDER, Staging
from roboshard.tools.lerobot_storage.writer import ShardWriter
from roboshard.tools.verify import VerifyConfig, verify

CAMERA = Camera(key="observation.images.top", gop=2, size=(48, 64))
EPISODES = ((6, "pick"), (4, "place"), (7, "pick"), (5, "push"))
"""Rows and task of each."""


class Killed(BaseException):
    """The process ends here: nothing is tidied up."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "my_shards"


def add(staging: Staging, *episodes: tuple[int, str], cameras: tuple[Camera, ...] = ()) -> None:
    for length, task in episodes:
        staging.add(record_one(staging.work_folder(), length, task, cameras))


def abandon(staging: Staging) -> None:
    """End a recorder as a kill does: its lock goes, all else stays."""
    staging._release()


def check_episodes(root: Path, *episodes: tuple[int, str]) -> None:
    """The dataset has these episodes, numbered through, and nothing is wrong with it."""
    dataset = open_dataset(root)
    rows = [(episode, length, task) for episode, (length, task) in enumerate(episodes)]
    expected = [(episode, row, task) for episode, length, task in rows for row in range(length)]
    samples = [dataset[number] for number in range(len(dataset))]
    assert expected == [
        (int(sample["episode_index"]), int(sample["frame_index"]), sample["task"])
        for sample in samples
    ]
    assert [int(sample["index"]) for sample in samples] == list(range(len(expected)))
    tasks = list(dict.fromkeys(task for _, task in episodes))
    assert list(dataset.meta.tasks) == tasks
    assert [int(s["task_index"]) for s in samples] == [tasks.index(task) for *_, task in expected]
    info = dataset.meta.info
    assert (info["total_episodes"], info["total_frames"]) == (len(episodes), len(expected))
    report = verify(VerifyConfig(url=str(root)))
    assert not report.problems


def test_a_recording_becomes_shards_with_all_that_a_dataset_has(root: Path) -> None:
    staging = Staging(root)
    add(staging, *EPISODES, cameras=(CAMERA,))
    assert (staging.num_episodes, staging.num_published) == (4, 0)
    staging.publish()
    staging.close()
    check_episodes(root, *EPISODES)
    assert not (root / FOLDER).exists()
    manifest = load_dataset_manifest(str(root))
    assert manifest.source.name == "my_shards"
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["storage_format"], info["total_episodes"]) == ("roboshard", 4)
    dataset = open_dataset(root)
    actions = np.stack([dataset[number]["action"].numpy() for number in range(len(dataset))])
    stats = dataset.meta.stats["action"]
    np.testing.assert_allclose(stats["mean"], actions.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stats["std"], actions.std(axis=0), rtol=1e-4)
    assert stats["count"].tolist() == [22]
    assert dataset.meta.stats["task_index"]["max"].tolist() == [2]


def test_more_is_appended_and_old_shards_stay(root: Path) -> None:
    for half in (EPISODES[:2], EPISODES[2:]):
        before = {path: path.read_bytes() for path in root.glob("shards/*")}
        staging = Staging(root)
        add(staging, *half)
        staging.publish()
        staging.close()
        assert before.items() <= {path: path.read_bytes() for path in root.glob("shards/*")}.items()
    check_episodes(root, *EPISODES)
    manifest = load_dataset_manifest(str(root))
    assert len(manifest.shards) == 2
    assert load_snapshot(str(root), manifest, 0).total_episodes == 2


def test_a_converted_dataset_is_recorded_on(root: Path, tmp_path: Path) -> None:
    source = record(tmp_path / "source", 2, cameras=(), state_dim=4, lengths=(6, 4))
    convert(ConvertConfig(source=str(source.root), destination=str(root), workers=1))
    staging = Staging(root)
    add(staging, (3, "task 1"), (5, "push"))
    staging.publish()
    staging.close()
    check_episodes(root, (6, "task 0"), (4, "task 1"), (3, "task 1"), (5, "push"))


def test_with_enough_for_a_shard_episodes_go_into_one_at_once(root: Path) -> None:
    staging = Staging(root, shard_size="64KB")
    staging._shard_bytes = 20_000
    add(staging, *EPISODES * 2)
    assert 0 < staging.num_published < 8
    assert staging.num_episodes == 8
    staging.publish()
    staging.close()
    check_episodes(root, *EPISODES * 2)


STEPS = ("_write", "_keep", "discard", "_describe", "_conversion", "_clear", "_read_base")
"""What a recording does to files, between which it can be killed."""


def record_until_killed(
    root: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, bool]:
    """Record in two sittings, and be killed before or after a step, the moments counted from 0.

    Returns:
        Episodes that were saved by then, and whether there was such a moment.
    """
    moments = itertools.count()

    def killable(step: Callable[..., Any], self: Staging, *arguments: Any) -> Any:
        for work in (lambda: None, lambda: step(self, *arguments)):
            result = work()
            if next(moments) == moment:
                raise Killed
        return result

    saved, staging = 0, None
    with monkeypatch.context() as patched:
        for name in STEPS:
            patched.setattr(Staging, name, partialmethod_of(killable, getattr(Staging, name)))
        try:
            for half in (EPISODES[:2], EPISODES[2:3]):
                staging = Staging(root)
                for episode in half:
                    add(staging, episode)
                    saved += 1
                staging.publish()
                staging.close()
                staging = None
        except Killed:
            if staging is not None:
                abandon(staging)
            return saved, True
    return saved, False


def partialmethod_of(wrapper: Callable[..., Any], step: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *arguments: wrapper(step, self, *arguments)


def check_survives(root: Path, moment: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether there was such a moment; saved episodes are whole then, and recording goes on."""
    saved, was_killed = record_until_killed(root, moment, monkeypatch)
    recover(root)
    found = open_dataset(root).num_episodes if (root / "dataset.json").exists() else 0
    assert found in (saved, saved + 1), (moment, saved, found)
    if found:
        check_episodes(root, *EPISODES[:found])
    staging = Staging(root)
    add(staging, *EPISODES[found:])
    staging.publish()
    staging.close()
    check_episodes(root, *EPISODES)
    assert not (root / FOLDER).exists()
    return was_killed


@pytest.mark.parametrize("moment", [2, 12, 21, 40])
def test_killed_saved_episodes_stay_and_nothing_is_there_in_half(
    moment: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_survives(root, moment, monkeypatch)


@pytest.mark.slow
def test_killed_at_any_moment_they_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = itertools.takewhile(
        lambda moment: check_survives(tmp_path / f"killed-{moment}", moment, monkeypatch),
        itertools.count(step=2),
    )
    assert len(list(moments)) > 20


def test_a_recording_that_another_writer_has_overtaken_stays_a_dataset_of_its_own(
    root: Path, tmp_path: Path
) -> None:
    first = Staging(root)
    add(first, *EPISODES[:1])
    abandon(first)
    source = record(tmp_path / "source", 2, cameras=(), state_dim=4)
    convert(ConvertConfig(source=str(source.root), destination=str(root), workers=1))
    with pytest.raises(OptionError, match="another writer has added"):
        recover(root)
    left = root / FOLDER / "my_shards"
    assert (left / "data/chunk-000/file-000.parquet").exists()


def test_one_recorder_at_a_time(root: Path) -> None:
    first = Staging(root)
    with pytest.raises(OptionError, match="another recorder"):
        Staging(root)
    first.close()
    Staging(root).close()
    assert not (root / FOLDER).exists()


def test_other_features_are_refused_and_the_recording_goes_on(root: Path) -> None:
    staging = Staging(root)
    add(staging, EPISODES[0])
    with pytest.raises(OptionError, match=r"observation\.images\.top"):
        add(staging, EPISODES[1], cameras=(CAMERA,))
    add(staging, EPISODES[1])
    staging.publish()
    staging.close()
    check_episodes(root, *EPISODES[:2])


def test_recover_makes_no_folders_where_there_are_none(root: Path) -> None:
    assert recover(root) == 0
    assert not root.exists()


# -- The writer, as LeRobot's facade calls it ----------------------------------------------


def saved(writer: ShardWriter, *episodes: tuple[int, str]) -> None:
    for length, task in episodes:
        for _ in range(length):
            writer.add_frame({"task": task})
        assert writer.has_pending_frames()
        writer.save_episode()
        assert not writer.has_pending_frames()


@pytest.fixture
def begun(root: Path) -> Meta:
    """LeRobot's metadata of a dataset that has no episode yet."""
    begin(root, FEATURES)
    return Meta("me/it", root)


def test_the_writer_keeps_the_contract(registry: Registry, root: Path, begun: Meta) -> None:
    register()
    writer = registry.record(begun, root)
    saved(writer, *EPISODES[:2])
    assert (begun.total_episodes, begun.total_frames) == (2, 10)
    writer.add_frame({"task": "of no use"})
    writer.clear_episode_buffer()
    writer.finalize()
    writer.finalize()
    check_episodes(root, *EPISODES[:2])
    assert len(begun.episodes) == 2
    again = registry.record(Meta("me/it", root), root)
    saved(again, *EPISODES[2:])
    again.add_frame({"task": "of no use"})
    again.finalize()
    check_episodes(root, *EPISODES)
    assert registry.open(root).num_episodes == 4


def test_an_episode_that_fails_leaves_the_earlier_ones(
    registry: Registry, root: Path, begun: Meta, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    writer = registry.record(begun, root)
    saved(writer, EPISODES[0])
    with monkeypatch.context() as patched:
        full = StorageError("no space left on device")
        patched.setattr(OneEpisode, "save_episode", partialmethod(_raising, full))
        with pytest.raises(StorageError):
            saved(writer, EPISODES[1])
    writer.cleanup_interrupted_episode(1)  # what LeRobot calls where a recording ends by an error
    saved(writer, EPISODES[1])
    writer.finalize()
    check_episodes(root, *EPISODES[:2])


def _raising(_: OneEpisode, error: Exception, **__: Any) -> None:
    raise error


def test_the_writer_refuses_what_it_cannot_do(registry: Registry, root: Path, begun: Meta) -> None:
    register()
    with pytest.raises(OptionError, match="batch_encoding_size"):
        registry.record(begun, root, batch_encoding_size=2)
    writer = registry.record(begun, root)
    with pytest.raises(OptionError, match="no frame"):
        writer.save_episode()
    with pytest.raises(OptionError, match="add_frame"):
        writer.save_episode({"size": 3})
    writer.finalize()


def test_create_and_resume_need_lerobot(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lerobot.datasets.storage", "lerobot.datasets.lerobot_dataset"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionError, match="pip install"):
        create("me/it", 10, FEATURES, root)
    assert not root.exists()
    with pytest.raises(MissingError, match="no shards"):
        resume("me/it", root)
    begin(root, FEATURES)
    with pytest.raises(OptionError, match="pip install"):
        resume("me/it", root)


def test_created_and_resumed_it_is_a_dataset_of_lerobots(registry: Registry, root: Path) -> None:
    options = {"image_writer_threads": 2, "shard_size": "1MB"}
    created = create("me/it", 10, FEATURES, root, **options)
    saved(created.writer, *EPISODES[:2])
    created.writer.finalize()
    resumed = resume("me/it", root, **options)
    assert resumed.writer.episode_buffer["episode_index"] == 2
    saved(resumed.writer, *EPISODES[2:])
    resumed.writer.finalize()
    check_episodes(root, *EPISODES)
    with pytest.raises(OptionError, match="batch_encoding_size"):
        create("me/it", 10, FEATURES, root.with_name("another"), batch_encoding_size=2)
    assert not root.with_name("another").exists()


def test_the_command_recovers_and_writes_meta(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staging = Staging(root)
    add(staging, *EPISODES[:2])
    abandon(staging)
    assert dispatch(["lerobot-meta", str(root)]) == 0
    assert "2 episodes of an interrupted recording" in capsys.readouterr().out
    check_episodes(root, *EPISODES[:2])
    assert json.loads((root / "meta/info.json").read_text())["total_episodes"] == 2

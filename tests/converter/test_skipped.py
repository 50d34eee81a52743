"""`on_error="skip"`: what cannot be copied exactly is left out and listed with its reason; all else
is as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.broken_source import BrokenSource, put_at
from support.lerobot_source import Camera, Source, build
from support.slowly import slowly

from roboshard import storage
from roboshard.converter import ConversionReport
from roboshard.shards import MissingError, ShardedDataset, SourceError, rebuild

TOP = "observation.images.top"
Run = Callable[..., ConversionReport]
ReadTree = Callable[[Path], dict[str, str]]
LENGTHS = (6, 5, 7, 4, 6, 5)
DROPPED = {1: 2, 4: 1}
"""Episode index -> frames that its video lacks."""


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of which 1 and 4 lack frames; a shard each when shards are small."""
    root = tmp_path_factory.mktemp("skipped") / "robot"
    camera = Camera(key=TOP, drop_frames=DROPPED)
    build(root, Source(lengths=LENGTHS, cameras=(camera,), state_dim=160))
    return root


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def report_of(root: Path) -> list[dict[str, Any]]:
    report = json.loads((root / "skipped.json").read_bytes())
    assert list(report) == ["skipped"]
    skipped: list[dict[str, Any]] = report["skipped"]
    return skipped


def episodes_of(root: Path) -> list[int]:
    found: list[int] = ShardedDataset.open(str(root)).index.episode_index.tolist()
    return found


@pytest.mark.parametrize("shard_size", ["64KB", "1GB"])
def test_bad_episodes_are_left_out_and_listed(
    lacking: Path, tmp_path: Path, run: Run, shard_size: str
) -> None:
    report = run(lacking, tmp_path / "shards", on_error="skip", shard_size=shard_size)
    assert [skipped.episode_index for skipped in report.skipped] == [1, 4]
    assert (report.episodes, report.frames) == (4, 6 + 7 + 4 + 5)
    listed = report_of(tmp_path / "shards")
    assert listed == [
        {"episode_index": s.episode_index, "reason": s.reason} for s in report.skipped
    ]
    for entry in listed:
        index = entry["episode_index"]
        assert entry["reason"].startswith(f"episode {index}, camera '{TOP}', {lacking}/videos/")
        assert f"({DROPPED[index]} of {LENGTHS[index]} rows)" in entry["reason"]
    assert episodes_of(tmp_path / "shards") == [0, 2, 3, 5]


def test_the_other_episodes_are_as_they_would_have_been(
    lacking: Path, tmp_path: Path, run: Run
) -> None:
    run(lacking, tmp_path / "some", on_error="skip")
    run(lacking, tmp_path / "all", tolerance_s=1.0)
    some, everything = (ShardedDataset.open(str(tmp_path / name)) for name in ("some", "all"))
    for position, episode in enumerate(some.index.episode_index.tolist()):
        a, b = some.read_episode(position), everything.read_episode(episode)
        assert (a.record, a.videos) == (b.record, b.videos)


@pytest.mark.parametrize("shard_size", ["64KB", slowly("150KB"), slowly("1GB")])
def test_run_again_it_ends_with_the_same_bytes_and_report(
    lacking: Path, tmp_path: Path, run: Run, tree: ReadTree, shard_size: str
) -> None:
    options = {"on_error": "skip", "shard_size": shard_size}
    first = run(lacking, tmp_path / "shards", **options)
    before = tree(tmp_path / "shards")
    for workers in (1, 2):
        again = run(lacking, tmp_path / "shards", workers=workers, **options)
        assert again.reused_shards == first.shards == again.shards
        assert again.skipped == first.skipped
        assert tree(tmp_path / "shards") == before
    run(lacking, tmp_path / "others", workers=2, **options)
    assert tree(tmp_path / "others") == before


def test_a_shard_without_any_episode_is_not_there(lacking: Path, tmp_path: Path, run: Run) -> None:
    report = run(lacking, tmp_path / "shards", on_error="skip")
    assert report.shards == 4
    names = sorted(path.name for path in (tmp_path / "shards/shards").glob("*.tar"))
    assert names == [f"shard-{number:06d}.tar" for number in (0, 2, 3, 5)]
    manifest = ShardedDataset.open(str(tmp_path / "shards")).manifest
    assert [shard.name for shard in manifest.shards] == [f"shards/{name}" for name in names]
    assert manifest.conversion.num_shards == 6
    before = (tmp_path / "shards/dataset.json").read_bytes()
    rebuild(tmp_path / "shards", partial_dataset=True)
    assert (tmp_path / "shards/dataset.json").read_bytes() == before


@pytest.mark.parametrize("workers", [1, slowly(2)])
def test_when_no_episode_can_be_converted_there_is_no_dataset(
    lacking: Path, tmp_path: Path, run: Run, workers: int
) -> None:
    for _ in range(2):
        with pytest.raises(
            SourceError, match=r"no episode could be converted; see skipped.json in .*shards"
        ):
            run(lacking, tmp_path / "shards", on_error="skip", episodes="1,4", workers=workers)
        assert [entry["episode_index"] for entry in report_of(tmp_path / "shards")] == [1, 4]
        files = sorted(path.name for path in (tmp_path / "shards").rglob("*") if path.is_file())
        assert files == ["skipped.json"]
    with pytest.raises(MissingError, match=r"dataset.json: no such file"):
        ShardedDataset.open(str(tmp_path / "shards"))


def test_where_nothing_is_wrong_there_is_no_report(lacking: Path, tmp_path: Path, run: Run) -> None:
    assert run(lacking, tmp_path / "shards", on_error="skip", episodes="0,2:4").skipped == ()
    assert not (tmp_path / "shards/skipped.json").exists()


def test_without_skip_what_was_left_out_is_an_error_again(
    lacking: Path, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    run(lacking, tmp_path / "shards", on_error="skip", shard_size="150KB")
    before = tree(tmp_path / "shards")
    with pytest.raises(SourceError, match=f"episode 1, camera '{TOP}'"):
        run(lacking, tmp_path / "shards", shard_size="150KB")
    assert not (tmp_path / "shards/dataset.json").exists()
    assert list((tmp_path / "shards").rglob(".*")) == []
    run(lacking, tmp_path / "shards", on_error="skip", shard_size="150KB")
    assert tree(tmp_path / "shards") == before


def test_an_episode_that_became_readable_is_taken_in(
    tmp_path: Path, run: Run, tree: ReadTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(
        tmp_path / "robot",
        Source(lengths=(6, 5, 7), cameras=(Camera(key=TOP, episodes_per_file=1),)),
    )
    run(built.root, tmp_path / "whole", shard_size="1GB")
    source = BrokenSource(built.root)
    sound = source.video(1).read_bytes()
    source.video(1).write_bytes(
        bytes(len(sound))
    )  # of the same size, as a file system full of zeros would have it
    assert run(built.root, tmp_path / "shards", on_error="skip", shard_size="1GB").episodes == 2
    source.video(1).write_bytes(sound)
    with monkeypatch.context() as patched:
        patched.setattr(
            storage, "write_bytes", interrupt
        )  # after the new shard, before its manifest
        with pytest.raises(KeyboardInterrupt):
            run(built.root, tmp_path / "shards", on_error="skip", shard_size="1GB")
    assert not (
        tmp_path / "shards/shards/shard-000000.json"
    ).exists()  # the old one describes another shard
    assert run(built.root, tmp_path / "shards", on_error="skip", shard_size="1GB").skipped == ()
    assert tree(tmp_path / "shards") == tree(tmp_path / "whole")


def test_any_fault_of_one_episode_leaves_the_others(tmp_path: Path, run: Run) -> None:
    built = build(
        tmp_path / "robot",
        Source(lengths=(6, 5, 7, 4, 6), cameras=(Camera(key=TOP, episodes_per_file=1),)),
    )
    source = BrokenSource(built.root)
    source.truncate(source.video(0), 0.9)
    source.change(source.rows(0), put_at("timestamp", 8, float("nan")))
    source.change(source.rows(1), put_at("task_index", 3, 5))
    source.video(3).write_bytes(b"")
    report = run(built.root, tmp_path / "shards", on_error="skip", workers=2)
    reasons = {skipped.episode_index: skipped.reason for skipped in report.skipped}
    assert list(reasons) == [0, 1, 2, 3]
    for episode, reason in enumerate(
        ["camera", "timestamp nan", "task_index 5", "no readable video"]
    ):
        assert reason in reasons[episode]
    assert episodes_of(tmp_path / "shards") == [4]
    assert ShardedDataset.open(str(tmp_path / "shards")).read_episode(0).record.length == 6

"""Odd sources on the Hub are read as local ones; with HF_HUB_OFFLINE its cache is read, or refused
at once.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from support.broken_source import BrokenSource, put, take
from support.lerobot_source import Camera, Source, build
from support.servers import LocalHub

from roboshard.converter import ConversionReport
from roboshard.loader import open_dataset
from roboshard.shards import MissingError, ShardedDataset, StorageError

pytest_plugins = ["support.servers.fixtures"]

Run = Callable[..., ConversionReport]
ReadTree = Callable[[Path], dict[str, str]]
SOON_S = 5.0


@pytest.fixture
def robot(tmp_path: Path) -> BrokenSource:
    """Four episodes in two data files."""
    source = Source(lengths=(4, 3, 5, 4), cameras=(Camera(key="top"),), episodes_per_data_file=2)
    build(tmp_path / "robot", source)
    return BrokenSource(tmp_path / "robot")


def place_in_cache(robot: Path, cache: Path, commit: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay a dataset out as huggingface_hub keeps it, and have nothing else be asked; its folder."""
    folder = cache / "datasets--me--robot"
    shutil.copytree(robot, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(commit, encoding="utf-8")
    be_offline(cache, monkeypatch)
    return folder / "snapshots" / commit


def be_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))


@pytest.mark.parametrize("source", ["me/robot", "hf://datasets/me/robot", "me/robot@main"])
def test_offline_the_cache_gives_the_same_shards(
    robot: BrokenSource,
    this_hub: LocalHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
    tree: ReadTree,
    source: str,
) -> None:
    commit = this_hub.add_dataset("me/robot", robot.root)
    run(Path("me/robot"), tmp_path / "online")
    place_in_cache(robot.root, tmp_path / "cache", commit, monkeypatch)
    this_hub.reset()
    report = run(source, tmp_path / "offline")
    assert report.episodes == 4
    assert tree(tmp_path / "offline") == tree(tmp_path / "online")
    assert not this_hub.requests
    found = ShardedDataset.open(str(tmp_path / "offline")).manifest.source
    assert (found.name, found.revision) == ("me/robot", commit)


def test_offline_without_a_cache_it_is_said_at_once(
    this_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    be_offline(tmp_path / "cache", monkeypatch)
    began = time.monotonic()
    with pytest.raises(MissingError, match=r"me/robot: HF_HUB_OFFLINE is set, .*`hf download"):
        run("me/robot", tmp_path / "shards")
    with pytest.raises(StorageError, match=r"things: HF_HUB_OFFLINE is set, .* unset it"):
        run("hf://buckets/me/things", tmp_path / "shards")
    with pytest.raises(StorageError, match=r"HF_HUB_OFFLINE is set"):
        open_dataset("hf://datasets/me/shards")
    assert time.monotonic() - began < SOON_S
    assert not this_hub.requests


def test_a_cache_that_lacks_files_is_named(
    robot: BrokenSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    folder = place_in_cache(robot.root, tmp_path / "cache", "a" * 40, monkeypatch)
    (folder / "data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(
        MissingError, match=r"file-001.parquet \(the Hub's cache, .*missing, though"
    ):
        run("me/robot", tmp_path / "shards")


@pytest.mark.parametrize("case", ["stale", "totals", "no hints", "apart"])
def test_rows_are_found_on_the_hub_as_in_a_folder(
    robot: BrokenSource, this_hub: LocalHub, tmp_path: Path, run: Run, case: str
) -> None:
    """All data files are asked by ranges alone, and only those that episodes lie in are
    downloaded.
    """
    if case == "stale":
        robot.change(robot.episodes(), put("data/file_index", np.array([0, 0, 0, 1])))
    elif case == "totals":
        robot.set_info(total_frames=2)
    elif case == "no hints":
        robot.change(robot.episodes(), lambda table: table.drop_columns(["length"]))
    else:
        robot.change(robot.rows(), take(0, 4, 1, 2, 3, 5, 6))
    this_hub.add_dataset("me/robot", robot.root)
    there = run("me/robot", tmp_path / "there")
    here = run(robot.root, tmp_path / "here")
    assert there.findings == here.findings != ()
    ours, theirs = open_dataset(str(tmp_path / "here")), open_dataset(str(tmp_path / "there"))
    assert len(ours) == len(theirs) == 16
    for i in range(len(ours)):
        assert ours[i].keys() == theirs[i].keys()
        assert all(np.array_equal(ours[i][key], theirs[i][key]) for key in ours[i])

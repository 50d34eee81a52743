"""The same source and options give the same bytes, whoever converts them, where, when and with how
many workers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.lerobot_source import Camera, Source, build
from support.slowly import slowly

from roboshard.converter import ConversionReport, ConvertConfig, make_plan
from roboshard.shards import ShardedDataset

Run = Callable[..., ConversionReport]
ReadTree = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight episodes, two cameras, PNG images; six shards."""
    root = tmp_path_factory.mktemp("determinism") / "robot"
    cameras = (
        Camera(key="observation.images.top", bframes=2, stream="continuous"),
        Camera(key="observation.images.wrist", codec="av1", gop=2),
    )
    build(
        root,
        Source(
            lengths=(12, 9, 15, 7, 11, 3, 8, 10),
            cameras=cameras,
            image_keys=("i",),
            extra_features=True,
        ),
    )
    return root


@pytest.fixture(scope="module")
def shards(source: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    root = tmp_path_factory.mktemp("determinism") / "shards"
    assert run(source, root).shards >= 5
    return root


def states(root: Path) -> dict[str, tuple[int, int, int]]:
    """Of every file and folder: size, mode and time of the last change."""
    found = {path: path.lstat() for path in [root, *root.rglob("*")]}
    return {
        str(path): (stat.st_size, stat.st_mode, stat.st_mtime_ns) for path, stat in found.items()
    }


@pytest.mark.parametrize("workers", [2, slowly(4)])
def test_the_number_of_workers_does_not_show(
    source: Path, shards: Path, tmp_path: Path, run: Run, tree: ReadTree, workers: int
) -> None:
    report = run(source, tmp_path / "shards", workers=workers)
    assert report.reused_shards == 0
    assert tree(tmp_path / "shards") == tree(shards)


def test_what_else_the_process_has_imported_does_not_show(
    source: Path, shards: Path, tmp_path: Path, tree: ReadTree
) -> None:
    """`datasets` registers Arrow types that the source's files name."""
    arguments = f"source={str(source)!r}, destination={str(tmp_path / 'shards')!r}, shard_size='64KB', workers=1"
    code = "import datasets\nfrom roboshard.converter import ConvertConfig, convert\n"
    subprocess.run([sys.executable, "-c", f"{code}convert(ConvertConfig({arguments}))"], check=True)
    assert tree(tmp_path / "shards") == tree(shards)


def test_where_and_how_old_the_source_is_does_not_show(
    source: Path, shards: Path, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    moved = tmp_path / "another place" / source.name
    shutil.copytree(source, moved)
    for age, path in enumerate(sorted(moved.rglob("*"))):
        os.utime(path, (1_000_000 * age, 1_000_000 * age))
    run(moved, tmp_path / "shards")
    assert tree(tmp_path / "shards") == tree(shards)


@pytest.mark.parametrize("spelling", ["relative", "symlink", "file URL", "trailing slash"])
def test_how_the_source_is_spelled_does_not_show(
    source: Path,
    shards: Path,
    tmp_path: Path,
    tree: ReadTree,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    spelling: str,
) -> None:
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(source.parent)
    spelled: dict[str, Any] = {
        "relative": os.path.relpath(source),
        "symlink": tmp_path / "link",
        "file URL": source.as_uri(),
        "trailing slash": f"{source}/",
    }
    run(spelled[spelling], tmp_path / "shards")
    assert tree(tmp_path / "shards") == tree(shards)


def test_a_source_is_only_read(
    source: Path, shards: Path, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    locked = tmp_path / "locked" / source.name
    shutil.copytree(source, locked)
    folders = [locked, *(path for path in locked.rglob("*") if path.is_dir())]
    for path in [*folders, *(path for path in locked.rglob("*") if path.is_file())]:
        path.chmod(path.stat().st_mode & 0o555)
    before, content = states(locked), tree(locked)
    try:
        run(locked, tmp_path / "shards", workers=2)
        assert (states(locked), tree(locked)) == (
            before,
            content,
        )  # root may write anywhere: so nothing has changed
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert tree(tmp_path / "shards") == tree(shards)


def test_a_finished_conversion_is_left_as_it_is(
    source: Path, shards: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(shards, tmp_path / "shards")
    before = states(tmp_path / "shards/shards")
    report = run(source, tmp_path / "shards", workers=2)
    assert report.reused_shards == report.shards
    assert states(tmp_path / "shards/shards") == before


def test_tar_headers_tell_nothing_of_who_wrote_them(shards: Path) -> None:
    for path in (shards / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (
                    0,
                    0,
                    0,
                    "",
                    "",
                )
                assert (member.mode, member.isreg()) == (0o644, True)


# -- Options ---------------------------------------------------------------------------------------


def in_shards(root: Path) -> list[int]:
    """Episode indices in the order in which the shards hold them."""
    dataset = ShardedDataset.open(str(root))
    return [
        sample.episode_index
        for shard in dataset.manifest.shards
        for sample in dataset.shard_manifest(shard).samples
    ]


def test_shuffled_episodes_are_in_an_order_that_the_seed_fixes(
    source: Path, shards: Path, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        run(source, tmp_path / name, shuffle_episodes=seed, workers=2 if name == "again" else 1)
    assert tree(tmp_path / "a") == tree(tmp_path / "again")
    orders = [in_shards(root) for root in (shards, tmp_path / "a", tmp_path / "b")]
    assert orders[0] == list(range(8))
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders[1] != orders[0] != orders[2] != orders[1]


def test_an_episode_is_the_same_wherever_it_lies(
    source: Path, shards: Path, tmp_path: Path, run: Run
) -> None:
    run(source, tmp_path / "shuffled", shuffle_episodes=3, shard_size="1GB")
    some, other = (ShardedDataset.open(str(root)) for root in (shards, tmp_path / "shuffled"))
    for position in range(8):
        a, b = some.read_episode(position), other.read_episode(position)
        assert (a.record, a.videos) == (b.record, b.videos)


def test_only_the_chosen_episodes_are_converted(source: Path, tmp_path: Path, run: Run) -> None:
    report = run(source, tmp_path / "shards", episodes="1:3,6")
    assert (report.episodes, report.frames) == (3, 9 + 15 + 8)
    assert in_shards(tmp_path / "shards") == [1, 2, 6]


def conversion_id(source: Path, **options: Any) -> str:
    plan = make_plan(ConvertConfig(source=str(source), destination="/nowhere", **options))
    return plan.provenance.conversion.id


def test_what_decides_the_bytes_decides_the_conversion_id(source: Path, tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"shard_size": "64KB"},
        {"shard_size": "65KB"},
        {"episodes": "0:4"},
        {"episodes": "0:5"},
        {"shuffle_episodes": 0},
        {"shuffle_episodes": 1},
        {"tolerance_s": 0.01},
    ]
    ids = [conversion_id(source, **chosen) for chosen in options]
    renamed, changed = tmp_path / "renamed", tmp_path / "changed" / source.name
    for copy in (renamed, changed):
        shutil.copytree(source, copy)
    tasks = changed / "meta/stats.json"
    tasks.write_text(tasks.read_text(encoding="utf-8").replace("0.", "1.", 1), encoding="utf-8")
    ids += [conversion_id(renamed), conversion_id(changed)]
    video = sorted(changed.rglob("*.mp4"))[0]
    video.write_bytes(video.read_bytes() + b"\0")
    ids.append(conversion_id(changed))
    assert len(set(ids)) == len(ids)


def test_what_does_not_decide_the_bytes_leaves_the_conversion_id(source: Path) -> None:
    ids = {
        conversion_id(source),
        conversion_id(source, workers=7),
        conversion_id(source, on_error="skip"),
        conversion_id(source, shard_size="256000KB"),
    }
    assert len(ids) == 1

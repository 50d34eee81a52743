"""A dataset that grows: new shards after the old ones, whose bytes stay, killed or not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.growing import CAMERA, LENGTHS, append, record
from support.lerobot_v21_source import write_v21
from support.slowly import some_quickly

from roboshard.cli.convert import convert_command
from roboshard.converter import ConvertConfig, ReencodeConfig, finalize, make_plan
from roboshard.shards import EpisodeData, OptionError, ShardedDataset, SourceError
from roboshard.shards.rows import decode_rows
from roboshard.shards.slices import read_slice
from roboshard.storage.locks import lock

ReadTree = Callable[[Path], dict[str, str]]

SIZES = (3, 5, 6)
"""Episodes at the end of each night."""


@dataclass(frozen=True, kw_only=True)
class Nights:
    """Three nights: the source and the dataset at the end of each."""

    sources: tuple[Path, ...]
    shards: tuple[Path, ...]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = tmp_path_factory.mktemp("nights")
    sources, shards = [], []
    for night, episodes in enumerate(SIZES):
        source = folder / f"{night}/robot"
        record(source, episodes)
        destination = folder / f"{night}/shards"
        if shards:
            shutil.copytree(shards[-1], destination)
        report = append(source, destination)
        before = SIZES[night - 1] if night else 0
        assert (report.episodes, report.kept_episodes) == (episodes - before, before)
        assert report.shards == episodes - before
        sources.append(source)
        shards.append(destination)
    return Nights(sources=tuple(sources), shards=tuple(shards))


def copied(root: Path, to: Path) -> Path:
    shutil.copytree(root, to)
    return to


def packets_of(episode: EpisodeData) -> list[bytes]:
    """What is shown; a slice's header may tell of the file that it was cut from."""
    (camera,) = episode.record.cameras
    packets = read_slice(episode.videos[camera.key], camera)
    places = zip(packets.tables.offsets.tolist(), packets.tables.sizes.tolist(), strict=True)
    return [bytes(packets.payload[start : start + size]) for start, size in places]


def manifest(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "dataset.json").read_bytes())
    return found


# -- What grows, and what stays --------------------------------------------------------------------


def test_nothing_but_dataset_json_changes(nights: Nights, tree: ReadTree) -> None:
    for before, after in zip(nights.shards, nights.shards[1:], strict=False):
        old, new = tree(before), tree(after)
        assert {path for path, sha256 in old.items() if new[path] != sha256} == {"dataset.json"}
    added = tree(nights.shards[2]).keys() - tree(nights.shards[1]).keys()
    fingerprint, index = (
        manifest(nights.shards[1])["fingerprint"],
        manifest(nights.shards[2])["index"],
    )
    assert added == {
        "shards/shard-000005.tar",
        "shards/shard-000005.json",
        f"snapshots/{fingerprint}.json",
        index["name"],
    }


def test_snapshots_are_the_datasets_that_there_were(nights: Nights) -> None:
    last = nights.shards[-1]
    for number, root in enumerate(nights.shards):
        before, snapshot = (
            ShardedDataset.open(str(root)),
            ShardedDataset.open(str(last), None, number),
        )
        assert snapshot.manifest == before.manifest
        assert len(snapshot.index) == SIZES[number]
        assert snapshot.index.offset.tolist() == before.index.offset.tolist()
        by_name = ShardedDataset.open(str(last), None, before.manifest.fingerprint[:8])
        assert by_name.manifest == before.manifest
    stated = [(each["shards"], each["episodes"]) for each in manifest(last)["snapshots"]]
    assert stated == [(3, 3), (5, 5)]
    assert manifest(last)["version"] == "1.2"
    for wrong in (3, -1, True, "abc", "0" * 64):
        with pytest.raises(OptionError, match="snapshot"):
            ShardedDataset.open(str(last), None, wrong)


def test_what_is_said_of_the_dataset_holds_for_all_its_episodes(nights: Nights) -> None:
    source, said = nights.sources[-1], manifest(nights.shards[-1])
    for name in ("info", "stats"):
        assert said[name] == json.loads((source / f"meta/{name}.json").read_bytes())
    assert said["tasks"] == [f"task {i}" for i in range(SIZES[-1])]
    assert (said["total_episodes"], said["total_frames"]) == (SIZES[-1], sum(LENGTHS[: SIZES[-1]]))


def test_episodes_are_those_of_a_conversion_at_once(nights: Nights, tmp_path: Path) -> None:
    append(nights.sources[-1], tmp_path / "at-once")
    grown, whole = (
        ShardedDataset.open(str(root)) for root in (nights.shards[-1], tmp_path / "at-once")
    )
    assert grown.index.episode_index.tolist() == whole.index.episode_index.tolist()
    for position in range(SIZES[-1]):
        one, other = grown.read_episode(position), whole.read_episode(position)
        assert one.record == other.record
        assert packets_of(one) == packets_of(other)
        length = one.record.length
        rows = [decode_rows(each.rows, "rows", length) for each in (one, other)]
        assert rows[0].equals(rows[1])


def test_nothing_new_changes_nothing(nights: Nights, tmp_path: Path, tree: ReadTree) -> None:
    root = copied(nights.shards[1], tmp_path / "shards")
    report = append(nights.sources[1], root)
    assert (report.episodes, report.kept_episodes, report.shards) == (0, 5, 0)
    assert tree(root) == tree(nights.shards[1])


def test_a_source_that_was_laid_out_anew_is_the_same(
    nights: Nights, tmp_path: Path, tree: ReadTree
) -> None:
    """Where an episode lies says nothing of what it holds: its row of meta/episodes has other bytes
    then.
    """
    camera = replace(CAMERA, episodes_per_file=1)
    record(tmp_path / "robot", SIZES[2], cameras=(camera,), episodes_per_data_file=4)
    root = copied(nights.shards[1], tmp_path / "shards")
    assert append(tmp_path / "robot", root).episodes == 1
    old = tree(nights.shards[1])
    assert {path for path in old if tree(root)[path] != old[path]} == {"dataset.json"}


def test_episodes_can_be_chosen_and_others_follow(nights: Nights, tmp_path: Path) -> None:
    root = tmp_path / "shards"
    append(nights.sources[2], root, episodes="1,4")
    assert append(nights.sources[2], root, episodes="0:5", shuffle_episodes=1).episodes == 3
    assert append(nights.sources[2], root).episodes == 1
    assert ShardedDataset.open(str(root)).index.episode_index.tolist() == list(range(6))
    assert ShardedDataset.open(str(root), None, 0).index.episode_index.tolist() == [1, 4]


def test_a_source_of_lerobot_v21_grows(nights: Nights, tmp_path: Path) -> None:
    root = tmp_path / "shards"
    for source, episodes in zip(nights.sources[:2], (3, 2), strict=True):
        shutil.rmtree(tmp_path / "robot", ignore_errors=True)
        write_v21(source, tmp_path / "robot")
        assert append(tmp_path / "robot", root).episodes == episodes
    assert len(ShardedDataset.open(str(root)).index) == SIZES[1]


@pytest.mark.slow
def test_a_dataset_that_was_encoded_again_grows_as_it_was_encoded(
    nights: Nights, tmp_path: Path
) -> None:
    root, again = tmp_path / "shards", {"video": "reencode", "reencode": ReencodeConfig(gop=2)}
    append(nights.sources[0], root, **again)
    with pytest.raises(OptionError, match="with --video reencode --codec libsvtav1 --gop 2 "):
        append(nights.sources[1], root)
    assert append(nights.sources[1], root, **again).episodes == 2


def test_the_plan_shows_what_is_new(nights: Nights) -> None:
    config = ConvertConfig(
        source=str(nights.sources[2]), destination=str(nights.shards[1]), append=True
    )
    plan = make_plan(config)
    assert plan.episodes.tolist() == [5]


# -- Killed ----------------------------------------------------------------------------------------


def left_behind(nights: Nights, root: Path, moment: int) -> None:
    """Make what an append of the last night leaves that was killed after its `moment`th step."""
    copied(nights.shards[0], root)
    before, after = manifest(nights.shards[0]), manifest(nights.shards[1])
    written = [
        "shards/shard-000003.tar",
        "shards/shard-000003.json",
        "shards/shard-000004.tar",
        "shards/shard-000004.json",
        f"snapshots/{before['fingerprint']}.json",
        after["index"]["name"],
        "dataset.json",
    ]
    for path in written[:moment]:
        (root / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(nights.shards[1] / path, root / path)
    for folder in ("shards", "snapshots"):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / ".shard-000004.tar.12-0123abcd.roboshard-tmp").write_bytes(b"half")


@pytest.mark.parametrize("moment", some_quickly(range(8), {3, 6}))
def test_killed_at_any_step_it_is_what_it_was_and_ends_with_the_same_bytes(
    nights: Nights, tmp_path: Path, tree: ReadTree, moment: int
) -> None:
    root = tmp_path / "shards"
    left_behind(nights, root, moment)
    held = ShardedDataset.open(str(root))
    assert len(held.index) == (SIZES[1] if moment == 7 else SIZES[0])
    report = append(nights.sources[1], root)
    assert report.reused_shards == (0 if moment == 7 else min(moment, 4) // 2)
    assert tree(root) == tree(nights.shards[1])
    for position in range(len(held.index)):  # a reader with the old dataset.json goes on
        held.read_episode(position)


@pytest.mark.parametrize("moment", some_quickly([1, 3, 4, 6], {3}))
def test_killed_and_recorded_on_before_it_was_run_again(
    nights: Nights, tmp_path: Path, tree: ReadTree, moment: int
) -> None:
    """What the killed run left is of another state of the source: it goes, and nothing of it is in
    the way.
    """
    expected = copied(nights.shards[0], tmp_path / "expected")
    append(nights.sources[2], expected)
    root = tmp_path / "shards"
    left_behind(nights, root, moment)
    assert append(nights.sources[2], root).episodes == SIZES[2] - SIZES[0]
    assert tree(root) == tree(expected)


def test_shards_that_no_append_left_are_not_removed(nights: Nights, tmp_path: Path) -> None:
    root = copied(nights.shards[0], tmp_path / "shards")
    shutil.copyfile(root / "shards/shard-000000.tar", root / "shards/shard-000007.tar")
    with pytest.raises(OptionError, match=r"holds shards/shard-000007\.tar, which dataset\.json"):
        append(nights.sources[1], root)
    assert (root / "shards/shard-000007.tar").exists()
    assert len(ShardedDataset.open(str(root)).index) == SIZES[0]


def test_one_append_at_a_time(nights: Nights, tmp_path: Path) -> None:
    root = copied(nights.shards[0], tmp_path / "shards")
    descriptor = os.open(root, os.O_RDONLY)
    try:
        assert lock(descriptor, shared=False, wait=False)
        with pytest.raises(OptionError, match="another conversion is writing here"):
            append(nights.sources[1], root)
    finally:
        os.close(descriptor)


# -- In parts --------------------------------------------------------------------------------------


def test_in_parts(nights: Nights, tmp_path: Path, tree: ReadTree) -> None:
    root = copied(nights.shards[0], tmp_path / "shards")
    for part in (1, 0):
        assert append(nights.sources[1], root, shards=f"{part}/2").shards == 1
        assert len(ShardedDataset.open(str(root)).index) == SIZES[0], "until all are there"
    config = ConvertConfig(
        source=str(nights.sources[1]),
        destination=str(root),
        append=True,
        shard_size="64KB",
        workers=1,
    )
    assert finalize(config).episodes == SIZES[1] - SIZES[0]
    assert tree(root) == tree(nights.shards[1])


def test_a_part_does_not_remove_what_another_append_left(nights: Nights, tmp_path: Path) -> None:
    root = tmp_path / "shards"
    left_behind(nights, root, 2)
    with pytest.raises(OptionError, match="left by an append of another state of the source"):
        append(nights.sources[2], root, shards="0/2")
    assert (root / "shards/shard-000003.tar").exists()


# -- Refused ---------------------------------------------------------------------------------------


def refused(nights: Nights, root: Path, source: Path, message: str, **options: Any) -> None:
    before = (root / "dataset.json").read_bytes()
    with pytest.raises(OptionError, match=message):
        append(source, root, **options)
    assert (root / "dataset.json").read_bytes() == before
    assert len(list(root.glob("shards/*.tar"))) == SIZES[0]


def edit_rows(source: Path, episode: int, name: str, value: Any) -> None:
    for path in (source / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            if row["episode_index"] == episode:
                row[name] = value(row[name])
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def edit_metadata(source: Path, episode: int, name: str, value: Any) -> None:
    (path,) = (source / "meta/episodes").rglob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[episode][name] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


@pytest.fixture
def base(nights: Nights, tmp_path: Path) -> Path:
    return copied(nights.shards[0], tmp_path / "base")


def test_changed_rows_are_named(nights: Nights, base: Path, tmp_path: Path) -> None:
    source = copied(nights.sources[1], tmp_path / "robot")
    edit_rows(source, 1, "action", lambda action: [-0.0, *action[1:]])
    message = r"1 episodes are not what they were(.|\n)*episode 1: its values of action are others"
    refused(nights, base, source, message)


def test_changed_metadata_is_named(nights: Nights, base: Path, tmp_path: Path) -> None:
    source = copied(nights.sources[1], tmp_path / "robot")
    edit_metadata(source, 2, "stats/action/mean", [0.5] * 160)
    refused(nights, base, source, "episode 2: meta/episodes says otherwise of stats/action/mean")


def test_changed_video_is_named_unless_rows_alone_are_compared(
    nights: Nights, base: Path, tmp_path: Path
) -> None:
    source = copied(nights.sources[1], tmp_path / "robot")
    record(tmp_path / "other", SIZES[1], cameras=(replace(CAMERA, gop=3),))
    shutil.rmtree(source / "videos")
    shutil.copytree(tmp_path / "other/videos", source / "videos")
    message = (
        r"3 episodes(.|\n)*episode 0: the video of camera 'observation\.images\.top' is another"
    )
    refused(nights, base, source, message)
    assert append(source, base, compare="rows").episodes == 2


def test_episodes_that_are_gone_are_named(nights: Nights, base: Path, tmp_path: Path) -> None:
    source = record(tmp_path / "robot", 2).root
    refused(nights, base, source, r"1 episodes that .* has are not there any more: 2\.")


def test_a_task_that_became_another_is_named(nights: Nights, base: Path, tmp_path: Path) -> None:
    source = record(tmp_path / "robot", 5, tasks=("task 0", "b", "c", "d", "e")).root
    refused(nights, base, source, "task 1 was 'task 1' and is 'b'")


def test_features_that_changed_are_named(nights: Nights, base: Path, tmp_path: Path) -> None:
    source = record(tmp_path / "robot", 5, state_dim=161).root
    refused(
        nights, base, source, r"features are not those that .* has: (observation\.state|action)"
    )


def test_options_that_do_not_fit_are_named(nights: Nights, base: Path) -> None:
    refused(nights, base, nights.sources[1], "with tolerance_s 0.0001, which", tolerance_s=0.001)
    refused(nights, base, nights.sources[1], "with video copied, which", video="reencode")
    with pytest.raises(OptionError, match="it needs append"):
        append(nights.sources[1], base, append=False, compare="rows")


def test_a_conversion_without_append_says_what_to_do(nights: Nights, tmp_path: Path) -> None:
    root = copied(nights.shards[1], tmp_path / "shards")
    for source in nights.sources[:2]:
        with pytest.raises(OptionError, match="--append adds to a dataset what is new"):
            append(source, root, append=False)
    assert len(ShardedDataset.open(str(root)).index) == SIZES[1]


def test_a_dataset_json_that_is_damaged_is_an_error(nights: Nights, base: Path) -> None:
    data = (base / "dataset.json").read_bytes()
    (base / "dataset.json").write_bytes(data.replace(b'"fps":10', b'"fps":11'))
    with pytest.raises(Exception, match="damaged"):
        append(nights.sources[1], base)


# -- Left out --------------------------------------------------------------------------------------


def skipped(root: Path) -> list[int]:
    path = root / "skipped.json"
    if not path.exists():
        return []
    return [each["episode_index"] for each in json.loads(path.read_bytes())["skipped"]]


def test_an_episode_that_was_left_out_is_tried_again(nights: Nights, tmp_path: Path) -> None:
    source, root = copied(nights.sources[2], tmp_path / "robot"), tmp_path / "shards"
    video = next((source / "videos").rglob("file-000.mp4"))
    good = video.read_bytes()
    video.write_bytes(b"no video")
    append(source, root, on_error="skip", episodes="1:5")
    assert skipped(root) == [1, 2]
    assert append(source, root, on_error="skip", episodes="0:2,5").episodes == 1
    assert skipped(root) == [0, 1, 2], "of episode 2 what was known before"
    before = (root / "dataset.json").read_bytes()
    report = append(source, root, on_error="skip")
    assert (report.episodes, len(report.skipped)) == (0, 3)
    assert (root / "dataset.json").read_bytes() == before
    with pytest.raises(SourceError):
        append(source, root)
    video.write_bytes(good)
    assert append(source, root).episodes == 3
    assert skipped(root) == []
    assert ShardedDataset.open(str(root)).index.episode_index.tolist() == list(range(6))


# -- As a command ----------------------------------------------------------------------------------


def test_the_command(nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copied(nights.shards[0], tmp_path / "shards")
    flags = ["--append", "--shard-size", "64KB", "--workers", "1"]
    command = [str(nights.sources[1]), str(root), *flags]
    convert_command([*command, "--dry-run"])
    assert "2 new episodes in 2 shards" in " ".join(capsys.readouterr().out.split())
    convert_command(command)
    assert "2 new episodes, " in (said := " ".join(capsys.readouterr().out.split()))
    assert "the dataset had 3 episodes, and has 5 now" in said
    convert_command(command)
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing new: " in said
    assert "has 5 episodes as before" in said

"""Publishing a dataset that grows: only what is new goes, and readers find a whole dataset all the
time.
"""

from __future__ import annotations

import hashlib
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from support.growing import append, record
from support.publishing import Watcher, batches, finish, hashes, in_bucket, kill_when, start
from support.servers import LocalHub
from support.slowly import some_quickly

from roboshard.shards import OptionError, ShardedDataset
from roboshard.tools.upload import UploadConfig, UploadReport, make_plan, upload

pytest_plugins = ["support.servers.fixtures"]

SIZES = (2, 3, 5)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The dataset at the end of each night."""
    folder = tmp_path_factory.mktemp("nights")
    found: list[Path] = []
    for night, episodes in enumerate(SIZES):
        record(folder / "robot", episodes, cameras=())
        root = folder / f"{night}/shards"
        if found:
            shutil.copytree(found[-1], root)
        append(folder / "robot", root)
        found.append(root)
    return found


@pytest.fixture
def bucket(this_hub: LocalHub, request: pytest.FixtureRequest) -> str:
    return f"me/{hashlib.sha1(request.node.nodeid.encode()).hexdigest()}"


def config(source: Path, destination: str | Path, **options: bool) -> UploadConfig:
    return UploadConfig(
        source=str(source), destination=str(destination), **({"card": False} | options)
    )  # type: ignore[arg-type]


def send(source: Path, destination: str | Path, **options: bool) -> UploadReport:
    return upload(config(source, destination, **options))


def test_only_what_is_new_is_sent(nights: list[Path], this_hub: LocalHub, bucket: str) -> None:
    url = f"hf://buckets/{bucket}"
    send(nights[0], url)
    for before, after in pairwise(nights):
        new = hashes(after).keys() - hashes(before).keys() | {"dataset.json"}
        plan = make_plan(config(after, url))
        assert {each.path for each in plan.uploads} == new
        assert plan.uploads[-1].path == "dataset.json"
        assert (plan.withdraw, plan.remove) == (False, ())
        report = send(after, url)
        assert (report.files_sent, report.removed, report.unlisted) == (len(new), (), ())
        assert in_bucket(this_hub, bucket) == hashes(after)
    assert send(nights[-1], url).files_sent == 0


def test_nights_can_be_left_out(nights: list[Path], tmp_path: Path) -> None:
    send(nights[0], tmp_path / "copy")
    send(nights[2], tmp_path / "copy")
    assert hashes(tmp_path / "copy") == hashes(nights[2])
    assert len(ShardedDataset.open(str(tmp_path / "copy"), snapshot=1).index) == SIZES[1]


def test_old_shards_are_not_read_again(nights: list[Path], tmp_path: Path) -> None:
    """Neither here nor there: what the destination's dataset.json lists was seen to be right."""
    source = tmp_path / "shards"
    shutil.copytree(nights[1], source)
    send(nights[0], tmp_path / "copy")
    path = source / "shards/shard-000000.tar"
    path.write_bytes(bytes(path.stat().st_size))
    assert send(source, tmp_path / "copy").files_sent == 5


def test_what_is_missing_there_of_the_old_is_sent_again(nights: list[Path], tmp_path: Path) -> None:
    send(nights[0], tmp_path / "copy")
    (tmp_path / "copy/shards/shard-000001.tar").unlink()
    plan = make_plan(config(nights[1], tmp_path / "copy"))
    assert plan.withdraw, "what dataset.json promises is not there"
    send(nights[1], tmp_path / "copy")
    assert hashes(tmp_path / "copy") == hashes(nights[1])


def test_an_older_state_does_not_replace_a_newer_one(nights: list[Path], tmp_path: Path) -> None:
    send(nights[1], tmp_path / "copy")
    with pytest.raises(OptionError, match="holds another version of this dataset of 3 episodes"):
        send(nights[0], tmp_path / "copy")
    assert hashes(tmp_path / "copy") == hashes(nights[1])


def test_an_upload_of_all_nights_that_was_cut_off_goes_on(
    nights: list[Path], tmp_path: Path
) -> None:
    """A shard of the first night that came half is known by its manifest as one of this dataset."""
    (tmp_path / "copy/shards").mkdir(parents=True)
    for name in ("shard-000000.json", "shard-000000.tar"):
        shutil.copyfile(nights[1] / "shards" / name, tmp_path / "copy/shards" / name)
    with (tmp_path / "copy/shards/shard-000000.tar").open("r+b") as file:
        file.truncate(1000)
    send(nights[1], tmp_path / "copy")
    assert hashes(tmp_path / "copy") == hashes(nights[1])


@pytest.mark.parametrize("moment", some_quickly(range(1, 8), ()))
def test_killed_readers_find_the_old_dataset_or_the_new_one(
    nights: list[Path], this_hub: LocalHub, bucket: str, moment: int
) -> None:
    url = f"hf://buckets/{bucket}"
    send(nights[0], url)
    this_hub.configure(latency_s=0.05)
    states = {hashes(root)["dataset.json"]: hashes(root) for root in (nights[0], nights[2])}
    with Watcher(this_hub, bucket, states).watching():
        command = ("upload-shards", nights[2], url, "--jobs", "1", "--no-card")
        process = start(*command, **this_hub.environment)
        target = batches(this_hub) + moment
        kill_when(process, lambda: batches(this_hub) >= target)
        finish(start(*command, **this_hub.environment))
    assert in_bucket(this_hub, bucket) == hashes(nights[2])

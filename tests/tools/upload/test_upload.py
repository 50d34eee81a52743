"""Uploads: only what is missing goes, everything is verified, nothing of others is touched."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from support.publishing import batches, contents, finish, hashes, in_bucket, start
from support.servers import LocalHub, S3Server

from roboshard.converter import ConvertConfig, convert
from roboshard.shards import DamageError, MissingError, OptionError, ShardedDataset, StorageError
from roboshard.storage import retry
from roboshard.tools.upload import UploadConfig, UploadReport, make_plan, upload

pytest_plugins = ["support.servers.fixtures"]

FIRST_SHARD = "shards/shard-000000.tar"


@pytest.fixture(scope="module")
def other_shards(pusht_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another, smaller dataset: its shards have the names of the first ones of `pusht_shards`."""
    root = tmp_path_factory.mktemp("other") / "shards"
    convert(
        ConvertConfig(
            source=str(pusht_source),
            destination=root,
            shard_size="64KB",
            episodes="6:14",
            workers=1,
        )
    )  # type: ignore[arg-type]
    return root


@pytest.fixture
def bucket(this_hub: LocalHub, request: pytest.FixtureRequest) -> str:
    """A bucket of this test's own, which does not exist yet."""
    return f"me/{hashlib.sha1(request.node.nodeid.encode()).hexdigest()}"


def send(source: Path, destination: str | Path, **options: bool | int) -> UploadReport:
    return upload(
        UploadConfig(
            source=str(source), destination=str(destination), **({"card": False} | options)
        )
    )  # type: ignore[arg-type]


# -- What is sent ----------------------------------------------------------------------------------


def test_a_bucket_holds_the_dataset_and_a_second_run_sends_nothing(
    pusht_shards: Path, this_hub: LocalHub, bucket: str
) -> None:
    report = send(pusht_shards, f"hf://buckets/{bucket}/deep/down")
    expected = {f"deep/down/{path}": sha256 for path, sha256 in hashes(pusht_shards).items()}
    assert in_bucket(this_hub, bucket) == expected
    assert (report.files_sent, report.files_kept, report.removed, report.unlisted) == (
        len(expected),
        0,
        (),
        (),
    )
    assert report.bytes_sent == sum(map(len, contents(pusht_shards).values()))
    before = batches(this_hub)
    again = send(pusht_shards, f"hf://buckets/{bucket}/deep/down")
    assert (again.files_sent, again.files_kept) == (0, len(expected))
    assert batches(this_hub) == before
    assert not this_hub.token_leaks


def test_a_dataset_repository_is_written_in_few_commits_the_last_with_dataset_json(
    pusht_shards: Path, this_hub: LocalHub, bucket: str
) -> None:
    send(pusht_shards, f"hf://datasets/{bucket}@v1/data")
    there = this_hub.dataset_files(bucket, "v1")
    for path, data in contents(pusht_shards).items():
        assert this_hub.read_dataset(bucket, f"data/{path}", "v1") == data
    assert len(there) == len(contents(pusht_shards))
    assert this_hub.dataset_files(bucket, "main") == {}
    commits = sum("/commit/" in request.path for request in this_hub.requests)
    assert commits == 3  # shards, index, dataset.json
    assert send(pusht_shards, f"hf://datasets/{bucket}@v1/data").files_sent == 0
    assert sum("/commit/" in request.path for request in this_hub.requests) == commits


def test_s3_holds_the_dataset_and_a_second_run_sends_nothing(
    pusht_shards: Path, s3_server: S3Server
) -> None:
    send(pusht_shards, "s3://shards/x")
    assert s3_server.files("x/") == {
        f"x/{path}": data for path, data in contents(pusht_shards).items()
    }
    assert send(pusht_shards, "s3://shards/x").files_sent == 0
    s3_server._client().put_object(  # type: ignore[no-untyped-call]
        Bucket="shards",
        Key=f"x/{FIRST_SHARD}",
        Body=bytes((pusht_shards / FIRST_SHARD).stat().st_size),
    )
    assert send(pusht_shards, "s3://shards/x").files_sent == 2
    assert s3_server.files("x/") == {
        f"x/{path}": data for path, data in contents(pusht_shards).items()
    }


def test_a_folder_holds_the_dataset(pusht_shards: Path, tmp_path: Path) -> None:
    send(pusht_shards, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(pusht_shards)
    assert ShardedDataset.open(str(tmp_path / "out")).manifest.total_episodes == 14
    assert send(pusht_shards, tmp_path / "out").files_sent == 0


@pytest.mark.parametrize("path", [FIRST_SHARD, "shards/shard-000003.json", "episodes.parquet"])
@pytest.mark.parametrize("damage", ["missing", "replaced", "other size"])
def test_only_what_is_missing_or_wrong_is_sent(
    pusht_shards: Path, tmp_path: Path, this_hub: LocalHub, bucket: str, path: str, damage: str
) -> None:
    copy = Path(shutil.copytree(pusht_shards, tmp_path / "there"))
    data = (copy / path).read_bytes()
    if damage == "missing":
        (copy / path).unlink()
    else:
        (copy / path).write_bytes(bytes(len(data)) if damage == "replaced" else data[:-1])
    this_hub.add_bucket_folder(bucket, copy)
    plan = make_plan(
        UploadConfig(source=str(pusht_shards), destination=f"hf://buckets/{bucket}", card=False)
    )
    assert [upload.path for upload in plan.uploads] == [path, "dataset.json"]
    assert plan.withdraw, "readers would find a dataset.json whose files are wrong"
    send(pusht_shards, f"hf://buckets/{bucket}")
    assert in_bucket(this_hub, bucket) == hashes(pusht_shards)


def test_files_of_others_are_left_alone_and_told_of(
    pusht_shards: Path, tmp_path: Path, this_hub: LocalHub, bucket: str
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/shard-000099.txt").write_text("mine")
    this_hub.add_bucket_folder(bucket, tmp_path)
    report = send(pusht_shards, f"hf://buckets/{bucket}", replace=True)
    assert report.unlisted == ("notes/shard-000099.txt",)
    assert "notes/shard-000099.txt" in in_bucket(this_hub, bucket)


# -- What is there already -------------------------------------------------------------------------


def test_another_dataset_is_refused_and_replaced_when_asked(
    pusht_shards: Path, other_shards: Path, this_hub: LocalHub, bucket: str
) -> None:
    url = f"hf://buckets/{bucket}"
    send(pusht_shards, url)
    with pytest.raises(
        OptionError, match=r"another version of this dataset of 14 episodes.*--replace"
    ):
        send(other_shards, url)
    assert in_bucket(this_hub, bucket) == hashes(pusht_shards)
    report = send(other_shards, url, replace=True)
    assert in_bucket(this_hub, bucket) == hashes(other_shards)
    assert len(report.removed) == 2 * (11 - len(list(other_shards.glob("shards/*.tar"))))


def test_shards_of_a_conversion_under_way_are_refused(
    pusht_shards: Path, other_shards: Path, tmp_path: Path, this_hub: LocalHub, bucket: str
) -> None:
    unfinished = Path(shutil.copytree(other_shards, tmp_path / "unfinished"))
    (unfinished / "dataset.json").unlink()
    this_hub.add_bucket_folder(bucket, unfinished)
    with pytest.raises(
        OptionError, match=r"shard-000000.tar of another conversion, which may be under way"
    ):
        send(pusht_shards, f"hf://buckets/{bucket}")
    assert in_bucket(this_hub, bucket) == hashes(unfinished)
    send(pusht_shards, f"hf://buckets/{bucket}", replace=True)
    assert in_bucket(this_hub, bucket) == hashes(pusht_shards)


def test_a_damaged_source_replaces_nothing(
    pusht_shards: Path, other_shards: Path, tmp_path: Path, this_hub: LocalHub, bucket: str
) -> None:
    send(other_shards, f"hf://buckets/{bucket}")
    broken = Path(shutil.copytree(pusht_shards, tmp_path / "broken"))
    data = bytearray((broken / FIRST_SHARD).read_bytes())
    data[600] ^= 1
    (broken / FIRST_SHARD).write_bytes(data)
    with pytest.raises(DamageError, match=f"{FIRST_SHARD}: damaged"):
        send(broken, f"hf://buckets/{bucket}", replace=True)
    assert in_bucket(this_hub, bucket) == hashes(other_shards)
    with pytest.raises(DamageError, match=f"{FIRST_SHARD}: damaged"):
        send(broken, tmp_path / "out")
    assert not (tmp_path / "out/dataset.json").exists()


@pytest.mark.parametrize(
    "change", ["no dataset.json", "no shard", "cut shard", "no index", "cut manifest"]
)
def test_sources_that_are_not_whole(pusht_shards: Path, tmp_path: Path, change: str) -> None:
    what, _, kind = change.partition(" ")
    name = {"dataset.json": kind, "shard": FIRST_SHARD, "index": "episodes.parquet"}.get(
        kind, "shards/shard-000000.json"
    )
    broken = Path(shutil.copytree(pusht_shards, tmp_path / "broken"))
    path = broken / name
    if what == "no":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises((DamageError, MissingError), match=re.escape(name)):
        send(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_destination_that_is_the_source(pusht_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is the source itself"):
        send(pusht_shards, f"file://{pusht_shards}/")
    with pytest.raises(OptionError, match="--private is for the Hub"):
        send(pusht_shards, tmp_path / "out", private=True)


# -- Faults ----------------------------------------------------------------------------------------


def test_partial_failures_and_a_server_that_is_unwell(
    pusht_shards: Path, this_hub: LocalHub, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.05)
    for route in ("/batch", "/paths-info"):
        this_hub.fault("status", route, code=503, after=1)
    this_hub.refuse_in_batch("shard-000004.tar", times=2)
    this_hub.refuse_in_batch("dataset.json", times=1)
    send(pusht_shards, f"hf://buckets/{bucket}")
    assert in_bucket(this_hub, bucket) == hashes(pusht_shards)
    assert this_hub.armed == []


def test_what_cannot_be_sent_leaves_no_dataset(
    pusht_shards: Path, this_hub: LocalHub, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.05)
    this_hub.refuse_in_batch("shard-000004.tar", times=1000)
    with pytest.raises(
        StorageError,
        match=f"hf://buckets/{bucket}/shards/shard-000004.tar: cannot be written, after",
    ):
        send(pusht_shards, f"hf://buckets/{bucket}")
    assert "dataset.json" not in in_bucket(this_hub, bucket)
    this_hub.reset()
    send(pusht_shards, f"hf://buckets/{bucket}")
    assert in_bucket(this_hub, bucket) == hashes(pusht_shards)


# -- The command -----------------------------------------------------------------------------------


def test_a_dry_run_prints_what_would_be_sent_and_changes_nothing(
    pusht_shards: Path, local_hub: LocalHub, bucket: str
) -> None:
    environment = local_hub.environment
    url = f"hf://buckets/{bucket}"
    output = finish(
        start("upload-shards", pusht_shards, url, "--dry-run", "--no-card", **environment)
    )
    assert f"24 files, 7{output.partition('24 files, 7')[2]}" in output
    assert f"would be sent to {url}; 0 are there already; nothing was changed (--dry-run)" in output
    assert {request.method for request in local_hub.requests} == {"GET"}


def test_the_command_says_what_it_did_or_what_to_do(
    pusht_shards: Path, local_hub: LocalHub, bucket: str
) -> None:
    url = f"hf://buckets/{bucket}"
    wrong = start(
        "upload-shards",
        pusht_shards,
        url,
        "--no-card",
        **local_hub.environment | {"HF_TOKEN": "hf_no"},
    )
    output, errors = wrong.communicate(timeout=60)
    assert (wrong.returncode, output) == (1, "")
    assert re.match(f"error: {url}: .*hf auth login", errors)
    assert "hf_no" not in errors
    done = finish(
        start(
            "roboshard",
            "upload",
            pusht_shards,
            url,
            "--no-card",
            "--private",
            **local_hub.environment,
        )
    )
    assert re.match(rf"24 files, \d+\.\d kB, sent → {url}\n", done)
    assert json.loads(local_hub.read_bucket(bucket, "dataset.json"))["total_episodes"] == 14
    assert in_bucket(local_hub, bucket) == hashes(pusht_shards)

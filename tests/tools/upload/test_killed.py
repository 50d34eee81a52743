"""SIGKILL at many moments: the same command ends right, and no reader ever sees a dataset.json that
is not true.
"""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

import pytest
from support.publishing import Watcher, batches, finish, hashes, in_bucket, kill_when, start
from support.servers import LocalHub, S3Server

from roboshard.converter import ConvertConfig, convert
from roboshard.tools.upload import UploadConfig, upload

pytest_plugins = ["support.servers.fixtures"]


@pytest.fixture(scope="module")
def other_shards(pusht_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("other") / "shards"
    convert(
        ConvertConfig(
            source=str(pusht_source), destination=str(root), shard_size="64KB", episodes="3:14"
        )
    )
    return root


def known(*roots: Path) -> dict[str, dict[str, str]]:
    return {hashes(root)["dataset.json"]: hashes(root) for root in roots}


def kill_and_run_again(
    hub: LocalHub, bucket: str, old: Path, new: Path, moments: list[int], seed: int
) -> None:
    """Replace `old` by `new`, killed around the given requests that write; then once more to the
    end.
    """
    dice = random.Random(seed)
    command = (
        "upload-shards",
        new,
        f"hf://buckets/{bucket}",
        "--replace",
        "--no-card",
        "--jobs",
        "2",
    )
    hub.configure(latency_s=0.03)  # a reply comes after what it answers has been done
    watcher = Watcher(hub, bucket, known(old, new))
    with watcher.watching():
        for moment in moments:
            hub.add_bucket(bucket)
            before = batches(hub)
            process = start(*command, **hub.environment)
            kill_when(process, lambda target=before + moment: batches(hub) >= target)  # type: ignore[misc]
            time.sleep(dice.random() * 0.05)
        finish(start(*command, **hub.environment))
    watcher.look()
    assert watcher.complete >= 1
    assert in_bucket(hub, bucket) == hashes(new)


def test_a_replacement_that_is_killed_is_continued(
    pusht_shards: Path, other_shards: Path, local_hub: LocalHub
) -> None:
    bucket = "me/killed"
    local_hub.add_bucket_folder(bucket, pusht_shards)
    kill_and_run_again(local_hub, bucket, pusht_shards, other_shards, [1, 2, 3], seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_at_many_moments(
    pusht_shards: Path, other_shards: Path, local_hub: LocalHub, seed: int
) -> None:
    bucket = f"me/killed-{seed}"
    local_hub.add_bucket_folder(bucket, pusht_shards)
    moments = random.Random(seed).choices(range(9), k=8)
    kill_and_run_again(local_hub, bucket, pusht_shards, other_shards, moments, seed)


@pytest.mark.slow
def test_each_moment_once(pusht_shards: Path, other_shards: Path, local_hub: LocalHub) -> None:
    """From a fresh start each time, so that the last steps are met as well as the first."""
    for moment in range(10):
        bucket = f"me/moment-{moment}"
        local_hub.add_bucket_folder(bucket, pusht_shards)
        kill_and_run_again(local_hub, bucket, pusht_shards, other_shards, [moment], seed=moment)


def test_a_repository_whose_upload_is_killed(pusht_shards: Path, local_hub: LocalHub) -> None:
    repository = f"me/killed-{hashlib.sha1(b'repository').hexdigest()[:6]}"
    command = ("upload-shards", pusht_shards, f"hf://datasets/{repository}", "--no-card")
    local_hub.configure(latency_s=0.5)  # the commit is seen here before its reply is there
    process = start(*command, **local_hub.environment)
    assert kill_when(
        process, lambda: any("/commit/" in request.path for request in local_hub.requests)
    )
    local_hub.configure(latency_s=0)
    finish(start(*command, **local_hub.environment))
    there = {path: entry["size"] for path, entry in local_hub.dataset_files(repository).items()}
    assert there == {path: (pusht_shards / path).stat().st_size for path in hashes(pusht_shards)}


@pytest.mark.slow
def test_s3_whose_upload_is_killed(
    pusht_shards: Path, other_shards: Path, s3_server: S3Server
) -> None:
    upload(UploadConfig(source=str(pusht_shards), destination="s3://shards/x", card=False))
    command = ("upload-shards", other_shards, "s3://shards/x", "--no-card", "--replace")
    datasets = known(pusht_shards, other_shards)
    for moment in range(8):
        process = start(*command, **s3_server.environment)
        deadline = time.monotonic() + 2.0 + moment * 0.3
        kill_when(process, lambda end=deadline: time.monotonic() > end)  # type: ignore[misc]
        there = {
            key[2:]: hashlib.sha256(data).hexdigest() for key, data in s3_server.files("x/").items()
        }
        if "dataset.json" in there:
            assert datasets[there["dataset.json"]].items() <= there.items()
    finish(start(*command, **s3_server.environment))
    there = {
        key[2:]: hashlib.sha256(data).hexdigest() for key, data in s3_server.files("x/").items()
    }
    assert there == hashes(other_shards)

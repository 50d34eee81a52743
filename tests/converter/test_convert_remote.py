"""Converting to object storage: the same bytes as here, few of them here at once, and continued
after a kill.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
from support.publishing import Watcher, batches, finish, hashes, in_bucket, kill_when, start
from support.servers import LocalHub, S3Server

from roboshard.converter import ConversionReport, ConvertConfig, convert
from roboshard.shards import OptionError

pytest_plugins = ["support.servers.fixtures"]


@pytest.fixture
def bucket(this_hub: LocalHub, request: pytest.FixtureRequest) -> str:
    return f"me/{hashlib.sha1(request.node.nodeid.encode()).hexdigest()}"


def convert_to(source: Path, destination: str, scratch: Path, **options: str) -> ConversionReport:
    return convert(
        ConvertConfig(
            source=str(source),
            destination=destination,
            scratch=str(scratch),
            **({"shard_size": "64KB", "workers": 1} | options),  # type: ignore[arg-type]
        )
    )


def test_a_bucket_gets_the_bytes_that_a_folder_gets(
    pusht_source: Path, pusht_shards: Path, this_hub: LocalHub, bucket: str, tmp_path: Path
) -> None:
    url = f"hf://buckets/{bucket}/deep"
    report = convert_to(pusht_source, url, tmp_path / "scratch")
    expected = {f"deep/{path}": sha256 for path, sha256 in hashes(pusht_shards).items()}
    assert in_bucket(this_hub, bucket) == expected
    assert (report.destination, report.episodes, report.shards, report.reused_shards) == (
        url,
        14,
        11,
        0,
    )
    assert list((tmp_path / "scratch").iterdir()) == []
    again = convert_to(pusht_source, url, tmp_path / "scratch")
    assert (again.reused_shards, in_bucket(this_hub, bucket)) == (11, expected)


@pytest.mark.parametrize("kind", ["dataset", "s3"])
def test_other_places_get_them_too(
    pusht_source: Path,
    pusht_shards: Path,
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    if kind == "s3":
        s3: S3Server = request.getfixturevalue("s3_server")
        for place in (str(tmp_path / "here"), "s3://shards/x"):
            convert_to(pusht_source, place, tmp_path / "scratch", shard_size="300KB")
        there = {key[2:]: hashlib.sha256(data).hexdigest() for key, data in s3.files("x/").items()}
        assert there == hashes(tmp_path / "here")
        return
    hub: LocalHub = request.getfixturevalue("this_hub")
    convert_to(pusht_source, "hf://datasets/me/converted@v1", tmp_path / "scratch")
    assert set(hub.dataset_files("me/converted", "v1")) == set(hashes(pusht_shards))
    for path, sha256 in hashes(pusht_shards).items():
        assert hashlib.sha256(hub.read_dataset("me/converted", path, "v1")).hexdigest() == sha256


@pytest.mark.parametrize(
    ("workers", "moments"),
    [(1, (7,)), pytest.param(2, (4, 6, 3, 4), marks=pytest.mark.slow)],
    ids=str,
)
def test_a_killed_conversion_goes_on_from_what_is_there_and_few_shards_are_here(
    pusht_source: Path,
    pusht_shards: Path,
    this_hub: LocalHub,
    bucket: str,
    tmp_path: Path,
    workers: int,
    moments: tuple[int, ...],
) -> None:
    url = f"hf://buckets/{bucket}"
    command = (
        "convert-to-shards",
        pusht_source,
        url,
        "--shard-size",
        "64KB",
        "--workers",
        str(workers),
    )
    flags = ("--scratch", tmp_path / "scratch")
    this_hub.configure(latency_s=0.02)
    this_hub.add_bucket(bucket)
    watcher = Watcher(
        this_hub, bucket, {hashes(pusht_shards)["dataset.json"]: hashes(pusht_shards)}
    )
    most, ended = [0], threading.Event()

    pattern = str(tmp_path / "scratch/*/shards/shard-*.tar")

    def sample() -> None:
        while not ended.wait(0.01):  # by what bears folders that vanish meanwhile
            most[0] = max(most[0], len(glob.glob(pattern)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        with watcher.watching():
            for moment in moments:
                process = start(*command, *flags, **this_hub.environment)
                target = batches(this_hub) + moment
                assert kill_when(process, lambda target=target: batches(this_hub) >= target)  # type: ignore[misc]
            assert list((tmp_path / "scratch").iterdir()) != [], "a killed run leaves its folder"
            output = finish(start(*command, *flags, **this_hub.environment))
    finally:
        ended.set()
        sampler.join()
    assert " of them from an earlier run" in output
    assert in_bucket(this_hub, bucket) == hashes(pusht_shards)
    assert list((tmp_path / "scratch").iterdir()) == [], "the next run removes it"
    assert 1 <= most[0] <= workers + 1


def test_shards_that_were_replaced_behind_our_back_are_made_again(
    pusht_source: Path, pusht_shards: Path, this_hub: LocalHub, bucket: str, tmp_path: Path
) -> None:
    """One with a receipt, one without: the one is known by the listing, the other is read back."""
    url = f"hf://buckets/{bucket}"
    convert_to(pusht_source, url, tmp_path / "scratch")
    names = [f"shards/shard-{number:06d}.tar" for number in (2, 5)]
    for name in names:
        (tmp_path / "wrong" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "wrong" / name).write_bytes(bytes((pusht_shards / name).stat().st_size))
    right = this_hub.bucket_files(bucket)[names[0]]
    receipt = tmp_path / "wrong/.roboshard/shard-000002.json"
    receipt.parent.mkdir()
    conversion = json.loads((pusht_shards / "dataset.json").read_bytes())["conversion"]["id"]
    stated = {"conversion": conversion, "size": right["size"], "sha256": right["sha256"]}
    receipt.write_text(json.dumps(stated | {"hash": f"xet:{right['xet_hash']}"}))
    this_hub.add_bucket_folder(bucket, tmp_path / "wrong")
    report = convert_to(pusht_source, url, tmp_path / "scratch")
    assert report.reused_shards == 9
    assert in_bucket(this_hub, bucket) == hashes(pusht_shards)


def test_a_place_that_holds_something_else_is_refused(
    pusht_source: Path, pusht_shards: Path, this_hub: LocalHub, bucket: str, tmp_path: Path
) -> None:
    this_hub.add_bucket_folder(bucket, pusht_shards)
    with pytest.raises(OptionError, match="holds another dataset"):
        convert_to(pusht_source, f"hf://buckets/{bucket}", tmp_path, shard_size="65KB")
    without = tmp_path / "without/shards"
    without.mkdir(parents=True)
    name = "shard-000000.tar"
    os.link(pusht_shards / "shards" / name, without / name)
    this_hub.add_bucket_folder(f"{bucket}0", without.parent)
    with pytest.raises(OptionError, match=f"holds shards of another conversion.*{name}"):
        convert_to(pusht_source, f"hf://buckets/{bucket}0", tmp_path)
    os.link(without / name, without / "shard-000077.tar")
    (without / name).unlink()
    this_hub.add_bucket_folder(f"{bucket}1", without.parent)
    with pytest.raises(OptionError, match=r"holds shards of another conversion.*shard-000077.tar"):
        convert_to(pusht_source, f"hf://buckets/{bucket}1", tmp_path)
    assert in_bucket(this_hub, bucket) == hashes(pusht_shards)


def test_an_error_leaves_no_folder_behind(
    pusht_source: Path, this_hub: LocalHub, bucket: str, tmp_path: Path
) -> None:
    this_hub.fault("status", "/batch", code=403)
    with pytest.raises(OSError, match=r"hf auth login"):
        convert_to(pusht_source, f"hf://buckets/{bucket}", tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []

"""The disk cache under remote loading: nothing is read twice, ranks share it, and it never changes
a batch.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pytest
from crc32c import crc32c
from support.remote_loading import digests, load_epochs, small_loader
from support.servers import LocalHub, RangeServer

from roboshard import storage
from roboshard.shards import (
    DamageError,
    OptionError,
    ReadSettings,
    RoboshardError,
    ShardedDataset,
    fetch,
)
from roboshard.shards.documents import FileEntry
from roboshard.shards.fetch import ShardReads, ignore
from roboshard.shards.ranges import ByteRange
from roboshard.shards.reader import EpisodeData
from roboshard.shards.sample import Piece
from roboshard.shards.shard_list import ShardEntry
from roboshard.storage.cache import MIN_BYTES, DiskCache, files
from roboshard.storage.cache import folder as cache_folder

pytest_plugins = ["support.servers.fixtures"]

RANKS = 4


@pytest.fixture
def http(range_server: RangeServer, arm_shards: Path) -> RangeServer:
    range_server.serve(arm_shards)
    return range_server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def data_bytes(server: RangeServer) -> int:
    """Sent of shards."""
    return sum(request.bytes_sent for request in server.requests if request.path.endswith(".tar"))


def needed_bytes(root: Path) -> int:
    """Of all episodes of a dataset."""
    return int(ShardedDataset.open(str(root)).index.size.sum())


def used_bytes(folder: Path) -> int:
    """Of all files below a folder, each counted once though it may be renamed meanwhile."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(path, name))
            except FileNotFoundError:
                continue
            found[status.st_ino] = status.st_size
    return sum(found.values())


def entries(folder: Path) -> list[Path]:
    """The large files of a cache."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_the_second_epoch_reads_nothing(http: RangeServer, arm_shards: Path, cache: Path) -> None:
    here, there = small_loader(str(arm_shards)), small_loader(http.url, cache_dir=cache)
    assert digests(there) == digests(here)
    first, sent = there.stats(), len(http.requests)
    assert first.reads > 0
    assert first.bytes_read == first.network_bytes_read == data_bytes(http)
    assert digests(there) == digests(here)
    second = there.stats()
    assert (second.reads, second.bytes_read) == (first.reads, first.bytes_read)
    assert second.cache_hits >= first.cache_hits + 20
    assert second.cached_bytes_read >= needed_bytes(arm_shards)
    assert len(http.requests) == sent


def test_another_process_reads_only_manifests_and_another_place_its_own_bytes(
    http: RangeServer, this_hub: LocalHub, arm_shards: Path, cache: Path
) -> None:
    expected = digests(small_loader(http.url, cache_dir=cache))
    this_hub.add_bucket("me/cached", private=True)
    this_hub.add_bucket_folder("me/cached", arm_shards)
    for root, server, is_known in (
        (http.url, http, True),
        ("hf://buckets/me/cached", this_hub, False),
        ("hf://buckets/me/cached", this_hub, True),
    ):
        server.reset()
        assert digests(small_loader(root, cache_dir=cache)) == expected
        shards = [request for request in server.requests if request.path.endswith(".tar")]
        assert bool(shards) is not is_known


def test_a_url_that_is_signed_anew_or_has_another_password_is_the_same_place() -> None:
    plain = "https://host/data/shards/shard-000000.tar"
    for same in (
        "HTTPS://me:secret@HOST:443/data/shards/shard-000000.tar",
        f"{plain}?X-Amz-Signature=12&X-Amz-Date=34",
        f"{plain}?sv=1&se=2&sig=3#part",
        f"{plain}?Policy=1&Signature=2&Key-Pair-Id=3&Expires=4",
    ):
        assert storage.identity(same) == plain
    others = {
        storage.identity(other)
        for other in (
            plain,
            f"{plain}?versionId=1",
            f"{plain}?versionId=2&X-Amz-Signature=12",
            plain.replace("https", "http"),
            plain.replace("host", "host:8443"),
            plain.replace("data", "Data"),
            "s3://Bucket/shards/shard-000000.tar",
            "s3://bucket/shards/shard-000000.tar",
            "hf://buckets/me/data/shards/shard-000000.tar",
            "hf://datasets/me/data/shards/shard-000000.tar",
            f"hf://datasets/me/data@{'1' * 40}/shards/shard-000000.tar",
        )
    }
    assert len(others) == 11


@pytest.mark.parametrize("first", ["mine", "hostile"])
def test_a_dataset_that_claims_the_hashes_of_another_neither_gets_nor_places_its_bytes(
    range_server: RangeServer, tmp_path: Path, first: str
) -> None:
    """Both manifests say the same of their shard, down to the last byte; only what lies there
    differs.
    """
    content = {"mine": b"private" * 3000, "hostile": b"forged!" * 3000}
    for name, data in content.items():
        (tmp_path / name / "shards").mkdir(parents=True)
        (tmp_path / name / "shards/shard-000000.tar").write_bytes(data)
    range_server.serve(tmp_path)
    digest = hashlib.sha256(content["mine"]).hexdigest()
    size = len(content["mine"])
    settings = ReadSettings(cache=DiskCache(tmp_path / "cache", 1 << 20))

    def read(root: str, claimed: bytes) -> bytes:
        shard = ShardEntry(
            name="shards/shard-000000.tar",
            size=size,
            sha256=digest,
            episodes=1,
            frames=1,
            manifest=FileEntry(name="shards/shard-000000.json", size=1, sha256=digest),
        )
        piece = Piece(range=ByteRange(0, size), crc32c=f"{crc32c(claimed):08x}", members=())
        reads = ShardReads(f"{range_server.url}/{root}", shard, [piece], settings, ignore)
        return bytes(reads.get(piece, root))

    if first == "mine":
        assert read("mine", content["mine"]) == content["mine"]
    else:
        assert read("hostile", content["hostile"]) == content["hostile"]
    with pytest.raises(DamageError, match="hostile: damaged"):
        read("hostile", content["mine"])
    assert read("mine", content["mine"]) == content["mine"]
    with pytest.raises(DamageError, match="mine: damaged"):
        read("mine", content["hostile"])  # nor does a hit pass a checksum by


@pytest.mark.parametrize(
    "cameras",
    [
        [],
        pytest.param(["observation.images.top"], marks=pytest.mark.slow),
        pytest.param(None, marks=pytest.mark.slow),
    ],
    ids=["none", "top", "all"],
)
def test_members_and_whole_episodes_are_kept_apart_and_both_are_right(
    http: RangeServer, arm_shards: Path, cache: Path, cameras: list[str] | None
) -> None:
    for chosen in (cameras, None, ["observation.images.wrist"], cameras):
        for episode_order in ("global", "shard"):
            options = {"cameras": chosen, "episode_order": episode_order}
            assert digests(small_loader(http.url, cache_dir=cache, **options)) == digests(
                small_loader(str(arm_shards), **options)
            )
    http.reset()
    digests(small_loader(http.url, cache_dir=cache, cameras=cameras))
    assert data_bytes(http) == 0


def test_what_one_read_brought_is_there_for_all_when_the_first_of_it_is(
    http: RangeServer, arm_shards: Path, cache: Path
) -> None:
    dataset = ShardedDataset.open(http.url, ReadSettings(cache=DiskCache(cache, 1 << 30)))
    positions = np.flatnonzero(dataset.index.shard == 1).tolist()
    assert len(positions) > 1
    next(dataset.read_episodes(positions))
    sent = data_bytes(http)
    assert sent >= int(dataset.index.size[positions].sum())
    others = dataset.read_episodes(positions)  # planned as another process would, now
    here = ShardedDataset.open(str(arm_shards))
    for position, other in zip(positions, others, strict=True):
        assert isinstance(other, EpisodeData)
        assert other.videos == here.read_episode(position).videos
    assert data_bytes(http) == sent


@pytest.mark.parametrize("max_claims", [0, 1, 8])
def test_readers_at_the_same_time_bring_each_byte_once(
    http: RangeServer,
    arm_shards: Path,
    cache: Path,
    max_claims: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch, "MAX_CLAIMS", max_claims)
    http.latency_s = 0.02
    here, positions = ShardedDataset.open(str(arm_shards)), list(range(20))
    settings = ReadSettings(cache=DiskCache(cache, 1 << 30))

    def read(first: int) -> list[bytes]:
        dataset = ShardedDataset.open(http.url, settings)
        turn = positions[first:] + positions[:first]
        return [bytes(found.rows) for found in dataset.read_episodes(turn) if known(found)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(read, (0, 1, 2, 3)))
    rows = [bytes(here.read_episode(position).rows) for position in positions]
    assert found == [rows[first:] + rows[:first] for first in (0, 1, 2, 3)]
    assert data_bytes(http) == needed_bytes(arm_shards)


@pytest.mark.parametrize("there", [(4,), (3, 5), (0, 2, 4, 6, 8)])
def test_a_read_does_not_pass_over_what_is_there_already(
    http: RangeServer, arm_shards: Path, cache: Path, there: tuple[int, ...]
) -> None:
    settings = ReadSettings(cache=DiskCache(cache, 1 << 30))
    for position in there:
        ShardedDataset.open(http.url, settings).read_episode(position)
    dataset = ShardedDataset.open(http.url, settings)
    found = list(dataset.read_episodes(range(20)))
    assert all(known(each) for each in found)
    assert data_bytes(http) == needed_bytes(arm_shards)


def known(found: EpisodeData | RoboshardError) -> TypeGuard[EpisodeData]:
    """Whether an episode could be read."""
    return isinstance(found, EpisodeData)


def test_damaged_files_of_the_cache_are_fetched_again(
    http: RangeServer, arm_shards: Path, cache: Path
) -> None:
    loader, expected = (
        small_loader(http.url, cache_dir=cache),
        digests(small_loader(str(arm_shards))),
    )
    assert digests(loader) == expected
    for number, path in enumerate(sorted(entries(cache))):
        data = bytearray(path.read_bytes())
        if number % 3 == 0:
            data[len(data) // 2] ^= 1
        path.write_bytes(data if number % 3 < 2 else data[:-700])
    http.reset()
    loader.set_epoch(0)
    assert digests(loader) == expected
    assert 0 < data_bytes(http) <= needed_bytes(arm_shards)
    http.reset()
    loader.set_epoch(0)
    assert digests(loader) == expected
    assert not http.requests


def test_a_neighbour_that_came_damaged_is_kept_once_it_has_come_right(
    http: RangeServer, arm_shards: Path, cache: Path
) -> None:
    settings = ReadSettings(cache=DiskCache(cache, 1 << 30))
    dataset = ShardedDataset.open(http.url, settings)
    first, second = np.flatnonzero(dataset.index.shard == 0)[:2].tolist()
    http.fault("wrong_bytes", r"\.tar", 1, at=int(dataset.index.size[first]) + 100)
    read = list(dataset.read_episodes([first, second]))
    assert all(isinstance(episode, EpisodeData) and episode.stored for episode in read)
    assert not http.armed
    http.reset()
    assert len(list(dataset.read_episodes([first, second]))) == 2
    assert data_bytes(http) == 0


def test_wrong_bytes_are_never_kept(http: RangeServer, arm_shards: Path, cache: Path) -> None:
    http.fault("wrong_bytes", r"\.tar", 1)
    expected = digests(small_loader(str(arm_shards)))
    assert digests(small_loader(http.url, cache_dir=cache)) == expected
    http.reset()
    assert digests(small_loader(http.url, cache_dir=cache)) == expected
    assert data_bytes(http) == 0
    other = cache.with_name("other")
    http.fault("wrong_bytes", r"\.tar", None)
    with pytest.raises(DamageError):
        digests(small_loader(http.url, cache_dir=other, retry_seconds=1))
    http.reset()
    assert digests(small_loader(http.url, cache_dir=other)) == expected


def test_two_datasets_share_one_folder(
    range_server: RangeServer, arm_shards: Path, pusht_shards: Path, cache: Path, tmp_path: Path
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    for name, root in (("arm", arm_shards), ("pusht", pusht_shards)):
        for path in root.rglob("*"):
            if path.is_file():
                copy = served / name / path.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, copy)
    range_server.serve(served)
    options: dict[str, Any] = {"delta_timestamps": None, "batch_size": 32, "cameras": []}
    for _ in range(2):
        range_server.reset()
        for name, root in (("arm", arm_shards), ("pusht", pusht_shards)):
            found = digests(small_loader(f"{range_server.url}/{name}", cache_dir=cache, **options))
            assert found == digests(small_loader(str(root), **options))
    assert data_bytes(range_server) == 0


def test_a_folder_with_other_files_is_refused_by_make_loader_and_left_alone(
    http: RangeServer, cache: Path
) -> None:
    cache.mkdir()
    (cache / "thesis.tex").write_text("do not lose me")
    with pytest.raises(OptionError, match=f"{cache}"):
        small_loader(http.url, cache_dir=cache)
    assert [path.name for path in cache.iterdir()] == ["thesis.tex"]
    with pytest.raises(OptionError, match=f"give {MIN_BYTES} at least"):
        small_loader(http.url, cache_dir=cache, cache_bytes=1000)
    assert not http.requests


def test_local_datasets_are_not_copied_into_it(arm_shards: Path, cache: Path) -> None:
    loader = small_loader(str(arm_shards), cache_dir=cache)
    for _ in range(2):
        digests(loader)
    assert not entries(cache)
    assert loader.stats().cache_hits == 0


@pytest.mark.slow
def test_a_cap_smaller_than_the_dataset_is_held_and_changes_no_batch(
    http: RangeServer, arm_shards: Path, cache: Path
) -> None:
    cap = needed_bytes(arm_shards) // 3
    loader, here = (
        small_loader(http.url, cache_dir=cache, cache_bytes=cap),
        small_loader(str(arm_shards)),
    )
    for _ in range(
        8
    ):  # what is left of an epoch depends on the threads that read: the next may not begin with it
        for batch, right in zip(loader, here, strict=True):
            assert digests([batch]) == digests([right])
            with (
                files.opened_home(cache) as home,
                cache_folder.opened_account(home),
            ):  # or what has gone is counted with
                assert used_bytes(cache) <= cap  # what has come since
    assert loader.stats().cache_hits > 0


# -- Four ranks ------------------------------------------------------------------------------------


def run_ranks(
    url: str, epochs: int, folder: Path, options: Sequence[dict[str, Any]], cache: Path, cap: int
) -> Any:
    """The digests of each rank and epoch; the cap is looked after meanwhile."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(len(options))
    paths = [folder / f"rank{rank}" for rank in range(len(options))]
    ranks = [
        context.Process(target=load_epochs, args=(path, url, epochs, start, given))
        for path, given in zip(paths, options, strict=True)
    ]
    for rank in ranks:
        rank.start()
    largest = 0
    until = time.monotonic() + 120
    while any(rank.is_alive() for rank in ranks) and time.monotonic() < until:
        largest = max(largest, used_bytes(cache))
        time.sleep(0.01)
    for rank in ranks:
        rank.kill()  # of those that still run
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * len(ranks)
    assert 0 < largest <= cap
    return [json.loads(path.read_text()) for path in paths]


def of_rank(rank: int) -> dict[str, Any]:
    return {"rank": rank, "world_size": RANKS, "batch_size": 4, "pool_episodes": 2}


@pytest.fixture(scope="module")
def expected(arm_shards: Path) -> list[list[list[str]]]:
    """The digests of each rank and epoch, read from disk."""
    loaders = [small_loader(str(arm_shards), **of_rank(rank)) for rank in range(RANKS)]
    return [[digests(loader) for _ in range(3)] for loader in loaders]


@pytest.mark.slow
@pytest.mark.parametrize("large", [True, False], ids=["a cap over the dataset", "a cap below it"])
def test_four_ranks_share_one_folder(
    http: RangeServer, arm_shards: Path, cache: Path, tmp_path: Path, expected: Any, large: bool
) -> None:
    needed = needed_bytes(arm_shards)
    cap = 2 * needed if large else needed // 2
    http.configure(latency_s=0.01)
    options = [of_rank(rank) | {"cache_dir": cache, "cache_bytes": cap} for rank in range(RANKS)]
    assert run_ranks(http.url, 3, tmp_path, options, cache, cap) == expected
    manifests = sum(path.stat().st_size for path in arm_shards.rglob("*") if path.suffix != ".tar")
    if large:
        assert needed <= data_bytes(http) <= 1.15 * needed
        assert http.bytes_sent <= 1.15 * needed + RANKS * manifests


@pytest.mark.slow
def test_four_processes_that_want_the_same_at_once_fetch_it_about_once(
    http: RangeServer, arm_shards: Path, cache: Path, tmp_path: Path
) -> None:
    cap = 2 * needed_bytes(arm_shards)
    http.configure(latency_s=0.02)
    options = [{"cache_dir": cache, "cache_bytes": cap, "num_workers": 0} for _ in range(RANKS)]
    here = digests(small_loader(str(arm_shards)))
    assert [found[0] for found in run_ranks(http.url, 1, tmp_path, options, cache, cap)] == [
        here
    ] * RANKS
    assert data_bytes(http) <= 1.15 * needed_bytes(arm_shards)


@pytest.mark.slow
def test_workers_share_one_folder(http: RangeServer, arm_shards: Path, cache: Path) -> None:
    options: dict[str, Any] = {"num_workers": 2, "cache_dir": cache}
    loader, again = small_loader(http.url, **options), small_loader(http.url, **options)
    here = small_loader(str(arm_shards))
    assert digests(loader) == digests(here)
    assert data_bytes(http) <= 1.15 * needed_bytes(arm_shards)
    sent = data_bytes(http)
    assert digests(loader) == digests(here)
    assert digests(again) == digests(small_loader(str(arm_shards)))
    assert data_bytes(http) == sent
    assert again.stats().cache_hits > 0

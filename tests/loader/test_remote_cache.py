"""The disk cache under remote loading: nothing is read twice, ranks share it, and it never changes a batch."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.remote_loading import digests, load_epochs, small_loader
from support.servers import LocalHub, RangeServer

from roboshard.shards import DamageError, OptionError, ReadSettings, ShardedDataset
from roboshard.shards import cache_files as files
from roboshard.shards.cache import MIN_BYTES, DiskCache
from roboshard.shards.reader import EpisodeData

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
    assert first.bytes_read == data_bytes(http)
    assert digests(there) == digests(here)
    second = there.stats()
    assert (second.reads, second.bytes_read) == (first.reads, first.bytes_read)
    assert second.cache_hits >= first.cache_hits + 20
    assert second.cached_bytes_read >= needed_bytes(arm_shards)
    assert len(http.requests) == sent


def test_another_process_and_another_way_to_the_same_shards_read_only_manifests(
    http: RangeServer, this_hub: LocalHub, arm_shards: Path, cache: Path
) -> None:
    expected = digests(small_loader(http.url, cache_dir=cache))
    http.reset()
    this_hub.add_bucket("me/cached", private=True)
    this_hub.add_bucket_folder("me/cached", arm_shards)
    for root, server in ((http.url, http), ("hf://buckets/me/cached", this_hub)):
        assert digests(small_loader(root, cache_dir=cache)) == expected
        assert not [request for request in server.requests if request.path.endswith(".tar")]


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
                files.opened_account(home),
            ):  # or what has gone is counted with
                assert used_bytes(cache) <= cap  # what has come since
    assert loader.stats().cache_hits > 0


# -- Four ranks ---------------------------------------------------------------------------------------------------


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
    options: dict[str, Any] = {"num_workers": 2, "max_workers": 2}
    loader = small_loader(http.url, cache_dir=cache, **options)
    here = small_loader(str(arm_shards), max_workers=2)
    assert digests(loader) == digests(here)
    assert data_bytes(http) <= 1.15 * needed_bytes(arm_shards)
    sent = data_bytes(http)
    assert digests(loader) == digests(here)
    assert data_bytes(http) == sent
    assert loader.stats().cache_hits > 0

"""Memory has a budget, whatever the pool: what does not fit is read again where it lies, for the
same batches.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.batches import assert_same
from support.lerobot_source import Camera, Source, build
from support.remote_loading import digests, small_loader
from support.servers.range_server import RangeServer
from support.slowly import slowly

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import Loader, make_loader, resources
from roboshard.loader.decoding.open_decoders import KeptDecoders
from roboshard.loader.episodes import spill
from roboshard.loader.episodes.episode import EPISODE_BYTES
from roboshard.loader.episodes.resident import ResidentEpisodes
from roboshard.loader.episodes.spill import SpillStore
from roboshard.loader.episodes.video import SLICE_BYTES
from roboshard.loader.running.scratch import PREFIX, ScratchFolder
from roboshard.loader.stats import StatsCounter
from roboshard.shards import ShardedDataset, StorageError
from roboshard.storage.stored import OpenFiles, StoredRange

pytest_plugins = ["support.servers.fixtures"]

TOP = "observation.images.top"
TINY = 1 << 17
LENGTHS = (40, 31, 52, 45, 38, 60, 33, 41)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes whose keyframes are far apart, so that decoders stay open in a sweep."""
    folder = tmp_path_factory.mktemp("memory")
    cameras = (Camera(key=TOP, gop=30, size=(32, 48)),)
    build(folder / "source", Source(lengths=LENGTHS, cameras=cameras))
    convert(
        ConvertConfig(source=str(folder / "source"), destination=str(folder / "shards"), workers=1)
    )
    return folder / "shards"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def load(root: Path | str, **options: Any) -> Loader:
    return make_loader(str(root), **({"batch_size": 8, "seed": 3} | options))


# -- The budget ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* frames are decoded for every frame used")
@pytest.mark.parametrize("num_workers", [0, slowly(2)])
@pytest.mark.parametrize("frame_order", ["uniform", "sweep"])
def test_a_tiny_budget_gives_the_same_batches(
    shards: Path, frame_order: str, num_workers: int
) -> None:
    options: dict[str, Any] = {"frame_order": frame_order, "batch_size": 4}
    loader = load(shards, memory_bytes=TINY, num_workers=num_workers, **options)
    most = 0
    for one, other in zip(loader, load(shards, **options), strict=True):
        assert_same([one], [other])
        most = max(most, loader.stats().resident_bytes)
    stats = loader.stats()
    loader.close()
    assert 0 < most <= TINY * max(1, num_workers)  # what a step needs stays in any case
    assert stats.episodes_evicted > 0
    assert 0 < stats.episodes_read_again < stats.episodes_read


def test_what_fits_is_read_once(shards: Path) -> None:
    loader = load(shards)
    list(loader)
    stats = loader.stats()
    assert stats.episodes_read == stats.episode_misses == len(LENGTHS)
    assert stats.episode_hits > len(LENGTHS)
    assert stats.bytes_read > stats.network_bytes_read == 0
    assert stats.episodes_evicted == stats.episodes_read_again == 0


def test_a_small_dataset_stays_in_memory_whatever_its_pools(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def played(times: int) -> tuple[list[Any], int]:
        loader = load(shards, pool_episodes=2, frame_order="sweep")
        batches = [batch for _ in range(times) for batch in loader]
        return batches, loader.stats().episodes_read

    batches, num_read = played(5)
    # The first epoch ends all that it began, for another one may not follow.
    assert num_read <= 2 * len(LENGTHS)
    monkeypatch.setattr(resources, "SMALL_DATASET_BYTES", 0)
    again, num_read_again = played(5)
    assert_same(again, batches)
    assert num_read_again > 4 * len(LENGTHS)


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    most=st.integers(1, 8),
    max_bytes=st.integers(1, 300),
    more_bytes=st.integers(0, 300),
    needed=st.integers(1, 4),
)
def test_more_than_the_pools_have_is_held_only_while_it_is_small(
    sizes: list[int], most: int, max_bytes: int, more_bytes: int, needed: int
) -> None:
    resident = ResidentEpisodes(most, max_bytes, more_bytes, StatsCounter())
    held: list[int] = []
    for position, size in enumerate(sizes):
        resident.add(position, Mock(held_bytes=size))
        resident.shrink(needed)
        kept = [place for place in range(position + 1) if place in resident._held]
        assert kept == list(range(position + 1 - len(kept), position + 1)), "those used last"
        num_bytes = sum(sizes[place] for place in kept)
        assert num_bytes <= max_bytes or len(kept) <= needed
        assert len(kept) <= max(most, needed) or num_bytes <= min(more_bytes, max_bytes)
        last = position - len(kept)
        if last in held:
            too_many = len(kept) + 1 > max(most, needed) and num_bytes + sizes[last] > more_bytes
            too_large = num_bytes + sizes[last] > max_bytes
            assert too_many or too_large, "nothing is dropped that there is room for"
        held = kept


def test_packets_are_counted_as_they_are_read_from_their_file(shards: Path) -> None:
    loaders = [load(shards, shuffle=False, cameras=cameras) for cameras in (None, [])]
    for loader in loaders:
        list(loader)
    all_of_them, none = (loader.stats() for loader in loaders)
    assert 0 < all_of_them.packet_bytes_read <= 2 * all_of_them.bytes_read
    assert none.packet_bytes_read == 0


def test_video_stays_in_its_file(shards: Path) -> None:
    loader = load(shards, pool_episodes=len(LENGTHS))
    most = max(loader.stats().resident_bytes for _ in loader)
    objects = len(LENGTHS) * (EPISODE_BYTES + SLICE_BYTES)
    rows, stored = sum(LENGTHS) * 200, ShardedDataset.open(str(shards)).index.size.sum()
    assert objects < most < objects + rows
    assert rows < stored / 2


def test_a_shard_that_is_replaced_while_it_is_loaded_is_an_error(
    shards: Path, tmp_path: Path
) -> None:
    root = tmp_path / "shards"
    shutil.copytree(shards, root)
    loader = load(root, batch_size=1, pool_episodes=len(LENGTHS))
    batches = iter(loader)
    for _ in range(sum(LENGTHS) // 2):  # all episodes have been read
        next(batches)
    (shard,) = (root / "shards").glob("*.tar")
    os.truncate(shard, 1000)
    with pytest.raises(StorageError, match=rf"(?s){shard.name}, episode .* camera .* was changed"):
        list(batches)


class Decoder:
    """Holds what it is told to."""

    def __init__(self, held_bytes: int) -> None:
        self.held_bytes = held_bytes

    def release(self) -> None:
        self.held_bytes = 0


def test_decoders_that_were_used_longest_ago_are_let_go_of() -> None:
    kept, decoders = KeptDecoders(30), [Decoder(10) for _ in range(5)]
    for decoder in (*decoders[:3], decoders[0]):
        kept.take(decoder)
        kept.give_back(decoder)
    in_use = decoders[1]
    kept.take(in_use)
    for decoder in decoders[3:]:
        kept.give_back(decoder)
    assert [decoder.held_bytes for decoder in decoders] == [10, 10, 0, 10, 10]
    assert kept.num_bytes == 30
    kept.give_back(in_use)
    assert [decoder.held_bytes for decoder in decoders] == [0, 10, 0, 10, 10]


def test_what_a_decoder_held_that_is_no_more_is_free_again() -> None:
    kept, left = KeptDecoders(20), Decoder(10)
    kept.give_back(Decoder(20))
    kept.give_back(left)
    kept.give_back(again := Decoder(10))
    assert (left.held_bytes, again.held_bytes, kept.num_bytes) == (10, 10, 20)


# -- Files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [(20_000, 1024), (1024, 256), (100, 64), (resource.RLIM_INFINITY, 1024)],
)
def test_a_share_of_the_files_that_a_process_may_have_stays_open(
    monkeypatch: pytest.MonkeyPatch, limit: int, allowed: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert OpenFiles()._most == allowed


def test_files_stay_open_up_to_a_number_and_are_known_again(tmp_path: Path) -> None:
    files = OpenFiles(most=2)
    stored = []
    for number in range(4):
        path = tmp_path / str(number)
        path.write_bytes(bytes([number]) * 10)
        stored.append(StoredRange(str(path), 2, 6))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for number, place in enumerate(stored):
            assert files.read(place, 1, 5) == bytes([number]) * 4
    assert len(os.listdir("/proc/self/fd")) == before + 2
    other = tmp_path / "other"
    other.write_bytes(bytes(10))
    other.replace(stored[0].path)
    with pytest.raises(OSError, match="another file is in its place"):
        files.read(stored[0], 0, 1)
    with pytest.raises(EOFError, match="ends at offset 10"):
        files.read(stored[3], 0, 12)
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before


# -- Remote shards ---------------------------------------------------------------------------------


def data_bytes(server: RangeServer) -> int:
    """Asked of shards."""
    total = 0
    for request in server.requests:
        if request.path.endswith(".tar") and request.range:
            first, last = request.range.removeprefix("bytes=").split("-")
            total += int(last) + 1 - int(first)
    return total


@pytest.fixture
def http(range_server: RangeServer, arm_shards: Path) -> RangeServer:
    range_server.serve(arm_shards)
    return range_server


@pytest.mark.parametrize("num_workers", [0, slowly(3)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_each_byte_comes_once_over_the_network_and_its_folder_goes_with_the_loader(
    http: RangeServer, arm_shards: Path, temporary: Path, num_workers: int
) -> None:
    options: dict[str, Any] = {"memory_bytes": TINY, "num_workers": num_workers}
    options |= {"pool_episodes": 64}
    loader = small_loader(http.url, **options)
    expected = small_loader(str(arm_shards), pool_episodes=64)
    needed = int(ShardedDataset.open(str(arm_shards)).index.size.sum())
    for _ in range(2):
        assert digests(loader) == digests(expected)
    assert needed <= data_bytes(http) <= 1.1 * needed
    stats = loader.stats()
    assert stats.episodes_read_again > 0
    assert stats.cached_bytes_read > 0
    assert len(list(temporary.glob(f"{PREFIX}*"))) == 1
    loader.close()
    del loader
    assert not list(temporary.glob(f"{PREFIX}*"))


@pytest.mark.parametrize("num_workers", [0, slowly(3)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_loader_that_is_dropped_in_mid_epoch_ends_its_reads_before_its_folder_goes(
    http: RangeServer, temporary: Path, num_workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    http.configure(latency_s=0.3, bytes_per_second=None)  # reads are under way when it goes
    before = set(threading.enumerate())
    loader = small_loader(http.url, num_workers=num_workers, pool_episodes=1)
    batches = iter(loader)
    next(batches)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del batches, loader
        left = {it.name for it in set(threading.enumerate()) - before if "roboshard" in it.name}
        time.sleep(0.5)  # for whatever still reads
    assert not told
    assert "of no use" not in capfd.readouterr().err, "what a worker warns of"
    assert not left
    assert not list(temporary.glob(f"{PREFIX}*"))


def test_what_a_cache_has_removed_is_fetched_again(
    http: RangeServer, arm_shards: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    loader = small_loader(http.url, cache_dir=cache, pool_episodes=64)
    found = []
    for batch in loader:
        found += digests([batch])
        for entry in (cache / "roboshard-cache").glob("???/*[0-9]"):  # not what is being written
            entry.unlink(missing_ok=True)
    assert found == digests(small_loader(str(arm_shards), pool_episodes=64))


def test_the_folder_of_a_process_that_was_killed_is_removed_by_the_next_one(
    temporary: Path,
) -> None:
    program = (
        "import os, signal, sys, tempfile; tempfile.tempdir = sys.argv[1];"
        "from roboshard.loader.running.scratch import ScratchFolder; kept = ScratchFolder();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(temporary)], check=False)
    (left,) = temporary.glob(f"{PREFIX}*")
    mine = ScratchFolder()
    other = ScratchFolder()
    assert not left.exists()
    assert len(list(temporary.glob(f"{PREFIX}*"))) == 2, "those in use stay"
    mine.close()
    other.close()
    assert not list(temporary.iterdir())


# -- Images of rows --------------------------------------------------------------------------------


def test_a_store_gives_back_what_it_was_given_and_uses_its_room_again() -> None:
    store, random = SpillStore(), np.random.default_rng(0)

    def files(number: int) -> list[bytes | None]:
        return [None if row % 7 == 3 else random.bytes(9000 + 100 * number) for row in range(20)]

    given = [files(number) for number in range(6)]
    kept = [store.keep(own) for own in given]
    length = store.num_bytes
    for _ in range(5):
        del given[1:4], kept[1:4]
        given += [files(number) for number in (3, 1, 2)]
        kept += [store.keep(own) for own in given[3:]]
        assert [list(own) for own in kept] == given
    assert length > 0
    assert store.num_bytes < 2 * length
    few: list[bytes | None] = [b"few", None]
    assert store.keep(few) is few


def test_images_of_rows_are_no_memory_of_a_pool(tmp_path: Path) -> None:
    still = "observation.images.still"
    source = Source(lengths=(20, 20, 20), image_keys=(still,), cameras=())
    build(tmp_path / "source", source)
    root = str(tmp_path / "shards")
    convert(ConvertConfig(source=str(tmp_path / "source"), destination=root, workers=1))
    with patch.object(spill, "SMALL_BYTES", 0):
        loader = load(root, pool_episodes=3)
        most = max(loader.stats().resident_bytes for _ in loader)
        spilled = list(load(root, memory_bytes=TINY))
    with patch.object(spill, "SMALL_BYTES", 1 << 40):
        held = load(root, pool_episodes=3)
        assert 2 * most < max(held.stats().resident_bytes for _ in held)
        assert_same(spilled, load(root))

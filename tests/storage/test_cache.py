"""The disk cache: right bytes or a download, under the cap, each thing downloaded once, whoever
dies whenever.
"""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st
from support import cache_worker as worker
from support.cache_worker import CONTENTS, NUM_OBJECTS, TOTAL, entry_path, get, key

from roboshard.common.errors import OptionError, StorageError
from roboshard.storage.cache import MIN_BYTES, CacheKey, DiskCache, object_of
from roboshard.storage.cache import files as cache_files
from roboshard.storage.cache import folder as cache_folder
from roboshard.storage.cache.process import this_process
from roboshard.storage.locks import lock_within

SPAWN = multiprocessing.get_context("spawn")
LENGTH = 20_000
OFFSETS = st.integers(0, 10**18)


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 2 * TOTAL)


def never() -> NoReturn:
    raise AssertionError("downloaded again")


def fetched(number: int, downloads: Counter[int]) -> bytes:
    downloads[number] += 1
    return CONTENTS[number]


def entries(cache: DiskCache) -> list[Path]:
    return sorted(cache.folder.glob("roboshard-cache/???/*"))


def at(offset: int, data: bytes = b"", shard: str = "a" * 64) -> CacheKey:
    return CacheKey(shard, offset, crc32c(data))


def put(cache: DiskCache, offset: int, length: int = LENGTH) -> None:
    data = (offset.to_bytes(8, "big") * (length // 8 + 1))[:length]
    cache.get(at(offset, data), length, lambda: data)


def holds(cache: DiskCache, offset: int, length: int = LENGTH) -> bool:
    return any(path.name == cache_files.entry_name(at(offset), length) for path in entries(cache))


def used(cache: DiskCache) -> int:
    return sum(worker.files_of(cache).values())


def accounted(cache: DiskCache) -> int | None:
    with (
        cache_files.opened_home(cache.folder) as home,
        cache_folder.opened_account(home) as account,
    ):
        return account.read()


# -- Names -----------------------------------------------------------------------------------------


@given(sha=st.binary(min_size=32, max_size=32), offset=OFFSETS, length=st.integers(1, 10**18))
def test_a_name_says_its_key(sha: bytes, offset: int, length: int) -> None:
    name = cache_files.entry_name(CacheKey(sha.hex(), offset, 0), length)
    assert name == f"{sha.hex()}-{offset}-{length}"
    assert cache_files.entry_length(name) == cache_files.entry_length(name + ".part") == length
    assert len(name + ".part") < 255
    assert len(cache_files.bucket_name(name)) == 3


@given(
    sha=st.text() | st.just("../" * 21 + "a"), offset=st.integers(), length=st.integers(max_value=0)
)
def test_what_is_no_key_is_an_option_error(sha: str, offset: int, length: int) -> None:
    for wrong in (
        (CacheKey(sha, 0, 0), 1),
        (CacheKey("0" * 64, -abs(offset) - 1, 0), 1),
        (CacheKey("0" * 64, 0, 0), length),
    ):
        with pytest.raises(OptionError, match="no cache key"):
            cache_files.entry_name(*wrong)


@given(name=st.text())
def test_other_names_are_nothing_of_the_cache(name: str) -> None:
    assert cache_files.entry_length(name) is None
    assert (
        cache_files.entry_length("a" * 64 + "-01-5")
        is cache_files.entry_length("a" * 64 + "-1-5.PART")
        is None
    )


# -- One process -----------------------------------------------------------------------------------


def test_what_was_downloaded_once_comes_from_the_folder(cache: DiskCache) -> None:
    assert get(cache, 0) == get(cache, 0, never) == CONTENTS[0]
    assert (
        (cache.folder / "CACHEDIR.TAG")
        .read_bytes()
        .startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    )
    assert used(cache) == accounted(cache)


def test_object_offset_and_length_all_count(cache: DiskCache) -> None:
    places = [
        (shard * 64, offset, length) for shard in "ab" for offset in (0, 7) for length in (1, 2)
    ]
    data = [bytes([number]) * length for number, (_, _, length) in enumerate(places)]
    keys = [
        at(offset, content, shard) for (shard, offset, _), content in zip(places, data, strict=True)
    ]
    for wanted, content in zip(keys, data, strict=True):
        assert cache.get(wanted, len(content), lambda content=content: content) == content
    for wanted, content in zip(keys, data, strict=True):
        assert cache.get(wanted, len(content), never) == content


def test_a_copy_by_pickle_uses_the_same_folder_and_making_one_touches_nothing(
    cache: DiskCache,
) -> None:
    copy: DiskCache = pickle.loads(pickle.dumps(cache))
    assert copy == cache
    assert not cache.folder.exists()
    get(cache, 0)
    assert get(copy, 0, never) == CONTENTS[0]


def test_a_relative_folder_is_meant_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert DiskCache(Path("here"), TOTAL).folder == tmp_path / "here"


def test_no_descriptor_stays_open(cache: DiskCache) -> None:
    get(cache, 0)
    before = os.listdir("/proc/self/fd")
    for number in range(10):
        get(cache, number)
        with pytest.raises(ZeroDivisionError):
            get(cache, 20, lambda: bytes([1 // 0]))
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert not cache_files._open


def test_an_error_of_the_download_is_the_callers_and_nothing_stays(cache: DiskCache) -> None:
    with pytest.raises(StorageError, match="refused"):
        get(cache, 0, lambda: exec("raise error", {"error": StorageError("refused")}))  # type: ignore[arg-type,return-value]
    assert entries(cache) == []
    assert get(cache, 0) == CONTENTS[0]


def test_a_download_of_another_length_is_not_kept(cache: DiskCache) -> None:
    assert get(cache, 0, lambda: b"short") == b"short"
    assert get(cache, 0) == CONTENTS[0]


def test_a_download_with_another_checksum_than_the_key_is_not_kept(cache: DiskCache) -> None:
    wrong = bytes(len(CONTENTS[0]))
    assert get(cache, 0, lambda: wrong) == wrong
    cache.keep(key(0), wrong)
    assert entries(cache) == []
    assert get(cache, 0) == get(cache, 0, never) == CONTENTS[0]
    assert used(cache) == accounted(cache)


def test_an_entry_that_is_whole_but_not_what_the_key_says_is_downloaded_again(
    cache: DiskCache,
) -> None:
    """As another version of the object left it, or somebody who put a file there, with a right
    trailer.
    """
    other = bytes(len(CONTENTS[0]))
    cache.get(key(0)._replace(crc32c=crc32c(other)), len(other), lambda: other)
    assert get(cache, 0) == get(cache, 0, never) == CONTENTS[0]
    assert used(cache) == accounted(cache)


def test_an_object_is_a_place_a_size_and_a_version() -> None:
    objects = {
        object_of(place, size, version)
        for place in ("https://a/x.tar", "https://b/x.tar")
        for size in (1, 2)
        for version in ("0" * 64, "1" * 64)
    }
    assert len(objects) == 8
    assert all(cache_files.entry_name(at(0, shard=one), 1) for one in objects)


# -- Bounds ----------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_goes_first_a_tenth_at_a_time(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 21 * LENGTH)
    for offset in range(20):
        put(cache, offset)
    now = time.time()
    for offset, path in enumerate(
        sorted(entries(cache), key=lambda path: int(path.name.split("-")[1]))
    ):
        os.utime(path, (now, now - 1000 + offset))
    put(cache, 0)  # a hit
    put(cache, 20)
    put(cache, 21)
    assert [offset for offset in range(22) if not holds(cache, offset)] == [1, 2, 3]
    assert used(cache) == accounted(cache) <= cache.max_bytes * 0.95


def test_what_is_larger_than_the_cap_is_passed_through(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1 << 16)
    put(cache, 0)
    put(cache, 1, 1 << 16)
    assert [path.name.split("-")[1] for path in entries(cache)] == ["0"]
    put(cache, 2, (1 << 16) - cache_folder.OVERHEAD - 8)  # exactly all of it
    assert used(cache) == 1 << 16


def test_a_cap_that_holds_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="65536 at least"):
        DiskCache(Path("x"), 100)


def test_a_lower_cap_holds_from_the_first_use(cache: DiskCache) -> None:
    for number in range(30):
        get(cache, number)
    lower = DiskCache(cache.folder, 200_000)
    lower.open()
    assert used(lower) <= lower.max_bytes


@pytest.mark.parametrize("harm", ["lost", "damaged", "another boot", "too much", "a link"])
def test_the_account_is_made_again_from_the_files(harm: str, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 10 * LENGTH)
    for offset in range(9):
        put(cache, offset)
    account = cache.folder / "roboshard-cache/account"
    if harm == "lost":
        account.unlink()
    elif harm == "damaged":
        account.write_bytes(b"x" * 32)
    elif harm == "another boot":
        account.write_bytes(cache_folder.ACCOUNT_RECORD.pack(b"RSC1", 0, b"b" * 16, 0))
    elif harm == "too much":
        with (
            cache_files.opened_home(cache.folder) as home,
            cache_folder.opened_account(home) as opened,
        ):
            opened.write(1 << 60)
    else:
        (tmp_path / "foreign").write_bytes(b"")
        account.unlink()
        account.symlink_to(tmp_path / "foreign")
        with pytest.warns(RuntimeWarning, match="the cache is of no use for now"):
            put(cache, 10)
        assert (tmp_path / "foreign").read_bytes() == b""
        return
    put(cache, 10)
    put(cache, 11)
    assert used(cache) == accounted(cache) <= cache.max_bytes
    assert len(entries(cache)) >= 8


def test_parts_of_the_dead_count_until_they_are_removed(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10 * LENGTH)
    put(cache, 0)
    part = entries(cache)[0].rename(str(entries(cache)[0]) + ".part")
    for offset in range(1, 9):
        put(cache, offset)
        assert part.exists()
    put(cache, 9)
    assert not part.exists()
    assert all(holds(cache, offset) for offset in range(1, 10))
    assert used(cache) == accounted(cache)


# -- Damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "harm", ["cut", "empty", "longer", "first byte", "last byte", "trailer", "zeros", "another's"]
)
def test_a_torn_entry_is_downloaded_again(cache: DiskCache, harm: str) -> None:
    get(cache, 0)
    path = entry_path(cache, 0)
    data = bytearray(path.read_bytes())
    size = len(CONTENTS[0])
    if harm == "another's":
        put(cache, 5, size)
        data = bytearray(next(p for p in entries(cache) if p.name.startswith("aaaa")).read_bytes())
    place = {"first byte": 0, "last byte": size - 1, "trailer": size + 5}.get(harm)
    if place is not None:
        data[place] ^= 1
    lengths = {"cut": data[:-1], "empty": b"", "longer": data + b"x", "zeros": bytes(len(data))}
    path.write_bytes(lengths.get(harm, data))
    assert get(cache, 0) == CONTENTS[0]
    assert get(cache, 0, never) == CONTENTS[0]
    assert used(cache) <= (accounted(cache) or 0) <= used(cache) + size + 8


# -- What is not the cache's -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["notes.txt", "CACHEDIR.TAG", "roboshard-cache"])
def test_a_folder_with_other_content_is_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(
        cache_folder.SIGNATURE + b"\n# This file is a cache directory tag created by pip.\n"
    )
    cache = DiskCache(tmp_path, TOTAL)
    for use in (cache.open, lambda: get(cache, 0)):
        with pytest.raises(
            OptionError, match=rf"holds {name}, which no cache .*give a new or an empty folder"
        ):
            use()
    assert os.listdir(tmp_path) == [name]


def test_a_marker_whose_writer_was_killed_is_completed(tmp_path: Path) -> None:
    (tmp_path / "CACHEDIR.TAG").touch()
    put(DiskCache(tmp_path, TOTAL), 0)
    assert (tmp_path / "CACHEDIR.TAG").read_bytes() == cache_folder.TAG_TEXT


def test_a_marker_that_is_a_link_is_none(tmp_path: Path) -> None:
    (tmp_path / "tag").write_bytes(cache_folder.TAG_TEXT)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/CACHEDIR.TAG").symlink_to(tmp_path / "tag")
    with pytest.raises(OptionError, match=r"holds CACHEDIR\.TAG"):
        DiskCache(tmp_path / "cache", TOTAL).open()


def test_foreign_files_stay(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10 * LENGTH)
    put(cache, 0)
    home, entry = tmp_path / "roboshard-cache", entries(cache)[0]
    elsewhere = "000" if entry.parent.name != "000" else "001"
    (home / elsewhere).mkdir()
    (home / "zzz").mkdir()
    foreign = [
        tmp_path / "notes.txt",
        tmp_path / entry.name,
        home / entry.name,
        home / "zzz" / entry.name,
        home / elsewhere / entry.name,  # not where the cache would put it
        entry.with_name("notes.part"),
        entry.with_name(entry.name + ".bak"),
    ]
    for path in foreign:
        path.write_bytes(b"mine")
        os.utime(path, (0, 0))
    for offset in range(1, 30):
        put(cache, offset)
    assert all(path.read_bytes() == b"mine" for path in foreign)


@pytest.mark.parametrize("place", ["entry", "part", "bucket", "home", "hard link"])
def test_links_are_never_followed(place: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    name = cache_files.entry_name(key(0), len(CONTENTS[0]))
    (outside / name).write_bytes(b"mine")
    cache = DiskCache(tmp_path / "cache", TOTAL)
    cache.open()
    home = cache.folder / "roboshard-cache"
    bucket = home / cache_files.bucket_name(name)
    if place == "home":
        (home / "account").unlink()
        home.rmdir()
        home.symlink_to(outside)
    elif place == "bucket":
        bucket.symlink_to(outside)
    else:
        bucket.mkdir()
        if place == "hard link":
            os.link(outside / name, bucket / (name + ".part"))
        else:
            (bucket / (name + ".part" * (place == "part"))).symlink_to(outside / name)
    with pytest.warns(RuntimeWarning, match="bytes are downloaded"):
        assert get(cache, 0) == CONTENTS[0]
    with (
        cache_files.opened_home(cache.folder)
        if place != "home"
        else warnings.catch_warnings() as opened
    ):
        if opened is not None:
            list(cache_folder.scan(opened))
    assert (outside / name).read_bytes() == b"mine"
    assert os.listdir(outside) == [name]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    cache = DiskCache(tmp_path / "link", TOTAL)
    assert get(cache, 0) == get(cache, 0, never)


# -- Disks that refuse -----------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_an_error_when_opened_and_no_end_of_a_run(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        cache = DiskCache(folder, TOTAL)
        with pytest.raises(StorageError, match="no folder for a cache can be made"):
            cache.open()
        with pytest.warns(RuntimeWarning, match="bytes are downloaded"):
            assert get(cache, 0) == CONTENTS[0]
        assert get(cache, 0) == CONTENTS[0]  # warned once: a second warning would be an error here


@pytest.mark.parametrize("failure", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, None])
def test_a_folder_without_locks_is_refused(
    cache: DiskCache, failure: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: int) -> None:
        if failure is not None:
            raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OptionError, match="give a folder on a disk of this machine"):
        cache.open()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_costs_only_speed(small_disk: Path) -> None:
    cache = DiskCache(small_disk / "cache", 2 * TOTAL)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert [get(cache, number) for number in range(NUM_OBJECTS)] == CONTENTS
    downloads = Counter[int]()
    for number in range(NUM_OBJECTS):
        assert (
            get(cache, number, lambda number=number: fetched(number, downloads)) == CONTENTS[number]
        )  # type: ignore[misc]
    assert downloads.total() <= NUM_OBJECTS - 4
    assert not list(cache.folder.rglob("*.part"))
    assert used(cache) == accounted(cache)


def test_a_read_only_disk_still_gives_what_it_holds(small_disk: Path) -> None:
    cache = DiskCache(small_disk, 2 * TOTAL)
    get(cache, 0)
    os.utime(entry_path(cache, 0), (0, 0))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    again = DiskCache(small_disk / ".", 3 * TOTAL)  # not opened yet in this process
    with pytest.warns(RuntimeWarning, match="Read-only file system"):
        assert get(again, 0, never) == CONTENTS[0]
    assert get(again, 0, never) == get(cache, 0, never) == CONTENTS[0]
    assert get(again, 1) == get(cache, 1) == CONTENTS[1]


def test_a_folder_of_another_user_and_a_limit_on_files_cost_only_speed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        closed = DiskCache(Path(folder) / "closed", TOTAL)
        get(closed, 0)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always")
                    assert get(closed, 0, never) == CONTENTS[0]
                    assert [get(closed, number) for number in range(4)] == CONTENTS[:4]
                assert len(seen) == 1 or os.geteuid() != 65534
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    limited = DiskCache(tmp_path / "limited", TOTAL)
    limited.open()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.warns(RuntimeWarning, match="File too large"):
            assert get(limited, 0) == CONTENTS[0]
        assert get(limited, 0) == CONTENTS[0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert used(limited) == accounted(limited) == cache_folder.OVERHEAD


# -- Many threads and processes --------------------------------------------------------------------


def test_threads_that_want_the_same_share_one_download(cache: DiskCache) -> None:
    downloads: Counter[int] = Counter()

    def fetch(number: int) -> bytes:
        downloads[number] += 1
        time.sleep(0.05)
        return CONTENTS[number]

    with ThreadPoolExecutor(8) as threads:
        numbers = [number for number in range(5) for _ in range(8)]
        got = list(threads.map(lambda number: get(cache, number, lambda: fetch(number)), numbers))
    assert got == [CONTENTS[number] for number in numbers]
    assert downloads == Counter(range(5))


def test_what_came_along_is_kept_and_nobody_is_waited_for(cache: DiskCache) -> None:
    began, end = threading.Event(), threading.Event()

    def slowly() -> bytes:
        began.set()
        assert end.wait(20)
        return CONTENTS[0]

    with ThreadPoolExecutor(1) as thread:
        download = thread.submit(get, cache, 0, slowly)
        assert began.wait(20)
        cache.keep(key(0), b"x" * len(CONTENTS[0]))
        cache.keep(key(1), memoryview(CONTENTS[1]))
        cache.keep(key(1), b"x" * len(CONTENTS[1]))
        end.set()
        assert download.result() == CONTENTS[0]
    assert [get(cache, number, never) for number in (0, 1)] == [CONTENTS[0], CONTENTS[1]]
    assert used(cache) == accounted(cache)


def test_an_entry_that_is_said_to_come_is_waited_for(cache: DiskCache) -> None:
    with ThreadPoolExecutor(1) as thread, ExitStack() as held:
        keep = cache.claim(key(0), len(CONTENTS[0]), held)
        assert keep is not None
        with ExitStack() as other:
            assert cache.claim(key(0), len(CONTENTS[0]), other) is None
        asked = thread.submit(get, cache, 0, never)
        keep(memoryview(CONTENTS[0]))
        held.close()
        assert asked.result(20) == CONTENTS[0]
    with ExitStack() as held:
        assert cache.claim(key(0), len(CONTENTS[0]), held) is None
    assert used(cache) == accounted(cache)


def test_an_entry_that_does_not_come_after_all_is_downloaded(cache: DiskCache) -> None:
    with ThreadPoolExecutor(1) as thread, ExitStack() as held:
        for number, wrong in ((0, None), (1, b"x" * len(CONTENTS[1]))):
            keep = cache.claim(key(number), len(CONTENTS[number]), held)
            assert keep is not None
            if wrong is not None:
                keep(wrong)
        asked = [
            thread.submit(get, cache, number, partial(CONTENTS.__getitem__, number))
            for number in (0, 1)
        ]
        held.close()
        assert [each.result(20) for each in asked] == CONTENTS[:2]
    assert used(cache) == accounted(cache)


def test_who_waits_for_one_who_found_it_there_reads_it_too(cache: DiskCache) -> None:
    get(cache, 0, partial(CONTENTS.__getitem__, 0))
    entry = entry_path(cache, 0)
    aside, part = entry.with_name("aside"), entry.with_name(entry.name + cache_files.PART)
    entry.rename(aside)
    with ThreadPoolExecutor(1) as thread, part.open("wb") as finder:
        assert lock_within(finder.fileno(), 0)
        asked = thread.submit(get, cache, 0, never)
        time.sleep(0.2)  # it waits for the finder
        aside.rename(entry)
        part.unlink()
        finder.close()
        assert asked.result(20) == CONTENTS[0]


def test_what_no_cache_can_hold_may_come_all_the_same(tmp_path: Path) -> None:
    small = DiskCache(tmp_path / "small", MIN_BYTES)
    with ExitStack() as held:
        keep = small.claim(at(0), MIN_BYTES, held)
        assert keep is not None
        keep(bytes(MIN_BYTES))
    assert not small.holds(at(0), MIN_BYTES)


def test_who_waits_reads_what_was_written_also_when_it_is_evicted_at_once(cache: DiskCache) -> None:
    began = threading.Event()

    def slowly() -> bytes:
        began.set()
        time.sleep(0.3)
        return CONTENTS[0]

    def first() -> None:
        get(cache, 0, slowly)
        entry_path(cache, 0).unlink()

    with ThreadPoolExecutor(4) as threads:
        writer = threads.submit(first)
        began.wait()
        readers = [threads.submit(get, cache, 0, never) for _ in range(3)]
        assert [reader.result() for reader in readers] == [CONTENTS[0]] * 3
        writer.result()


def test_who_waited_for_a_download_that_fails_tries_alone(cache: DiskCache) -> None:
    began = threading.Event()

    def fail() -> bytes:
        began.set()
        time.sleep(0.2)
        raise StorageError("refused")

    with ThreadPoolExecutor(4) as threads:
        failing = threads.submit(get, cache, 0, fail)
        began.wait()
        assert [get.result() for get in [threads.submit(get, cache, 0) for _ in range(3)]] == [
            CONTENTS[0]
        ] * 3
        with pytest.raises(StorageError, match="refused"):
            failing.result()
    assert used(cache) == accounted(cache)


@pytest.mark.parametrize("hold", [worker.hold, worker.hold_and_fork])
def test_a_download_whose_process_is_killed_is_taken_over(
    cache: DiskCache, tmp_path: Path, hold: object
) -> None:
    held = tmp_path / "held"
    process = SPAWN.Process(target=hold, args=(cache, 0, held))
    process.start()
    while not held.exists():
        assert process.is_alive() or hold is worker.hold_and_fork
        time.sleep(0.01)
    killer = threading.Timer(0.3, process.kill)
    killer.start()
    started = time.monotonic()
    assert get(cache, 0) == get(cache, 0, never) == CONTENTS[0]
    assert time.monotonic() - started < 20
    killer.join()
    process.join()
    if hold is worker.hold_and_fork:
        os.kill(int(held.with_suffix(".child").read_text()), signal.SIGKILL)


def run_four(cache: DiskCache, seconds: float, log: Path) -> list[int]:
    """The bytes in the folder, as seen all the while that four processes use it."""
    start, results = SPAWN.Event(), SPAWN.Queue()
    processes = [
        SPAWN.Process(
            target=worker.read_at_random, args=(cache, seed, seconds, log, start, results)
        )
        for seed in range(4)
    ]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == ["ready"] * 4
    cache.open()
    sizes = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.is_set():
            # The lock only makes the walk one moment: without it, it would count what came and what
            # went.
            with cache_files.opened_home(cache.folder) as home, cache_folder.opened_account(home):
                sizes.append(used(cache))
            time.sleep(0.005)

    sampler = threading.Thread(target=sample)
    sampler.start()
    start.set()
    assert [results.get(timeout=60) for _ in processes] == ["done"] * 4
    stop.set()
    sampler.join()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return sizes


def test_four_processes_under_a_cap_smaller_than_the_data(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", TOTAL * 2 // 5)
    sizes = run_four(cache, 2.5, tmp_path / "log")
    downloads = [int(number) for number in (tmp_path / "log").read_text().split()]
    # All but what the folder can hold has gone again.
    assert sum(len(CONTENTS[number]) for number in downloads) > TOTAL + cache.max_bytes
    assert len(sizes) > 50
    assert max(sizes) <= cache.max_bytes
    assert max(sizes) > cache.max_bytes * 0.8
    assert used(cache) == accounted(cache)


def test_four_processes_download_each_thing_once_where_all_fits(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", TOTAL * 2)
    run_four(cache, 0.5, tmp_path / "log")
    assert Counter((tmp_path / "log").read_text().split()) == Counter(map(str, range(NUM_OBJECTS)))


@pytest.mark.parametrize("rounds", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_holds_whole_entries_or_none(tmp_path: Path, rounds: int) -> None:
    command = [sys.executable, worker.__file__, str(tmp_path / "cache"), str(rounds), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_another_wrote_between_look_and_lock_is_seen(
    cache: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(cache, 0)
    monkeypatch.setattr(DiskCache, "_look", lambda *_: None)
    assert get(cache, 0, never) == CONTENTS[0]
    assert [path.suffix for path in entries(cache)] == [""]


def test_an_entry_gets_its_name_under_the_lock_that_scans_hold(
    cache: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, was_locked = os.rename, []

    def watched(*names: str, **folders: int) -> None:
        with (cache.folder / "roboshard-cache/account").open("rb") as account:
            was_locked.append(not lock_within(account.fileno(), 0))
        rename(*names, **folders)

    monkeypatch.setattr(os, "rename", watched)
    get(cache, 0)
    assert was_locked == [True]


def test_nothing_is_removed_in_vain_beside_parts_that_leave_no_room(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10 * LENGTH)
    put(cache, 0)
    name = cache_files.entry_name(at(0, shard="b" * 64), 5 * LENGTH)
    with (
        cache_files.opened_bucket(tmp_path, name, make=True) as bucket,
        cache_files.opened(name + ".part", os.O_RDWR | os.O_CREAT, bucket) as part,
    ):
        assert lock_within(part, 0)
        os.ftruncate(part, 5 * LENGTH)
        (tmp_path / "roboshard-cache/account").unlink()
        put(cache, 1, 6 * LENGTH)
        assert [path.name.split("-")[1] for path in entries(cache)].count("0") == 2
        assert used(cache) == accounted(cache)
    put(cache, 1, 6 * LENGTH)  # the maker of the part is gone now
    assert holds(cache, 0)
    assert holds(cache, 1, 6 * LENGTH)


def test_a_forked_process_opens_the_folder_anew(cache: DiskCache) -> None:
    get(cache, 0)
    child = os.fork()
    if child == 0:
        is_new = not this_process().opened
        os._exit(int(not (is_new and get(cache, 0, never) == CONTENTS[0])))
    assert os.waitpid(child, 0)[1] == 0

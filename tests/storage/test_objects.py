"""Reads through fsspec: the same promises for s3:// and any other scheme."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.servers import S3Server
from support.slowly import slowly

from roboshard import storage
from roboshard.common.errors import (
    DamageError,
    MissingError,
    OptionError,
    RoboshardError,
    StorageError,
)
from roboshard.shards import ShardedDataset
from roboshard.storage import RetryPolicy, filesystems, objects, retry

pytest_plugins = ["support.servers.fixtures"]

CONTENT = bytes(range(251)) * 1000
TOTAL = len(CONTENT)
BRIEF = RetryPolicy(connect_s=1, stall_s=0.5, retry_s=0.3)
LONG = RetryPolicy(connect_s=1, stall_s=0.5)


@pytest.fixture
def url(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    filesystems.forget_all()
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.05)
    for name, data in {"d/a b.tar": CONTENT, "d/empty": b"", "d/.hidden": b"h"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    yield s3_server.add_folder(tmp_path / "d", "some/d") + "/a b.tar"
    filesystems.forget_all()


@pytest.fixture
def memory() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    system.pipe("/m/a", CONTENT)
    yield "memory://m/a"
    system.rm("/m", recursive=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    offset=st.integers(0, TOTAL + 5),
    length=st.integers(0, TOTAL + 5),
    part=st.integers(20_000, TOTAL),
)
def test_a_range_is_exact_or_an_error(memory: str, offset: int, length: int, part: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "PART", part)
        if offset + length <= TOTAL or length == 0:
            assert (
                storage.read_range(memory, offset, length, total=TOTAL) == CONTENT[offset:][:length]
            )
        else:
            with pytest.raises(
                DamageError, match=rf"ends {offset + length - TOTAL} bytes before offset"
            ):
                storage.read_range(memory, offset, length, policy=BRIEF)


def test_s3_is_read_sized_and_listed(url: str) -> None:
    folder = url.rpartition("/")[0]
    assert storage.read_range(url, 5, 100_000, total=TOTAL) == CONTENT[5:100_005]
    assert storage.read_range(url, 100, TOTAL - 100, total=TOTAL) == CONTENT[100:]
    assert storage.read_all(url, TOTAL) == CONTENT
    assert storage.read_all(f"{folder}/empty", 0) == b""
    assert storage.size(url) == TOTAL
    assert storage.list_files(folder) == {"a b.tar": TOTAL, "empty": 0}
    with pytest.raises(StorageError, match="more than the 100 that such a file may have"):
        storage.read_all(url, 100)


@pytest.mark.parametrize(("offset", "length"), [(TOTAL - 5, 10), (TOTAL + 5, 10)])
def test_what_ends_before_is_damage(url: str, offset: int, length: int) -> None:
    with pytest.raises(
        DamageError, match=rf"a b\.tar: ends {offset + length - TOTAL} bytes before offset"
    ):
        storage.read_range(url, offset, length, policy=BRIEF)


@pytest.mark.parametrize(("offset", "length"), [(0, 10), (TOTAL - 20, 10), (0, TOTAL - 10)])
def test_a_file_of_another_size_is_damage(url: str, offset: int, length: int) -> None:
    with pytest.raises(DamageError, match="are expected"):
        storage.read_range(url, offset, length, total=TOTAL - 10, policy=BRIEF)


def test_what_is_not_there_is_missing(s3_server: S3Server, url: str) -> None:
    for missing in (f"{url}.none", "s3://no-such-bucket/x"):
        for ask in (storage.size, storage.list_files, lambda url: storage.read_range(url, 0, 1)):
            with pytest.raises(MissingError, match="no such"):
                ask(missing)


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("refuse", {}, "does not answer"),
    ("drop", {}, "does not answer|stalled"),
    ("reset", {"after_bytes": 50_000}, "does not answer"),
    ("truncate", {"after_bytes": 50_000}, "does not answer"),
    ("status", {"code": 500}, "does not answer"),
    ("status", {"code": 503}, "does not answer"),
    ("status", {"code": 403}, "access is refused.*AWS_ACCESS_KEY_ID"),
    ("stall", {"seconds": 1.5}, "stalled"),
    ("ignore_range", {}, "the server ignores Range"),
]


FAULT_NAMES = [f"{kind}-{list(args.values())}" for kind, args, _ in FAULTS]
SOME_FAULTS = [
    slowly(*fault) if fault[0] in ("drop", "refuse", "reset") else fault for fault in FAULTS
]


@pytest.mark.parametrize(
    ("kind", "args", "message"), SOME_FAULTS, ids=[f"{k}-{list(a.values())}" for k, a, _ in FAULTS]
)
def test_faults_of_s3(
    s3_server: S3Server, url: str, kind: str, args: dict[str, Any], message: str
) -> None:
    assert storage.read_range(url, 5, 6, policy=LONG) == CONTENT[5:11]
    if args.get("code") != 403:
        s3_server.fault(kind, **({"seconds": 0.2} if kind == "refuse" else args))
        assert storage.read_range(url, 0, 100_000, policy=LONG) == CONTENT[:100_000]
    s3_server.reset()
    s3_server.fault(kind, times=None, **args)
    begun = time.monotonic()
    with pytest.raises(StorageError, match=message) as caught:
        storage.read_range(url, 0, 100_000, policy=BRIEF)
    assert str(caught.value).startswith(f"{url}: ")
    assert time.monotonic() - begun < 8
    assert "testing" not in repr(caught.value)  # the key and the secret


def test_without_credentials_it_is_said_where_they_are_looked_for(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StorageError, match=r"AWS_ACCESS_KEY_ID.*~/\.aws.*anon"):
        storage.size(url)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_filesystem_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(OptionError, match=r"gs:// needs `pip install 'roboshard\[gcs\]'`"):
        storage.size("gs://b/x")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/x",
        "local://x",
        "zip://x",
        "reference://x",
        "simplecache::s3://b/x",
        "data://x",
        "nothing://x",
    ],
)
def test_wrappers_and_what_nobody_serves_are_refused(url: str) -> None:
    with pytest.raises(StorageError, match="is not served"):
        storage.size(url)


def test_threads_share_one_filesystem(url: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        reads = pool.map(
            lambda start: storage.read_range(url, start, 1000), range(0, 100_000, 1000)
        )
        assert b"".join(reads) == CONTENT[:100_000]
    assert len(filesystems.opened.shared) == 1


def _read(url: str) -> None:
    assert storage.read_range(url, 0, TOTAL) == CONTENT


def test_a_fork_opens_its_own_filesystem(url: str) -> None:
    _read(url)
    with filesystems.opened.lock:  # as another thread may hold it
        child = multiprocessing.get_context("fork").Process(target=_read, args=(url,))
        child.start()
    child.join(60)
    assert child.exitcode == 0
    _read(url)


def test_a_fresh_process_reads(url: str) -> None:
    code = "import sys; from roboshard import storage; print(storage.size(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.strip() == str(TOTAL), done.stderr


def test_a_dataset_on_s3_is_the_one_here(s3_server: S3Server, url: str, pusht_shards: Path) -> None:
    here, there = (
        ShardedDataset.open(str(pusht_shards)),
        ShardedDataset.open(s3_server.add_folder(pusht_shards, "p")),
    )
    for position in (0, 5, 13):
        ours, theirs = here.read_episode(position), there.read_episode(position)
        assert (ours.record, ours.rows, ours.videos) == (theirs.record, theirs.rows, theirs.videos)
    (name,) = {shard.name for shard in here.manifest.shards[:1]}
    fsspec.filesystem("s3").pipe(f"{there.root}/{name}".removeprefix("s3://"), b"short")
    with pytest.raises(RoboshardError, match=name):
        ShardedDataset.open(there.root).read_episode(0)

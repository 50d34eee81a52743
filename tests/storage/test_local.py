"""Reads are exact or an error that names the URL; files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import IO, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roboshard import storage
from roboshard.common.errors import DamageError, MissingError, StorageError
from roboshard.storage import access

CONTENT = bytes(range(256)) * 20


@pytest.fixture
def url(tmp_path: Path) -> str:
    (tmp_path / "a file.bin").write_bytes(CONTENT)
    return str(tmp_path / "a file.bin")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, len(CONTENT) + 5), length=st.integers(0, len(CONTENT) + 5))
def test_a_range_is_exact_or_an_error(url: str, offset: int, length: int) -> None:
    if offset + length <= len(CONTENT) or (length == 0 and offset <= len(CONTENT)):
        assert storage.read_range(url, offset, length) == CONTENT[offset : offset + length]
    else:
        with pytest.raises(DamageError, match=r"ends \d+ bytes before offset"):
            storage.read_range(url, offset, length)


def test_a_file_url_is_the_path_that_it_encodes(url: str) -> None:
    assert storage.read_all(Path(url).as_uri(), len(CONTENT)) == CONTENT
    assert storage.size("file://" + url) == len(CONTENT)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(offset=st.integers(0, 500), length=st.integers(0, 3000), chunk=st.integers(1, 700))
def test_chunks_are_the_range(url: str, offset: int, length: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "COPY_CHUNK", chunk)
        chunks = list(storage.read_range_chunks(url, offset, length))
    assert b"".join(chunks) == CONTENT[offset : offset + length]
    assert all(0 < len(part) <= chunk for part in chunks)


def test_a_claimed_length_is_not_allocated(url: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DamageError, match="ends"):
            storage.read_range(url, 0, 1 << 50)
        with pytest.raises(StorageError, match="more than the 100 that such a file may have"):
            storage.read_all(url, 100)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_short_reads_are_put_together(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread
    monkeypatch.setattr(
        os, "pread", lambda descriptor, length, offset: real(descriptor, min(length, 700), offset)
    )
    assert storage.read_range(url, 3, 5000) == CONTENT[3:5003]


def test_a_file_that_shrinks_while_it_is_read_is_damage(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(DamageError, match="ended at offset 0 while it was read"):
        storage.read_range(url, 0, 10)


def test_a_disk_that_fails_is_an_error_with_the_url(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StorageError, match=r"a file\.bin: cannot be read: Input/output error"):
        storage.read_range(url, 0, 10)


def test_descriptors_are_closed_again_whatever_happens(url: str) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        storage.read_range(url, 0, 10)
        with pytest.raises(DamageError):
            storage.read_range(url, 0, 1 << 40)
        with pytest.raises(StorageError):
            storage.size(str(Path(url).parent))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    for read in (
        storage.size,
        lambda url: storage.read_all(url, 10),
        lambda url: storage.read_range(url, 0, 1),
    ):
        with pytest.raises(MissingError, match=r"none\.tar: no such file"):
            read(str(tmp_path / "none.tar"))


def test_only_regular_files_are_read_and_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "fifo", tmp_path / "folder", Path("/dev/zero")):
        with pytest.raises(StorageError, match="not a regular file"):
            storage.size(str(path))


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_path_that_cannot_be_is_a_storage_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        storage.size(f"{tmp_path}/{name}")


@pytest.mark.parametrize("pipe", ["pipe:cat /etc/passwd", "pipe:echo hi > {}", "pipe://x"])
def test_pipes_are_refused_and_not_run(pipe: str, tmp_path: Path) -> None:
    target = tmp_path / "made-by-the-pipe"
    with pytest.raises(StorageError, match="pipe: URLs would run a shell command and are refused"):
        storage.read_all(pipe.format(target), 10)
    assert not target.exists()


@pytest.mark.parametrize("url", ["ftp://h/x", "gopher://h/x", "javascript://x", "data://x"])
def test_schemes_that_are_not_served_are_refused_by_name(url: str) -> None:
    with pytest.raises(StorageError, match=url.partition(":")[0]):
        storage.size(url)


def test_urls_are_joined_with_one_slash() -> None:
    assert (
        storage.join("/data/x", "shards/a.tar")
        == storage.join("/data/x/", "shards/a.tar")
        == "/data/x/shards/a.tar"
    )
    assert storage.join("/", "dataset.json") == "/dataset.json"
    assert storage.join(".", "dataset.json") == "./dataset.json"


# -- Writing ---------------------------------------------------------------------------------------


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new folder/dataset.json"
    for data in (b"old and long", b"new"):
        storage.write_bytes(target, data)
        assert target.read_bytes() == data
        assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "dataset.json"
    storage.write_bytes(target, b"old")

    def half(file: IO[bytes]) -> None:
        file.write(b"half")
        assert target.read_bytes() == b"old"
        raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        storage.write_atomic(target, half)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_no_reader_ever_sees_half_a_file(tmp_path: Path) -> None:
    target = str(tmp_path / "dataset.json")
    contents = {b"a" * 100_000, b"b" * 100_000}
    storage.write_bytes(Path(target), b"a" * 100_000)
    done = threading.Event()

    def write() -> None:
        for i in range(30):
            storage.write_bytes(Path(target), sorted(contents)[i % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert storage.read_all(target, 1 << 20) in contents
    writer.join()


KILLED_WHILE_WRITING = """
import os, pathlib, sys
from roboshard import storage
from roboshard.storage import access

def half(file):
    file.write(b"half")
    file.flush()
    os._exit(9)

storage.write_atomic(pathlib.Path(sys.argv[1]), half)
"""


def test_what_a_killed_writer_leaves_is_removed_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "shards/shard-000000.tar"
    kept = [tmp_path / name for name in (".hidden", "shard.roboshard-tmp", ".notes.tmp")]
    for path in kept:
        path.write_bytes(b"mine")
    assert (
        subprocess.run(
            [sys.executable, "-c", KILLED_WHILE_WRITING, str(target)], check=False
        ).returncode
        == 9
    )
    assert [path.read_bytes() for path in target.parent.iterdir()] == [b"half"]
    storage.remove_temporaries(tmp_path, ["shards"])
    assert list(target.parent.iterdir()) == []
    assert all(path.exists() for path in kept)

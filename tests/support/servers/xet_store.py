"""Xet storage without the service: hf_xet reads and writes folders that it takes for a CAS
(`local://<folder>`).

A folder is one database that one process opens at a time. So each upload gets a new folder, each
download a snapshot, and the server keeps its own: it takes over what clients have uploaded as the
Hub does, by what their shards declare.
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hf_xet

_DATABASE = "global_dedup_lookup.redb"
_RECORD = 48  # all records of a shard have this size
_HAS_VERIFICATION, _HAS_METADATA = 1 << 31, 1 << 30


@dataclass(frozen=True)
class StoredFile:
    """A file in the storage; `sha256` is known where the client declared it, as it does for
    repositories.
    """

    xet_hash: str
    size: int
    sha256: str | None
    folder: Path


class XetStore:
    """The files of all buckets and repositories, by content."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._session = hf_xet.XetSession()
        self._master = root / "master"
        self._uploads: list[Path] = []
        self._taken: set[Path] = set()  # shards that have been looked into
        self._files: dict[str, StoredFile] = {}
        self._by_sha256: dict[str, str] = {}
        self._in_master: set[str] = set()
        self._count = 0
        for name in ("blobs", "uploads", "reads", "master"):
            (root / name).mkdir(parents=True)
        self._keep_empty()

    # -- For clients -------------------------------------------------------------------------------

    def upload_url(self) -> str:
        """A place where one client may write."""
        with self._lock:
            folder = self._new_folder("uploads")
            self._uploads.append(folder)
            return f"local://{folder}"

    def read_url(self, hashes: Iterable[str]) -> str:
        """A place where one client may read these files (and finds others, too)."""
        with self._lock:
            missing = [
                self.blob(xet_hash)
                for xet_hash in set(hashes) - self._in_master
                if self.size(xet_hash)
            ]
            self._upload_to_master(missing)
            folder = self._new_folder("reads")
            _snapshot(self._master, folder)
            return f"local://{folder}"

    # -- For the server ----------------------------------------------------------------------------

    def __contains__(self, xet_hash: str) -> bool:
        with self._lock:
            if xet_hash not in self._files:
                self._take_over()
            return xet_hash in self._files

    def size(self, xet_hash: str) -> int:
        return self._files[xet_hash].size

    def with_sha256(self, sha256: str) -> str | None:
        """The xet hash of the file that has been uploaded with this SHA-256."""
        with self._lock:
            if sha256 not in self._by_sha256:
                self._take_over()
            return self._by_sha256.get(sha256)

    def sha256(self, xet_hash: str) -> str:
        known = self._files[xet_hash].sha256
        if known is None:
            with self.blob(xet_hash).open("rb") as file:
                known = hashlib.file_digest(file, "sha256").hexdigest()
        return known

    def blob(self, xet_hash: str) -> Path:
        """The content as a plain file, which hf_xet puts together when it is first asked for."""
        path = self._root / "blobs" / xet_hash
        with self._lock:
            if not path.exists():
                self._put_together(self._files[xet_hash], path)
        return path

    def add(self, paths: Iterable[Path]) -> list[str]:
        """Store files; their xet hashes."""
        with self._lock:
            return self._upload_to_master(list(paths))

    # -- Inside ------------------------------------------------------------------------------------

    def _new_folder(self, kind: str) -> Path:
        self._count += 1
        folder = self._root / kind / str(self._count)
        folder.mkdir()
        return folder

    def _put_together(self, stored: StoredFile, path: Path) -> None:
        """Write a file's content.

        A snapshot taken while its client uploads on may be of no use: a later one is.
        """
        problem: object = None
        for _ in range(20):
            snapshot = self._new_folder("reads")
            partial = path.with_suffix(".partial")
            try:
                _snapshot(stored.folder, snapshot)
                group = self._session.new_download_stream_group(endpoint=f"local://{snapshot}")
                with partial.open("wb") as file:
                    for chunk in group.download_stream(hf_xet.XetFileInfo(stored.xet_hash)):
                        file.write(chunk)
                if partial.stat().st_size == stored.size:
                    partial.rename(path)
                    return
                problem = f"{partial.stat().st_size} of {stored.size} bytes"
            except Exception as error:  # noqa: BLE001 - hf_xet raises several kinds
                problem = error
            finally:
                shutil.rmtree(snapshot)
            time.sleep(0.1)
        raise RuntimeError(f"{stored.xet_hash} cannot be read from {stored.folder}: {problem}")

    def _keep_empty(self) -> None:
        """The empty file has a hash, and no client ever uploads it."""
        path = self._root / "blobs/empty"
        path.touch()
        (info,) = hf_xet.hash_files([str(path)])
        path.rename(path.with_name(info.hash))
        self._know(StoredFile(info.hash, 0, hashlib.sha256().hexdigest(), self._master))
        self._in_master.add(info.hash)

    def _know(self, file: StoredFile) -> None:
        self._files.setdefault(file.xet_hash, file)
        if file.sha256 is not None:
            self._by_sha256[file.sha256] = file.xet_hash

    def _upload_to_master(self, paths: list[Path]) -> list[str]:
        if not paths:
            return []
        commit = self._session.new_upload_commit(endpoint=f"local://{self._master}")
        with commit:
            handles = [
                commit.start_upload_file(str(path), sha256=hf_xet.COMPUTE_SHA256) for path in paths
            ]
        infos = [handle.result().xet_info for handle in handles]
        del commit, handles
        gc.collect()  # lets go of the folder's database
        for path, info in zip(paths, infos, strict=True):
            blob = self._root / "blobs" / info.hash
            if not blob.exists():
                shutil.copyfile(path, blob)
            self._know(StoredFile(info.hash, blob.stat().st_size, info.sha256, self._master))
            self._in_master.add(info.hash)
        return [info.hash for info in infos]

    def _take_over(self) -> None:
        """Learn of the files that clients have uploaded since."""
        for folder in self._uploads:
            for shard in sorted((folder / "xet/xorbs/shards").glob("*.mdb")):
                if shard in self._taken:
                    continue
                try:
                    declared = list(_declared_files(shard.read_bytes()))
                except struct.error:
                    continue  # still being written
                self._taken.add(shard)
                for xet_hash, size, sha256 in declared:
                    self._know(StoredFile(xet_hash, size, sha256, folder))


def _snapshot(folder: Path, into: Path) -> None:
    """A copy that can be opened while the folder is.

    Everything but the database is immutable, so links do.

    The database may be written to as it is copied, by a client that uploads on; then the copy does
    not open, and a later one does.
    """
    source, target = folder / "xet/xorbs", into / "xet/xorbs"
    for kind in ("shards", "xorbs"):
        (target / kind).mkdir(parents=True)
        for path in (source / kind).glob("*"):
            os.link(path, target / kind / path.name)
    database = source / _DATABASE
    for _ in range(50):
        if not database.exists():
            return
        before = database.stat()
        shutil.copyfile(database, target / _DATABASE)
        if (
            after := database.stat()
        ).st_mtime_ns == before.st_mtime_ns and after.st_size == before.st_size:
            return
        time.sleep(0.02)


def _declared_files(shard: bytes) -> Iterator[tuple[str, int, str | None]]:
    """Xet hash, size and SHA-256 of each file that a shard holds (Xet protocol specification:
    "shard").
    """
    at = _RECORD  # behind the header
    while True:
        file_hash, flags, count, _ = struct.unpack_from("<32sIIQ", shard, at)
        if file_hash == b"\xff" * 32:
            return
        at += _RECORD
        size = sum(
            struct.unpack_from("<36xI", shard, at + index * _RECORD)[0] for index in range(count)
        )
        at += count * _RECORD * (2 if flags & _HAS_VERIFICATION else 1)
        sha256 = None
        if flags & _HAS_METADATA:
            sha256 = _hex(shard[at : at + 32])
            at += _RECORD
        yield _hex(file_hash), size, sha256


def _hex(value: bytes) -> str:
    """Xet writes a hash as four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", value))

"""A source on the Hub or in object storage: listed once, each file downloaded when an episode needs
it, then let go.

The metadata comes at the start and stays; data and video files lie
in a scratch folder of bounded size (`scratch.py`) that all processes of the run share, and each is
downloaded once, as long as there is room for it.
"""

import os
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from rich.filesize import decimal

from roboshard import storage
from roboshard.common import interrupts, jsonio
from roboshard.common.errors import DamageError, MissingError, OptionError, StorageError
from roboshard.converter.source.files import HeldFiles, by_names, metadata_among
from roboshard.converter.source.scratch import LISTING, Scratch, Taken

READ_BYTES = 16 << 20
"""Most bytes of a single ranged read."""
CONNECTIONS = 4
"""Reads at once, of one process."""
FILES_AT_ONCE = 64
"""Metadata files that are open at once while they are downloaded."""
MAX_LISTING_BYTES = 1 << 30
POLL_S = 0.05


class _Target(NamedTuple):
    """A local file to be filled: from which path, through which descriptor, how many bytes."""

    path: str
    descriptor: int
    size: int


@dataclass(frozen=True)
class RemoteFiles:
    """The files of a source behind a URL."""

    url: str
    """URL of the source, pinned where the storage knows revisions."""
    name: str
    revision: str | None
    scratch: Scratch

    @property
    def folder(self) -> None:
        """None: the source is not a folder of this machine."""

    @property
    def capacity(self) -> int:
        """Bytes of data and video files that fit into the scratch folder beside the metadata."""
        return self.scratch.capacity - sum(self.sizes[path] for path in self.metadata())

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file, as they were at the start of the run."""
        return _read_listing(self.scratch.folder / LISTING)

    def where(self, path: str = "") -> str:
        """Return the URL of a file, or of the source, without secrets."""
        return storage.redacted(storage.join(self.url, path) if path else self.url)

    def metadata(self) -> list[str]:
        """Paths of the metadata files, in a fixed order."""
        return _metadata_of(self.scratch.folder / LISTING)

    def metadata_path(self, path: str) -> Path:
        """Return the local copy of a metadata file. Raises MissingError."""
        if path not in self.sizes:
            raise MissingError(f"{self.where(path)}: no such file")
        return self.scratch.metadata_path(path)

    def size(self, path: str) -> int | None:
        """Bytes of a file; None: there is none."""
        return self.sizes.get(path)

    def listed(self, folder: str) -> list[str]:
        """Paths of all files below a folder of the source, in LeRobot's order."""
        return by_names(path for path in self.sizes if path.startswith(f"{folder}/"))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read `length` bytes of a file from `offset`, straight from where it lies."""
        return storage.read_range(
            storage.join(self.url, path), offset, length, total=self.size(path)
        )

    def held(self, on_release: Callable[[str], None]) -> HeldFiles:
        """Local copies for one reader."""
        return _HeldCopies(self, on_release)

    def close(self) -> None:
        """Remove the local copies."""
        self.scratch.remove()

    def download(self, targets: Collection[_Target]) -> None:
        """Fill local files, by several reads at a time. Raises StorageError."""
        pieces = [
            (target, offset, min(READ_BYTES, target.size - offset))
            for target in targets
            for offset in range(0, target.size, READ_BYTES)
        ]
        if not pieces:
            return
        with interrupts.thread_pool(min(CONNECTIONS, len(pieces)), "roboshard-source") as pool:
            futures = [pool.submit(self._read_piece, *piece) for piece in pieces]
            try:
                for future in interrupts.as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(
                    wait=True, cancel_futures=True
                )  # nobody writes any more when the files are closed
                raise

    def _read_piece(self, target: _Target, offset: int, length: int) -> None:
        try:
            url = storage.join(self.url, target.path)
            data = memoryview(storage.read_range(url, offset, length, total=target.size))
        except (
            MissingError,
            DamageError,
        ) as error:  # not this episode's fault: none is left out for it
            raise StorageError(
                f"{error}. It was as listed when the run began: the source is being changed"
            ) from error
        try:
            while data:
                written = os.pwrite(target.descriptor, data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise StorageError(
                f"{self.scratch.folder}: a copy of {self.where(target.path)} cannot be written: "
                f"{error.strerror}; choose another folder by --scratch, or a smaller --scratch-size"
            ) from error


class _HeldCopies:
    """Copies of a remote source's files that one reader holds."""

    def __init__(self, files: RemoteFiles, on_release: Callable[[str], None]) -> None:
        self._files = files
        self._scratch = files.scratch
        self._on_release = on_release
        self._held: dict[str, int] = {}

    def hold(self, paths: Collection[str]) -> None:
        """Hold these files from now on, and release all others; waits for room, and downloads."""
        sizes = {path: size for path in paths if (size := self._files.size(path)) is not None}
        self._release(self._held.keys() - sizes.keys())
        while self._held.keys() != sizes.keys():
            taken = self._scratch.take(
                {path: size for path, size in sizes.items() if path not in self._held}
            )
            if taken is None:
                self._release(list(self._held))
                interrupts.pause(POLL_S)
                continue
            self._held |= taken.files
            self._fill(taken)

    def path(self, path: str) -> Path:
        """The copy of a file that is held."""
        return self._scratch.file_path(path)

    def close(self) -> None:
        """Release all files."""
        self._release(list(self._held))

    def _fill(self, taken: Taken) -> None:
        targets = [
            _Target(path, descriptor, self._files.sizes[path])
            for path, descriptor in taken.parts.items()
        ]
        try:
            self._files.download(targets)
            for path, descriptor in list(taken.parts.items()):
                self._scratch.finish(path, descriptor)
                self._held[path] = taken.parts.pop(path)
        finally:
            for path, descriptor in taken.parts.items():
                self._scratch.abandon(path, descriptor)

    def _release(self, paths: Collection[str]) -> None:
        for path in paths:
            self._on_release(path)  # closed before it may be removed: an open file takes room
            os.close(self._held.pop(path))


def open_remote(
    url: str, name: str, revision: str | None, *, base: Path, capacity: int
) -> RemoteFiles:
    """List a remote source and download its metadata.

    Args:
        url: of the folder that holds meta/, data/ and videos/; with a commit, where the storage has
            such.
        name: what the dataset is called.
        revision: its commit.
        base: where the run's scratch folder is made; it is removed by `close`, or when the process
            ends.
        capacity: bytes that may be in it.

    Raises:
        MissingError, StorageError: there is no such source, or it cannot be read.
        OptionError: the metadata alone is larger than `capacity`.
    """
    listing = storage.list_files(url)
    files = RemoteFiles(url, name, revision, Scratch.make(base, capacity))
    weakref.finalize(files, _remove_in, os.getpid(), files.scratch)
    try:
        storage.write_bytes(files.scratch.folder / LISTING, jsonio.dump(listing))
        if files.capacity < 0:
            raise OptionError(
                f"{files.where()}: its metadata takes {decimal(-files.capacity)} more than the "
                f"{decimal(files.scratch.capacity)} of the scratch folder; raise --scratch-size, "
                "or choose a larger disk by --scratch"
            )
        _download_metadata(files)
    except BaseException:
        files.close()
        raise
    return files


def _download_metadata(files: RemoteFiles) -> None:
    paths = files.metadata()
    for start in range(0, len(paths), FILES_AT_ONCE):
        descriptors: list[int] = []
        try:
            targets = []
            for path in paths[start : start + FILES_AT_ONCE]:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                descriptors.append(os.open(files.scratch.metadata_path(path), flags, 0o600))
                targets.append(_Target(path, descriptors[-1], files.sizes[path]))
            files.download(targets)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _remove_in(process: int, scratch: Scratch) -> None:
    if os.getpid() == process:  # not in a fork of it
        scratch.remove()


@lru_cache(maxsize=4)
def _read_listing(path: Path) -> Mapping[str, int]:
    return jsonio.load(path.read_bytes(), str(path), MAX_LISTING_BYTES)


@lru_cache(maxsize=4)
def _metadata_of(listing: Path) -> list[str]:
    return metadata_among(_read_listing(listing))

"""A folder of downloaded files, bounded in bytes, that the processes of one run share.

    BASE/roboshard-source-x1y2z3/
        in-use            locked by each process of the run; the next run removes what is not
        account           whoever adds, pins or removes files holds its lock, for moments
        meta/...          metadata, which stays
        files/<hash>.mp4  a whole file; those who use it hold a shared lock on it
        files/<hash>.part a file on its way, of its full length; its maker holds a lock on it

The kernel lets go of a lock when its process ends, however it ends: nothing that a killed process
held stays held, and a .part that nobody holds is removed. Files that a reader needs are taken all
at once or not at all, and who has to wait for room holds nothing meanwhile. So readers can never
wait for each other in a circle.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from roboshard.common.errors import StorageError
from roboshard.storage.locks import is_at, lock

PREFIX = "roboshard-source-"
PART = ".part"
LISTING = "listing.json"
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".parquet", ".json")
_IN_USE = "in-use"
_ACCOUNT = "account"
_FILES, _META = "files", "meta"

_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
"""Flags that create a file under a name that nothing has had before, no link either."""

_joined: dict[Path, int] = {}
"""Run folders that this process uses -> its hold on them, which goes with the process."""


@dataclass(frozen=True)
class Scratch:
    """The folder of one run's downloaded files. Can be sent to other processes of this machine."""

    folder: Path
    capacity: int
    """Bytes that files and metadata may take together."""

    @classmethod
    def make(cls, base: Path, capacity: int) -> "Scratch":
        """Make a folder of the run's own under `base`, where what killed runs left is removed."""
        try:
            base.mkdir(parents=True, exist_ok=True)
            remove_leftovers(base)
            capacity = min(capacity, shutil.disk_usage(base).free * 9 // 10)
            scratch = cls(_make_folder(base), capacity)
            for name in (_FILES, _META):
                (scratch.folder / name).mkdir()
            (scratch.folder / _ACCOUNT).touch()
        except OSError as error:
            raise StorageError(
                f"{base}: no folder for downloaded files can be made there: {error.strerror}; "
                "choose one by --scratch"
            ) from error
        return scratch

    def join(self) -> None:
        """Keep the folder from being taken for a killed run's.

        Every process that uses it calls this.
        """
        if self.folder in _joined:
            return
        descriptor = _locked(self.folder / _IN_USE, shared=True)
        if descriptor is None:
            raise StorageError(
                f"{self.folder}: the folder for downloaded files has been removed during the run"
            )
        _joined[self.folder] = descriptor

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        _remove_folder(self.folder)
        descriptor = _joined.pop(self.folder, None)
        if descriptor is not None:
            os.close(descriptor)

    def metadata_path(self, path: str) -> Path:
        """Where a metadata file lies, or will lie."""
        return self.folder / _META / _file_name(path)

    def file_path(self, path: str) -> Path:
        """Where any other file lies while it is there."""
        return self.folder / _FILES / _file_name(path)

    def take(self, sizes: Mapping[str, int]) -> "Taken | None":
        """Lock these files (path -> bytes), all or none; make room, and .part files to fill, for
        those not there.

        None where one of them is on its way already, or there is no room now: let go of everything
        and ask later.
        """
        taken = Taken()
        with self._account():
            try:
                missing = {
                    path: size
                    for path, size in sizes.items()
                    if not self._take_present(path, taken)
                }
                if taken.is_complete and self._make_room(sum(missing.values())):
                    for path in missing:
                        taken.parts[path] = _create_part(self._part_path(path), sizes[path])
                    return taken
            except BaseException:
                taken.release()
                self._drop_parts(taken)
                raise
        taken.release()
        return None

    def finish(self, path: str, descriptor: int) -> None:
        """Turn a .part that holds all of its file into the file, which the caller uses then."""
        with self._account():
            self._part_path(path).rename(self.file_path(path))
            lock(descriptor, shared=True)  # nobody can come between: they all need the account

    def abandon(self, path: str, descriptor: int) -> None:
        """Remove and close a .part that could not be filled."""
        with self._account():
            self._part_path(path).unlink(missing_ok=True)
            os.close(descriptor)

    def _take_present(self, path: str, taken: "Taken") -> bool:
        """Whether the file is there, and then locked; one on its way makes `taken` incomplete."""
        with suppress(FileNotFoundError):
            descriptor = os.open(self.file_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            taken.files[path] = descriptor
            lock(descriptor, shared=True)  # none but a holder of the account locks it alone
            os.utime(descriptor)
            return True
        if self._part_path(path).exists() and not _remove_unless_locked(self._part_path(path)):
            taken.is_complete = False
        return False

    def _make_room(self, size: int) -> bool:
        """Remove files that nobody uses, least recently used first, until there is room for `size`
        bytes.
        """
        if not size:
            return True
        entries = [(file.stat(), Path(file.path)) for file in os.scandir(self.folder / _FILES)]
        used = sum(status.st_size for status, _ in entries) + self._metadata_bytes()
        for status, path in sorted(entries, key=lambda entry: (entry[0].st_mtime_ns, entry[1])):
            if used + size <= self.capacity:
                break
            if _remove_unless_locked(path):
                used -= status.st_size
        return used + size <= self.capacity

    def _metadata_bytes(self) -> int:
        return sum(file.stat().st_size for file in os.scandir(self.folder / _META))

    def _drop_parts(self, taken: "Taken") -> None:
        for path, descriptor in taken.parts.items():
            self._part_path(path).unlink(missing_ok=True)
            os.close(descriptor)

    def _part_path(self, path: str) -> Path:
        return self.file_path(path).with_suffix(PART)

    @contextmanager
    def _account(self) -> Iterator[None]:
        self.join()
        try:
            descriptor = os.open(self.folder / _ACCOUNT, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                lock(descriptor)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"{self.folder}: the folder for downloaded files: {error.strerror}"
            ) from error


class Taken:
    """Files that one reader has locked: those that are there, and .part files that it has to
    fill.
    """

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.parts: dict[str, int] = {}
        self.is_complete = True

    def release(self) -> None:
        """Unlock the files that are there."""
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files.clear()


def remove_leftovers(base: Path) -> None:
    """Remove the folders of runs that were killed: ours, and locked by nobody."""
    for folder in base.glob(PREFIX + "*"):
        with suppress(OSError):  # somebody else's, or gone just now
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            if not (folder / _IN_USE).exists():
                # killed before it was filled; refused where there is something in it
                folder.rmdir()
                continue
            descriptor = _locked(folder / _IN_USE)
            if descriptor is not None:
                _remove_folder(folder)
                os.close(descriptor)


def _make_folder(base: Path) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base.resolve()))
        with suppress(FileNotFoundError):  # taken for a killed run's before it was locked
            os.close(os.open(folder / _IN_USE, _NEW, 0o600))
            descriptor = _locked(folder / _IN_USE, shared=True)
            if descriptor is not None:
                _joined[folder] = descriptor
                return folder


def _remove_folder(folder: Path) -> None:
    for name in (_FILES, _META):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (LISTING, _ACCOUNT, _IN_USE):  # killed in between, it is still known for what it is
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _locked(path: Path, *, shared: bool = False) -> int | None:
    """A locked descriptor of the file that has this name; None where another holds it, or it is no
    more.

    A lock that is shared is waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        if lock(descriptor, shared=shared, wait=shared) and is_at(descriptor, path):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _create_part(path: Path, size: int) -> int:
    """A locked empty file of the full length, so that its room is counted."""
    descriptor = os.open(path, _NEW, 0o600)
    try:
        lock(descriptor, wait=False)
        os.ftruncate(descriptor, size)
    except BaseException:
        path.unlink()
        os.close(descriptor)
        raise
    return descriptor


def _remove_unless_locked(path: Path) -> bool:
    descriptor = _locked(path)
    if descriptor is None:
        return False
    path.unlink()
    os.close(descriptor)
    return True


def _file_name(path: str) -> str:
    """A file name for any path: nothing that a listing names can lead out of the folder.

    FFmpeg sees the suffix.
    """
    suffix = PurePosixPath(path).suffix
    return hashlib.sha256(path.encode()).hexdigest()[:40] + (
        suffix if suffix in SUFFIXES else ".bin"
    )

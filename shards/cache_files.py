"""The files of a disk cache: their names, their checksums, the locks on them, the marker, the account of bytes.

    FOLDER/CACHEDIR.TAG                                     whose folder this is, for people and backups too
    FOLDER/roboshard-cache/account                          bytes in use; who changes them holds its lock
    FOLDER/roboshard-cache/3f7/<sha256>-<offset>-<length>   an entry: the bytes, then MAGIC and their CRC32C
    FOLDER/roboshard-cache/3f7/....part                     an entry being made, locked by its maker

Functions here raise plain OSError where the file system refuses; only `claim_folder` speaks to users.
"""

import errno
import fcntl
import os
import re
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from roboshard.shards.errors import OptionError, StorageError

TAG = "CACHEDIR.TAG"
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"  # https://bford.info/cachedir/
OWNER = b"created by roboshard"
TAG_TEXT = (
    SIGNATURE
    + b"\n# This file is a cache directory tag created by roboshard.\n"
    + (b"# The folder holds copies of remote bytes. It may be removed whenever no run uses it.\n")
)
HOME = "roboshard-cache"
"""All that the cache ever removes lies in this sub-folder."""
ACCOUNT = "account"
PART = ".part"

TRAILER = struct.Struct("<4sI")
"""MAGIC and the CRC32C of name and bytes. A trailer, as it is written and read with the bytes, on any file system."""
MAGIC = b"RSC1"
ACCOUNT_RECORD = struct.Struct("<4sQ16sI")
"""MAGIC, bytes in use, the machine's boot, CRC32C of all before."""
OVERHEAD = len(TAG_TEXT) + ACCOUNT_RECORD.size
"""Bytes of marker and account."""

LOCK_SECONDS = 10.0
"""Longest wait for folder and account, which are held for moments, or while thousands of entries are removed."""
FLAGS = (
    os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
)  # links are not followed; a FIFO cannot make an open wait
_NAME = re.compile(r"([0-9a-f]{64})-(0|[1-9][0-9]{0,18})-([1-9][0-9]{0,18})(\.part)?")
_BUCKET = re.compile("[0-9a-f]{3}")


class CacheKey(NamedTuple):
    """What was read: the SHA-256 (64 hex digits) of the whole object, and the offset in it in bytes."""

    sha256: str
    offset: int


def entry_name(key: CacheKey, length: int) -> str:
    """The file name of an entry. Raises OptionError for what is no hash, offset or length."""
    name = f"{key.sha256}-{key.offset}-{length}"
    if not (match := _NAME.fullmatch(name)) or match[4]:
        raise OptionError(
            f"{name!r}: no cache key; it takes 64 lower-case hex digits, an offset and a length above 0"
        )
    return name


def entry_key(name: str) -> tuple[CacheKey, int] | None:
    """Key and length behind the name of an entry or of one being made; None for any other name."""
    match = _NAME.fullmatch(name)
    return (CacheKey(match[1], int(match[2])), int(match[3])) if match else None


def bucket_name(name: str) -> str:
    """One of 4096 sub-folders: a million entries are 250 in each, also where they are all of one shard."""
    return f"{crc32c(name.encode()) & 0xFFF:03x}"


# -- Descriptors and locks -------------------------------------------------------------------------------------

_open: set[int] = set()
_guard = threading.Lock()


def _after_fork_in_child() -> None:
    # A child forked while another thread holds a lock would hold it too, and longer than its owner.
    for descriptor in _open:
        os.close(descriptor)
    _open.clear()
    _guard.release()


os.register_at_fork(
    before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_after_fork_in_child
)


@contextmanager
def opened(name: str | Path, flags: int, parent: int | None = None) -> Iterator[int]:
    """A descriptor, closed at the end, and in forked children at once."""
    with _guard:
        descriptor = os.open(name, flags | FLAGS, 0o666, dir_fd=parent)
        _open.add(descriptor)
    try:
        yield descriptor
    finally:
        with _guard:
            if descriptor in _open:
                _open.remove(descriptor)
                os.close(descriptor)


@contextmanager
def opened_home(folder: Path, *, make: bool = False) -> Iterator[int]:
    """The sub-folder that holds everything."""
    if make:
        _make_folder(str(folder / HOME), None)
    with opened(folder / HOME, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        yield descriptor


@contextmanager
def opened_bucket(folder: Path, name: str, *, make: bool = False) -> Iterator[int]:
    """The sub-folder that an entry lies in."""
    with opened_home(folder, make=make) as home:
        if make:
            _make_folder(bucket_name(name), home)
        with opened(bucket_name(name), os.O_RDONLY | os.O_DIRECTORY, home) as descriptor:
            yield descriptor


def _make_folder(name: str, parent: int | None) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)


def locked(descriptor: int, seconds: float) -> bool:
    """Lock an open file against every other opening of it, in any thread or process; False when not within `seconds`.

    The kernel lets go of the lock when its process ends, however it ends. Waits in small steps, as a wait in the
    kernel could not end in time.
    """
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        else:
            return True
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def unlocked(descriptor: int) -> None:
    """Let go of a lock before the descriptor is closed."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_at(descriptor: int, name: str, parent: int) -> bool:
    """Whether an open file is still the one that has this name."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


# -- Entries ---------------------------------------------------------------------------------------------------


def read_entry(descriptor: int, name: str, length: int) -> bytes | None:
    """The bytes of an open entry; None unless all of it is what was written under this name."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", name)
    if found.st_size != length + TRAILER.size:
        return None
    data = _pread(descriptor, length, 0)
    trailer = _pread(descriptor, TRAILER.size, length)
    return data if len(data) == length and trailer == _trailer(name, data) else None


def write_entry(descriptor: int, name: str, data: bytes | memoryview) -> None:
    """Fill a file with an entry. It is not synced: what a power cut tears, its checksum shows."""
    left = memoryview(data)
    offset = 0
    while offset < len(data):
        offset += os.pwrite(descriptor, left[offset:], offset)
    os.pwrite(descriptor, _trailer(name, data), offset)


def _trailer(name: str, data: bytes | memoryview) -> bytes:
    return TRAILER.pack(MAGIC, crc32c(data, crc32c(name.encode())))


def _pread(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length and (
        more := os.pread(descriptor, length - len(data), offset + len(data))
    ):
        data += more  # the kernel reads 2 GiB at a time at most
    return data


# -- The folder ------------------------------------------------------------------------------------------------


def claim_folder(folder: Path) -> None:
    """Make the folder and mark it, unless it is marked; check that locks work in it.

    Raises:
        StorageError: it cannot be made or opened.
        OptionError: it holds what no cache wrote; or locks do not work, as in some network folders.
        OSError: the marker cannot be written.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The folder itself may well be a link, as its user named it; hence the dot.
            descriptor = held.enter_context(opened(f"{folder}/.", os.O_RDONLY | os.O_DIRECTORY))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"{folder}: no folder for a cache can be made or opened here: {reason}"
            ) from error
        _lock_folder(folder, descriptor)
        text = _read_tag(descriptor)
        if text is not None and text.startswith(SIGNATURE) and OWNER in text:
            return
        others = sorted(set(os.listdir(descriptor)) - {TAG})
        if others or text:  # an empty marker is one whose writer was killed
            raise OptionError(
                f"{folder}: holds {others[0] if others else TAG}, which no cache of roboshard wrote, so no cache is "
                f"kept here; give a new or an empty folder, such as {folder / 'roboshard'}"
            )
        with opened(TAG, os.O_WRONLY | os.O_CREAT, descriptor) as tag:
            os.pwrite(tag, TAG_TEXT, 0)


def _lock_folder(folder: Path, descriptor: int) -> None:
    remedy = "give a folder on a disk of this machine"
    try:
        if not locked(descriptor, LOCK_SECONDS):
            raise StorageError(
                f"{folder}: another process has held its lock for {LOCK_SECONDS:.0f} s"
            )
        with opened(f"{folder}/.", os.O_RDONLY | os.O_DIRECTORY) as second:
            excludes = not locked(second, 0)
    except StorageError:
        raise
    except OSError as error:
        raise OptionError(
            f"{folder}: a cache needs locks, which fail here ({error.strerror}); {remedy}"
        ) from error
    if not excludes:
        raise OptionError(f"{folder}: a cache needs locks, which have no effect here; {remedy}")


def _read_tag(folder: int) -> bytes | None:
    try:
        with opened(TAG, os.O_RDONLY, folder) as descriptor:
            return os.pread(descriptor, 4096, 0)
    except FileNotFoundError:
        return None
    except OSError:  # a link, a folder: nothing of ours
        return b"?"


class Account:
    """The number of bytes in use, as written down. Only for the holder of its lock."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> int | None:
        """Bytes in use, at least; None where that is not known and the files must be counted."""
        record = os.pread(self._descriptor, ACCOUNT_RECORD.size, 0)
        if len(record) != ACCOUNT_RECORD.size:
            return None
        magic, used, boot, crc = ACCOUNT_RECORD.unpack(record)
        return int(used) if (magic, boot, crc) == (MAGIC, _boot(), crc32c(record[:-4])) else None

    def write(self, used: int) -> None:
        """Write down the bytes in use: before files grow and after they go, so that it never says too little."""
        record = ACCOUNT_RECORD.pack(MAGIC, max(0, used), _boot(), 0)
        os.pwrite(self._descriptor, record[:-4] + crc32c(record[:-4]).to_bytes(4, "little"), 0)


@contextmanager
def opened_account(home: int) -> Iterator[Account]:
    """The account, locked. Raises TimeoutError where that takes longer than LOCK_SECONDS."""
    while True:
        with opened(ACCOUNT, os.O_RDWR | os.O_CREAT, home) as descriptor:
            if not locked(descriptor, LOCK_SECONDS):
                raise TimeoutError(
                    errno.ETIMEDOUT, "another process holds the lock of the cache", ACCOUNT
                )
            if is_at(descriptor, ACCOUNT, home):  # else someone emptied the folder meanwhile
                yield Account(descriptor)
                return


@cache
def _boot() -> bytes:
    """The machine's present boot: what was written down before a power cut may be older than the files."""
    try:
        return bytes.fromhex(
            Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "")
        )[:16]
    except (OSError, ValueError):
        return bytes(16)


class Found(NamedTuple):
    """A file of the cache, as a scan found it; sorts by last use."""

    used_ns: int
    size: int
    name: str


def scan(home: int) -> Iterator[Found]:
    """Every entry, and every part whose maker lives. The parts of dead makers are removed on the way.

    Under the lock of the account, without which no file grows, gets its name or goes.
    """
    for bucket in filter(_BUCKET.fullmatch, os.listdir(home)):
        try:
            with (
                opened(bucket, os.O_RDONLY | os.O_DIRECTORY, home) as descriptor,
                os.scandir(descriptor) as files,
            ):
                for file in files:
                    if (
                        not _NAME.fullmatch(file.name)
                        or bucket_name(file.name.removesuffix(PART)) != bucket
                    ):
                        continue
                    try:
                        found = file.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISREG(found.st_mode) and not (
                        file.name.endswith(PART) and _removed_if_dead(file.name, descriptor)
                    ):
                        yield Found(found.st_mtime_ns, found.st_size, file.name)
        except (FileNotFoundError, NotADirectoryError):
            continue


def _removed_if_dead(part: str, bucket: int) -> bool:
    try:
        with opened(part, os.O_RDWR, bucket) as descriptor:
            if not locked(descriptor, 0) or not is_at(descriptor, part, bucket):
                return False
            os.unlink(part, dir_fd=bucket)
            return True
    except OSError:  # gone meanwhile, or another user's
        return False

"""The folder of a disk cache: the marker that says whose it is, the account of its bytes, and what
lies in it.

Functions here raise plain OSError where the file system refuses; only `claim_folder` speaks to
users.
"""

import errno
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from roboshard.common.errors import OptionError, StorageError
from roboshard.storage.cache.files import (
    ENTRY_NAME,
    PART,
    bucket_name,
    opened,
)
from roboshard.storage.locks import is_at, lock_within

TAG = "CACHEDIR.TAG"
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"  # https://bford.info/cachedir/
OWNER = b"created by roboshard"
TAG_TEXT = (
    SIGNATURE
    + b"\n# This file is a cache directory tag created by roboshard.\n"
    + (b"# The folder holds copies of remote bytes. It may be removed whenever no run uses it.\n")
)
ACCOUNT = "account"
ACCOUNT_RECORD = struct.Struct("<4sQ16sI")
"""ACCOUNT_MAGIC, bytes in use, the machine's boot, CRC32C of all before."""
ACCOUNT_MAGIC = b"RSC1"
OVERHEAD = len(TAG_TEXT) + ACCOUNT_RECORD.size
"""Bytes of marker and account."""

LOCK_SECONDS = 10.0
"""Longest wait for folder and account, which are held for moments, or while thousands of entries
are removed.
"""
_BUCKET = re.compile("[0-9a-f]{3}")


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
                f"{folder}: holds {others[0] if others else TAG}, which no cache of roboshard "
                "wrote, so no cache is kept here; give a new or an empty folder, such as "
                f"{folder / 'roboshard'}"
            )
        with opened(TAG, os.O_WRONLY | os.O_CREAT, descriptor) as tag:
            os.pwrite(tag, TAG_TEXT, 0)


def _lock_folder(folder: Path, descriptor: int) -> None:
    remedy = "give a folder on a disk of this machine"
    try:
        if not lock_within(descriptor, LOCK_SECONDS):
            raise StorageError(
                f"{folder}: another process has held its lock for {LOCK_SECONDS:.0f} s"
            )
        with opened(f"{folder}/.", os.O_RDONLY | os.O_DIRECTORY) as second:
            excludes = not lock_within(second, 0)
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
        return (
            int(used)
            if (magic, boot, crc) == (ACCOUNT_MAGIC, _boot(), crc32c(record[:-4]))
            else None
        )

    def write(self, used: int) -> None:
        """Write down the bytes in use: before files grow and after they go, so that it never says
        too little.
        """
        record = ACCOUNT_RECORD.pack(ACCOUNT_MAGIC, max(0, used), _boot(), 0)
        os.pwrite(self._descriptor, record[:-4] + crc32c(record[:-4]).to_bytes(4, "little"), 0)


@contextmanager
def opened_account(home: int) -> Iterator[Account]:
    """The account, locked. Raises TimeoutError where that takes longer than LOCK_SECONDS."""
    while True:
        with opened(ACCOUNT, os.O_RDWR | os.O_CREAT, home) as descriptor:
            if not lock_within(descriptor, LOCK_SECONDS):
                raise TimeoutError(
                    errno.ETIMEDOUT, "another process holds the lock of the cache", ACCOUNT
                )
            if is_at(descriptor, ACCOUNT, home):  # else someone emptied the folder meanwhile
                yield Account(descriptor)
                return


@cache
def _boot() -> bytes:
    """The machine's present boot: what was written down before a power cut may be older than the
    files.
    """
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
    """Yield every entry, and every part whose maker lives.

    The parts of dead makers are removed on the way.

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
                        not ENTRY_NAME.fullmatch(file.name)
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
            if not lock_within(descriptor, 0) or not is_at(descriptor, part, bucket):
                return False
            os.unlink(part, dir_fd=bucket)
            return True
    except OSError:  # gone meanwhile, or another user's
        return False

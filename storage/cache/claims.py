"""The right to bring an entry of a cache: a part file that is locked, and becomes the entry."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from roboshard.storage.cache import files
from roboshard.storage.cache.files import PART, TRAILER
from roboshard.storage.cache.folder import Account, opened_account

Keep = Callable[[bytes | memoryview], None]
"""A callback that keeps the bytes of an entry."""


class Claim:
    """A part file that this thread has locked, and must rename or remove."""

    def __init__(self, folder: Path, bucket: int, part: int, name: str) -> None:
        """Hold a part file, open and locked.

        Args:
            folder: that of the cache.
            bucket: descriptor of the folder that the part is in.
            part: its own descriptor.
            name: of the entry that it becomes.
        """
        self._folder = folder
        self.bucket = bucket
        self.part = part
        self.name = name
        self.is_published = False

    def check(self) -> None:
        """Raise OSError for a part that no cache made: writing it could change a file elsewhere."""
        found = os.fstat(self.part)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise OSError(errno.EINVAL, "not a file of this cache", self.name + PART)

    def end(self) -> None:
        """Remove the part unless it has become an entry. Where that fails, a later scan does it."""
        if self.is_published:
            return
        with suppress(OSError), files.opened_home(self._folder) as home:
            if os.fstat(self.part).st_size == 0:  # nothing to account for, so nothing to wait for
                os.unlink(self.name + PART, dir_fd=self.bucket)
                return
            with opened_account(home) as account:
                remove_entry(self.part, self.name + PART, self.bucket, account)


def keep_nothing(_data: bytes | memoryview) -> None:
    """The `Keep` of what the cache cannot hold."""


def remove_entry(descriptor: int, name: str, bucket: int, account: Account) -> None:
    """Remove an entry or a part that is open, and take its bytes from the account."""
    expected = (files.entry_length(name) or 0) + TRAILER.size
    os.unlink(name, dir_fd=bucket)
    used = account.read()
    if used is not None:  # less may go than was counted, where others changed the file; never more
        account.write(used - min(os.fstat(descriptor).st_size, expected))

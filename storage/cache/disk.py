"""A bounded cache of remote bytes in a folder that all processes of a machine share.

What is asked for is named by where it lies and which version of it, so a name never means two
things, and nothing ever has to be invalidated. What it must be, the caller says by a checksum: the
cache believes neither its files nor what it is given.
One `get` on one page:

    look     the entry is there, whole, and what the caller expects: its bytes
    claim    else lock its part file; who has to wait for that reads, through the file that it has
             open, what the other wrote
    fetch    by the caller's function
    reserve  count the bytes, removing what was used longest ago, and let the part grow to full size
    write    then rename the part: an entry appears whole

Kernel locks end with their process, so a killed one holds nobody up; its part file is taken over or
removed. Whatever fails here costs speed only: the caller's function is called, and its bytes or its
error go back.
"""

import os
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from crc32c import crc32c

from roboshard.common.errors import OptionError, StorageError
from roboshard.storage.cache import files
from roboshard.storage.cache import folder as cache_folder
from roboshard.storage.cache.claims import Claim, Keep, keep_nothing, remove_entry
from roboshard.storage.cache.eviction import evict
from roboshard.storage.cache.files import PART, TRAILER, CacheKey, object_of
from roboshard.storage.cache.folder import OVERHEAD, opened_account
from roboshard.storage.cache.process import this_process
from roboshard.storage.locks import is_at, lock_within, unlock

__all__ = ["CacheKey", "DiskCache", "object_of"]

MIN_BYTES = 1 << 16
TOUCH_SECONDS = 10.0
"""How exactly the last use of an entry is noted, in seconds, so that hits rarely write."""
WAIT_SECONDS = 300.0
"""Longest wait for another's download, in seconds; then both download."""
CLAIM_ATTEMPTS = 4


@dataclass(frozen=True)
class DiskCache:
    """A cache in `folder`, with never more than `max_bytes` in it.

    Picklable; nothing stays open between calls.

    For any number of threads and processes of one machine, forked or spawned. They should agree on
    `max_bytes`: the smallest wins.

    Raises:
        OptionError: `max_bytes` is less than MIN_BYTES.
    """

    folder: Path
    max_bytes: int
    """Most bytes of all files together, half-written ones, marker and account included."""

    def __post_init__(self) -> None:
        if self.max_bytes < MIN_BYTES:
            raise OptionError(
                f"a cache of {self.max_bytes} bytes holds nothing; give {MIN_BYTES} at least"
            )
        object.__setattr__(
            self, "folder", Path(self.folder).absolute()
        )  # workers may stand elsewhere

    def open(self) -> None:
        """Make and check the folder now rather than at the first `get`, so that a wrong one is seen
        early.

        Raises:
            StorageError: the folder cannot be made or opened.
            OptionError: it holds what no cache wrote, or locks do not work in it.
        """
        try:
            self._open()
        except StorageError:
            raise
        except OSError as error:
            self._step_aside(error)

    def get(self, key: CacheKey, length: int, fetch: Callable[[], bytes]) -> bytes:
        """`length` bytes of the object from the key's offset: from the folder, or by `fetch`,
        called once at most.

        Bytes of the folder have the key's checksum. An entry that has not is removed, as a torn one
        is. What `fetch` returns goes back as it is, but is kept only if it is what the key says.

        Raises:
            OptionError: no key; or, at a process's first use, what `open` raises it for.
            Whatever `fetch` raises. What the cache itself runs into is a RuntimeWarning, once per
            process.
        """
        name = files.entry_name(key, length)
        if length + TRAILER.size > self.max_bytes - OVERHEAD:
            return fetch()
        with ExitStack() as held:
            found: bytes | Claim | None = None
            try:
                self._open()
                found = self._look(name, length, key) or self._claim(name, length, key, held)
            except OSError as error:
                self._step_aside(error)
            if isinstance(found, bytes):
                return found
            data = fetch()
            if found is not None and len(data) == length:
                try:
                    self._store(found, data, key)
                except OSError as error:
                    self._step_aside(error)
            return data

    def keep(self, key: CacheKey, data: bytes | memoryview) -> None:
        """Keep bytes that came along with others, if they are what the key says, unless they are
        there or coming.
        """
        with ExitStack() as held:
            keep = self.claim(key, len(data), held)
            if keep is not None:
                keep(data)

    def claim(self, key: CacheKey, length: int, held: ExitStack) -> Keep | None:
        """Say that an entry is coming: whoever asks for it waits until `held` ends.

        Returns:
            What keeps its bytes, if they are what the key says and can be kept; None: it is there,
            or another brings it.
        """
        name = files.entry_name(key, length)
        if length + TRAILER.size > self.max_bytes - OVERHEAD:
            return keep_nothing
        try:
            self._open()
            if self.holds(key, length):
                return None
            with ExitStack() as claiming:
                found = self._claim(name, length, key, claiming, wait_s=0)
                if not isinstance(found, Claim):
                    return None
                held.push(claiming.pop_all())
                return partial(self._keep, found, key)
        except OSError as error:
            self._step_aside(error)
            return keep_nothing

    def _keep(self, claim: Claim, key: CacheKey, data: bytes | memoryview) -> None:
        try:
            self._store(claim, data, key)
        except OSError as error:
            self._step_aside(error)

    def holds(self, key: CacheKey, length: int) -> bool:
        """Whether an entry is there, for planning only: it may be gone, or found damaged, a moment
        later.
        """
        # By its path, which costs a tenth of opening the folders one after the other; `get` trusts
        # no path.
        with suppress(OSError):
            os.stat(self.path(key, length), follow_symlinks=False)
            return True
        return False

    def path(self, key: CacheKey, length: int) -> Path:
        """Return the file of an entry, which begins with its bytes; the cache may remove it at any
        time.
        """
        name = files.entry_name(key, length)
        return self.folder / files.HOME / files.bucket_name(name) / name

    # -- Looking -----------------------------------------------------------------------------------

    def _open(self) -> None:
        """Once in each process: claim the folder; where the account is not known or over the cap,
        put it right.
        """
        if self in this_process().opened:
            return
        cache_folder.claim_folder(self.folder)
        this_process().opened.add(self)
        try:
            with (
                files.opened_home(self.folder, make=True) as home,
                opened_account(home) as account,
            ):
                used = account.read()
                if used is None or used > self.max_bytes:
                    evict(home, account, 0, self.max_bytes)
        except OSError as error:  # what cannot be written can still be read
            self._step_aside(error)

    def _look(self, name: str, length: int, key: CacheKey) -> bytes | None:
        try:
            with files.opened_bucket(self.folder, name) as bucket:
                return self._look_in(bucket, name, length, key)
        except FileNotFoundError:
            return None

    def _look_in(self, bucket: int, name: str, length: int, key: CacheKey) -> bytes | None:
        try:
            with files.opened(name, os.O_RDONLY, bucket) as descriptor:
                # Open, it can be read to its end whoever removes it.
                data = files.read_entry(descriptor, name, length, key.crc32c)
                if data is None:
                    self._drop(descriptor, name, bucket)
                elif not 0 <= time.time() - os.fstat(descriptor).st_mtime < TOUCH_SECONDS:
                    with suppress(
                        OSError
                    ):  # another user's, or a read-only disk: the order suffers, nothing else
                        os.utime(descriptor)
                return data
        except FileNotFoundError:
            return None

    def _drop(self, descriptor: int, name: str, bucket: int) -> None:
        with files.opened_home(self.folder) as home, opened_account(home) as account:
            if is_at(descriptor, name, bucket):
                remove_entry(descriptor, name, bucket, account)

    # -- One download, however many ask ------------------------------------------------------------

    def _claim(
        self,
        name: str,
        length: int,
        key: CacheKey,
        held: ExitStack,
        wait_s: float = WAIT_SECONDS,
    ) -> bytes | Claim | None:
        """The right to download, until `held` ends; the bytes, if another did; None: download, and
        keep nothing.
        """
        bucket = held.enter_context(files.opened_bucket(self.folder, name, make=True))
        for _ in range(CLAIM_ATTEMPTS):
            with ExitStack() as attempt:
                part = attempt.enter_context(
                    files.opened(name + PART, os.O_RDWR | os.O_CREAT, bucket)
                )
                at_once = lock_within(part, 0)
                if not at_once and (not wait_s or not lock_within(part, wait_s)):
                    return None
                if is_at(part, name + PART, bucket):
                    claim = Claim(self.folder, bucket, part, name)
                    claim.check()
                    attempt.callback(claim.end)
                    if (data := self._look_in(bucket, name, length, key)) is not None:
                        return data  # written after the first look
                    held.push(attempt.pop_all())
                    return claim
                if not at_once:
                    # The one who had it has ended. If well, this is the entry itself, whatever
                    # became of its name since, or it was there already; if not, everyone who
                    # waited tries alone and at once, not one after the other.
                    unlock(part)
                    brought = files.read_entry(part, name, length, key.crc32c)
                    return brought or self._look_in(bucket, name, length, key)
            # A scan removed the part as a dead one's, between its opening and its lock; or its
            # entry is ready.
            if (data := self._look_in(bucket, name, length, key)) is not None:
                return data
        return None

    # -- Writing -----------------------------------------------------------------------------------

    def _store(self, claim: Claim, data: bytes | memoryview, key: CacheKey) -> None:
        checksum = crc32c(data)
        if key.crc32c not in (None, checksum):
            return
        size = len(data) + TRAILER.size
        with files.opened_home(self.folder) as home, opened_account(home) as account:
            grows = max(0, size - os.fstat(claim.part).st_size)
            used = account.read()
            if used is None or used + grows > self.max_bytes:
                used = evict(home, account, grows, self.max_bytes)
            if used + grows > self.max_bytes:
                return
            account.write(used + grows)
            try:
                os.ftruncate(claim.part, size)  # from here on a scan counts it whole
            except OSError:
                account.write(used)
                raise
        files.write_entry(claim.part, claim.name, data, checksum)
        # Under the lock, or a scan that runs meanwhile could miss the file under both names.
        with files.opened_home(self.folder) as home, opened_account(home):
            os.rename(
                claim.name + PART, claim.name, src_dir_fd=claim.bucket, dst_dir_fd=claim.bucket
            )
            claim.is_published = True

    def _step_aside(self, error: OSError) -> None:
        if this_process().warns(self.folder):
            why = error.strerror or error
            text = f"{self.folder}: the cache is of no use for now ({why}); bytes are downloaded"
            warnings.warn(text, RuntimeWarning, stacklevel=3)

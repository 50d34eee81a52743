"""What a kind of storage can do: `Store` reads, `WritableStore` writes too.

One class a backend has both.

Nothing is believed because a call returned. A read is the bytes that were asked for, or an error. A
file counts as sent when the storage, asked again, lists it with the right size and a hash of its
content that fits; where the storage keeps no such hash, the content is read back.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, TypeVar

from roboshard.common.errors import MissingError, StorageError
from roboshard.storage.content import StoredFile, Upload, fits_hash, hash_of, sha256_of
from roboshard.storage.retry import READING, WRITING, AttemptError, RetryBudget, RetryPolicy, retry
from roboshard.storage.urls import join, redacted

READ_BACK_BYTES = 8 << 20

Result = TypeVar("Result")


class Store(ABC):
    """A file, or a folder of files, by its URL. Opens nothing until it is used; safe for threads.

    Paths are relative to the URL; an empty one is the URL itself.
    """

    folders_exist: bool = True
    """Whether an empty folder exists. Where it does not, an empty listing means that there is no
    such folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def at(self, path: str) -> str:
        """Return the URL of a path below the store's own."""
        return join(self.url, path) if path else self.url

    @abstractmethod
    def size(self, path: str = "", *, policy: RetryPolicy = READING) -> int:
        """Size of a file in bytes. Raises MissingError, StorageError."""

    @abstractmethod
    def read_range(
        self,
        path: str,
        offset: int,
        length: int,
        *,
        total: int | None = None,
        policy: RetryPolicy = READING,
    ) -> bytes:
        """Exactly `length` bytes from `offset` of a file that must have `total` bytes, where that
        is known.

        Raises DamageError where it ends before, has another size or changes while it is read;
        MissingError, StorageError.
        """

    def read_all(self, path: str, max_bytes: int, *, policy: RetryPolicy = READING) -> bytes:
        """A whole file of at most `max_bytes`; a larger one is refused before it is read."""
        size = self.size(path, policy=policy)
        if size > max_bytes:
            raise StorageError(
                f"{redacted(self.at(path))}: {size} bytes, more than the {max_bytes} that such a "
                "file may have"
            )
        return self.read_range(path, 0, size, policy=policy)

    @abstractmethod
    def files(self, *, policy: RetryPolicy = READING) -> dict[str, StoredFile]:
        """Every file under the URL, by path.

        Raises MissingError where there is no such place, StorageError.
        """

    def list_files(self, *, policy: RetryPolicy = READING) -> dict[str, int]:
        """Size in bytes of every file under the URL, by path; hidden files do not count.

        Raises MissingError where there is no such folder, StorageError.
        """
        sizes = {
            path: file.size
            for path, file in self.files(policy=policy).items()
            if not path.rpartition("/")[2].startswith(".")
        }
        if not sizes and not self.folders_exist:
            raise MissingError(f"{redacted(self.url)}: no such folder, or nothing in it")
        return dict(sorted(sizes.items()))

    def forget(self, path: str = "") -> None:  # noqa: B027 - few remember anything
        """Ask anew next time: what this process remembers of a file did not serve, or is
        replaced.
        """

    def chunks(self, path: str, start: int, end: int, chunk: int) -> Iterator[bytes]:
        """Bytes [start, end) of a file in order, `chunk` at a time, so that memory does not grow
        with the range.
        """
        for offset in range(start, end, chunk):
            yield self.read_range(path, offset, min(chunk, end - offset))


class WritableStore(Store):
    """A store that files can be sent to."""

    max_batch_files: ClassVar[int] = 1
    """Files of one `put` that are best sent together."""
    max_batch_bytes: ClassVar[int] = 1 << 30
    max_jobs: ClassVar[int] = 64
    """Calls of `put` at once from which the storage gains."""
    is_hub: ClassVar[bool] = False

    # -- What a kind of storage does ---------------------------------------------------------------

    @abstractmethod
    def create(self, *, private: bool) -> None:
        """Make the bucket, repository or folder where it is missing; leave an existing one as it
        is.
        """

    @abstractmethod
    def _look(self, paths: Sequence[str]) -> dict[str, StoredFile]:
        """Return those of these files that are there, as they are now, by path."""

    @abstractmethod
    def _send(self, uploads: Sequence[Upload]) -> None:
        """Send each file, replacing what is there; each appears whole or not at all."""

    @abstractmethod
    def _remove(self, paths: Sequence[str]) -> None:
        """Remove files that are there."""

    @abstractmethod
    def _explained(self) -> AbstractContextManager[None]:
        """Turns what the client library raises inside into an AttemptError."""

    def hash_kind(self, upload: Upload) -> str | None:  # noqa: ARG002 - for repositories it depends on the file
        """Which kind of hash the storage states of a file that was sent; None: it states none."""
        return None

    # -- What all of them then can -----------------------------------------------------------------

    def look(self, paths: Sequence[str]) -> dict[str, StoredFile]:
        """Return those of these files that are there, by path."""
        return self._retried(lambda: self._look(paths), "cannot be looked into") if paths else {}

    def put(self, uploads: Sequence[Upload]) -> dict[str, StoredFile]:
        """Send files; return when each has been seen there with the right size and content.

        Only those that are not there then are sent again, whatever the storage said of the others.

        Raises:
            StorageError: naming URL, cause and remedy.
        """
        found: dict[str, StoredFile] = {}

        def attempt() -> None:
            missing = [upload for upload in uploads if upload.path not in found]
            failure: AttemptError | None = None
            try:
                with self._explained():
                    self._send(missing)
            except AttemptError as error:
                if error.tries is not None:
                    raise
                failure = error
            seen = self._look([upload.path for upload in missing])
            for upload in missing:
                if upload.path in seen and self.matches(upload, seen[upload.path]):
                    found[upload.path] = seen[upload.path]
            wrong = [upload.path for upload in missing if upload.path not in found]
            if wrong:
                failure = failure or AttemptError(
                    "is not there with the bytes that were sent (Is something else writing here?)"
                )
                failure.where = redacted(self.at(wrong[0]))
                raise failure

        self._retried(attempt, "cannot be written")
        return found

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; return when they are seen to be gone.

        Those that are not there are no error.
        """

        def attempt() -> None:
            there = list(self._look(paths))
            if there:
                self._remove(there)
                left = self._look(there)
                if left:
                    raise AttemptError(f"{min(left)} is still there after it was removed")

        if paths:
            self._retried(attempt, "cannot be removed")

    def sha256(self, path: str) -> str:
        """SHA-256 of a file's content, read back."""
        self.forget(path)
        digest = hashlib.sha256()
        for chunk in self.chunks(path, 0, self.size(path), READ_BACK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()

    def matches(self, upload: Upload, found: StoredFile) -> bool:
        """Whether what is there has the content of `upload`."""
        if upload.size != found.size:
            return False
        fits = fits_hash(upload, found)
        return self.sha256(upload.path) == sha256_of(upload) if fits is None else fits

    def content_hash(self, upload: Upload) -> str | None:
        """The `StoredFile.hash` that this content is expected to have here; None where that cannot
        be told.
        """
        kind = self.hash_kind(upload)
        return kind and f"{kind}:{hash_of(upload, kind)}"

    def _retried(self, call: Callable[[], Result], doing: str) -> Result:
        """The result of a call of the client library, tried again where that may help."""

        def attempt() -> Result:
            with self._explained():
                return call()

        return retry(redacted(self.url), RetryBudget(WRITING), attempt, doing=doing)

"""What all places that a dataset can be published to have in common: send, look what is there, send again.

Nothing is believed because a call returned. A file counts as sent when the storage, asked again, lists it with the
right size and a hash of its content that fits; where the storage keeps no such hash, the content is read back.
"""

import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from roboshard.common import interrupts
from roboshard.common.errors import MissingError, RoboshardError, StorageError
from roboshard.storage.urls import join, redacted

ATTEMPTS = 6
MAX_WAIT_S = 30.0
MAX_RETRY_AFTER_S = 300.0
CHUNK = 1 << 20
MIN_PART_BYTES = 64 << 20
MAX_PARTS = 9000  # S3 allows 10,000
SINGLE_PUT_BYTES = 5 << 30

Content = Path | bytes
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as its storage describes it."""

    size: int
    hash: str | None
    """Of the content: "xet:", "sha256:", "git:", "md5:" or "s3:" and hex digits. None: the storage keeps none."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Something to send."""

    path: str
    """Where to, under the target's URL."""
    content: Content
    """A local file, or bytes."""
    sha256: str | None = None
    """Of the content, where the caller has taken it."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


class TransientError(StorageError):
    """An attempt that failed in a way that the next one may not."""

    retry_after_s: float | None = None
    """What the server asked for."""


class Target(ABC):
    """A place to publish to, by URL. Holds no connection until it is used; safe for threads."""

    max_batch_files: ClassVar[int] = 1
    """Files of one `put` that are best sent together."""
    max_batch_bytes: ClassVar[int] = 1 << 30
    max_jobs: ClassVar[int] = 64
    """Calls of `put` at once from which the storage gains."""
    is_hub: ClassVar[bool] = False

    def __init__(self, url: str) -> None:
        """Publish below this URL."""
        self.url = url.rstrip("/") if url != "/" else url

    # -- What a kind of storage does --------------------------------------------------------------------------------

    @abstractmethod
    def create(self, *, private: bool) -> None:
        """Make the bucket, repository or folder where it is missing; leave an existing one as it is."""

    @abstractmethod
    def _list(self) -> dict[str, RemoteFile]:
        """All files, by path under the URL. FileNotFoundError: there is no such bucket, repository or folder."""

    @abstractmethod
    def _look(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        """Those of these files that are there, as they are now."""

    @abstractmethod
    def _send(self, uploads: Sequence[Upload]) -> None:
        """Send each, replacing what is there; each appears whole or not at all."""

    @abstractmethod
    def _remove(self, paths: Sequence[str]) -> None:
        """Remove files that are there."""

    @abstractmethod
    def _read_chunks(self, path: str) -> Iterator[bytes]:
        """A file's bytes in order."""

    @abstractmethod
    def _explained(self, error: Exception, doing: str) -> StorageError | MissingError:
        """What a client library raised, as an error of ours: TransientError where another attempt may help."""

    errors: ClassVar[tuple[type[Exception], ...]] = (OSError,)
    """What the client library raises."""

    # -- What all of them then can ----------------------------------------------------------------------------------

    def files(self) -> dict[str, RemoteFile]:
        """Every file under the URL, by path, in one listing. MissingError: nothing is there to list."""
        return self._retried(self._list, "cannot be listed")

    def look(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        """Those of these files that are there."""
        return self._retried(lambda: self._look(paths), "cannot be looked into") if paths else {}

    def put(self, uploads: Sequence[Upload]) -> dict[str, RemoteFile]:
        """Send files; return when each has been seen there with the right size and content.

        Only those that are not there then are sent again, whatever the storage said of the others.

        Raises:
            StorageError: naming URL, cause and remedy.
        """
        found: dict[str, RemoteFile] = {}

        def attempt() -> None:
            missing = [upload for upload in uploads if upload.path not in found]
            failure: Exception | None = None
            try:
                self._send(missing)
            except self.errors as error:
                failure = error
            # Raised outside of the handler: a traceback would show what the library said, secrets too.
            if failure and not isinstance(self._as_ours(failure, ""), TransientError):
                raise self._as_ours(failure, "cannot be written")
            seen = self._look([upload.path for upload in missing])
            for upload in missing:
                if upload.path in seen and self.matches(upload, seen[upload.path]):
                    found[upload.path] = seen[upload.path]
            wrong = [upload.path for upload in missing if upload.path not in found]
            if wrong and failure:
                raise self._as_ours(failure, "cannot be written", wrong[0])
            if wrong:
                raise TransientError(
                    f"{self._at(wrong[0])}: is not there with the bytes that were sent. Is something else writing "
                    "here? Run the same command again to send it again"
                )

        self._retried(attempt, "cannot be written")
        return found

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; return when they are seen to be gone. Those that are not there are no error."""

        def attempt() -> None:
            there = self._look(paths)
            if there:
                self._remove(list(there))
                left = self._look(list(there))
                if left:
                    raise TransientError(
                        f"{self._at(min(left))}: is still there after it was removed"
                    )

        if paths:
            self._retried(attempt, "cannot be removed")

    def read(self, path: str, max_bytes: int) -> bytes:
        """A whole small file. MissingError, or StorageError when it is larger than `max_bytes`."""

        def attempt() -> bytes:
            data = bytearray()
            for chunk in self._read_chunks(path):
                data += chunk
                if len(data) > max_bytes:
                    raise StorageError(
                        f"{self._at(path)}: more than the {max_bytes} bytes that such a file may have"
                    )
            return bytes(data)

        return self._retried(attempt, "cannot be read", path)

    def sha256(self, path: str) -> str:
        """SHA-256 of a file's content, read back."""

        def attempt() -> str:
            digest = hashlib.sha256()
            for chunk in self._read_chunks(path):
                digest.update(chunk)
            return digest.hexdigest()

        return self._retried(attempt, "cannot be read back", path)

    def matches(self, upload: Upload, found: RemoteFile) -> bool:
        """Whether what is there has the content of `upload`."""
        if upload.size != found.size:
            return False
        fits = fits_hash(upload, found)
        return self.sha256(upload.path) == sha256_of(upload) if fits is None else fits

    def content_hash(self, upload: Upload) -> str | None:
        """The `RemoteFile.hash` that this content is expected to have here; None where that cannot be told."""
        kind = self.hash_kind(upload)
        return kind and f"{kind}:{hash_of(upload, kind)}"

    def hash_kind(self, upload: Upload) -> str | None:  # noqa: ARG002 - for repositories it depends on the file
        """Which kind of hash this storage states."""
        return None

    def _at(self, path: str) -> str:
        return redacted(join(self.url, path) if path else self.url)

    def _as_ours(self, error: Exception, doing: str, path: str = "") -> StorageError | MissingError:
        if isinstance(error, StorageError | MissingError):
            return error
        return self._explained(error, f"{self._at(path)}: {doing}")

    def _retried(self, call: Callable[[], ResultT], doing: str, path: str = "") -> ResultT:
        def once() -> ResultT:
            interrupts.check()
            try:
                return call()
            except RoboshardError:
                raise
            except self.errors as error:
                failure = self._as_ours(error, doing, path)
            raise failure  # outside of the handler, as above

        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            retry=retry_if_exception_type(TransientError),
            sleep=interrupts.pause,
            reraise=True,
        )
        return retrying(once)


_backoff = wait_random_exponential(multiplier=0.5, max=MAX_WAIT_S)  # full jitter


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = (
        error.retry_after_s if isinstance(error, TransientError) and error.retry_after_s else 0.0
    )
    return min(asked, MAX_RETRY_AFTER_S) + _backoff(state)


# -- Hashes, as the storages take them -------------------------------------------------------------------------------


def fits_hash(upload: Upload, found: RemoteFile) -> bool | None:
    """Whether the content has the hash that the storage states; None where that cannot be told from the hash."""
    kind, _, stated = (found.hash or "").partition(":")
    if not kind:
        return None
    fits = hash_of(upload, kind) == stated
    # An S3 ETag is a hash of the content unless KMS encrypts it or somebody else chose the parts.
    return True if fits else None if kind == "s3" else False


def hash_of(upload: Upload, kind: str) -> str:
    """The content's hash, of a kind that `RemoteFile.hash` names."""
    if kind == "sha256":
        return sha256_of(upload)
    if kind == "xet":
        return xet_hash(upload.content)
    if kind == "s3":
        return s3_etag(upload.content, upload.size)
    if kind == "git":
        return _digest(
            upload.content, hashlib.sha1(b"blob %d\0" % upload.size, usedforsecurity=False)
        )
    return _digest(upload.content, hashlib.md5(usedforsecurity=False))


def sha256_of(upload: Upload) -> str:
    """SHA-256 of what is to be sent."""
    return upload.sha256 or _digest(upload.content, hashlib.sha256())


def xet_hash(content: Content) -> str:
    """The hash by which the Hub's storage knows this content."""
    import hf_xet  # noqa: PLC0415 - only those who publish on the Hub wait for it

    if isinstance(content, Path):
        return str(hf_xet.hash_files([str(content)])[0].hash)
    with tempfile.NamedTemporaryFile(prefix="roboshard-") as file:
        file.write(content)
        file.flush()
        return str(hf_xet.hash_files([file.name])[0].hash)


def part_bytes(size: int) -> int:
    """Bytes of a part of an S3 multipart upload of a file of this size."""
    return max(MIN_PART_BYTES, -(-size // MAX_PARTS))


def s3_etag(content: Content, size: int) -> str:
    """The ETag that S3 gives content which is sent in one piece, or in parts of `part_bytes`."""
    part = part_bytes(size)
    if size < min(SINGLE_PUT_BYTES, 2 * part):  # as s3fs decides
        return _digest(content, hashlib.md5(usedforsecurity=False))
    digests = []
    for start in range(0, size, part):
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in _chunks(content, start, min(part, size - start)):
            digest.update(chunk)
        digests.append(digest.digest())
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def md5_of_base64(text: str) -> str:
    """A base64 MD5, as Google Cloud Storage states it, as a RemoteFile hash."""
    return f"md5:{b64decode(text).hex()}"


def _digest(content: Content, digest: "hashlib._Hash") -> str:
    for chunk in _chunks(content, 0, None):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(content: Content, start: int, length: int | None) -> Iterable[bytes]:
    if isinstance(content, bytes):
        yield content[start:] if length is None else content[start : start + length]
        return
    with content.open("rb") as file:
        file.seek(start, os.SEEK_SET)
        while (length is None or length > 0) and (
            chunk := file.read(CHUNK if length is None else min(CHUNK, length))
        ):
            length = None if length is None else length - len(chunk)
            yield chunk

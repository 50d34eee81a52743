"""s3://, gs://, az:// and whatever else fsspec serves: the same promises, as far as fsspec lets
them be kept.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, TypeVar

from roboshard.common.errors import DamageError, MissingError, OptionError, StorageError
from roboshard.storage import filesystems
from roboshard.storage.api import WritableStore
from roboshard.storage.content import StoredFile, Upload, md5_of_base64, part_bytes
from roboshard.storage.filesystems import ShortError, opened
from roboshard.storage.retry import (
    READING,
    WRITING,
    AttemptError,
    RetryBudget,
    RetryPolicy,
    explained,
    retry,
)
from roboshard.storage.urls import redacted

PART = 8 << 20
"""Bytes of a part of a long range: what has come is kept when one breaks."""
MAX_CHECKED = 1 << 16
DOUBTED = 2
"""How often an answer that makes no sense is asked for before it is an error."""
S3 = {"s3", "s3a"}
GOOGLE = {"gs", "gcs"}
OBJECT_STORES = S3 | GOOGLE | {"abfs", "abfss", "az", "adl", "oss", "memory"}
"""Schemes of storages where an object appears whole, and folders are not made."""

Result = TypeVar("Result")


class FsspecStore(WritableStore):
    """Objects behind any URL that fsspec serves.

    On S3 a file of less than 128 MiB is one object whose ETag is its MD5; a larger one is sent in
    parts of 64 MiB, which give an ETag that can be foretold too. Where the ETag is something else
    (KMS keys, other parts) and on filesystems that state no hash, the content is read back after it
    was sent. Parts that a killed upload left of a file, which nobody sees but which cost, are
    removed before the file is sent again.
    """

    folders_exist = False

    def __init__(self, url: str) -> None:
        """Read and write at and below this URL; nothing is opened yet."""
        super().__init__(url)
        self._scheme = filesystems.scheme_of(url)

    # -- Reading -----------------------------------------------------------------------------------

    def size(self, path: str = "", *, policy: RetryPolicy = READING) -> int:
        """Size of an object in bytes."""
        return self._info_size(self.at(path), RetryBudget(policy))

    def read_range(
        self,
        path: str,
        offset: int,
        length: int,
        *,
        total: int | None = None,
        policy: RetryPolicy = READING,
    ) -> bytes:
        """Exactly `length` bytes from `offset`.

        `total` costs one request for each object and process, unless the range reaches the end: a
        byte more is asked for then, and must not be there.
        """
        url = self.at(path)
        budget = RetryBudget(policy, length)
        at_end = total is not None and length > 0 and offset + length == total
        if total is not None and not at_end:
            self._check_total(url, total, budget)
        parts = []
        for start in range(offset, offset + length, PART):
            end = min(start + PART, offset + length)
            parts.append(
                self._part(
                    url, range(start, end), offset + length, budget, at_end=at_end and end == total
                )
            )
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def files(self, *, policy: RetryPolicy = READING) -> dict[str, StoredFile]:
        """Every file under the URL, by path."""

        def find(system: Any, path: str, call: dict[str, Any]) -> dict[str, StoredFile]:
            system.invalidate_cache()
            prefix = f"{path.strip('/')}/"
            found = system.find(path, detail=True, **call)
            return {
                name.lstrip("/").removeprefix(prefix): self._described(info)
                for name, info in found.items()
                if info.get("type", "file") == "file" and name.strip("/") != path.strip("/")
            }

        return _asked(self.url, RetryBudget(policy), find, listing=True)

    def forget(self, path: str = "") -> None:
        """Ask for the size anew when it is read next."""
        url = self.at(path)
        with opened.lock:
            for known in [key for key in opened.checked if key[0] == url]:
                del opened.checked[known]

    def _part(
        self, url: str, part: range, reach: int, budget: RetryBudget, *, at_end: bool
    ) -> bytes:
        """A part of a range that reaches to `reach`, and with it to the object's end where
        `at_end`.
        """
        start, end = part.start, part.stop

        def read(system: Any, path: str, call: dict[str, Any]) -> bytes:
            data = bytes(system.cat_file(path, start=start, end=end + at_end, **call))
            if at_end and len(data) == end - start + 1:
                raise AttemptError(
                    f"more than the {end} bytes that are expected: replaced",
                    error=DamageError,
                    tries=DOUBTED,
                )
            said = f"{len(data)} bytes for a range of {end - start}"
            if len(data) > end - start:
                raise AttemptError(f"{said}: the server ignores Range", tries=DOUBTED)
            if len(data) < end - start:
                raise AttemptError(said, error=ShortError, tries=1)
            budget.advance(end, is_all=end == reach)
            return data

        said = ""
        for _ in range(DOUBTED):
            try:
                return _asked(url, budget, read)
            except ShortError as short:
                said = str(short)
            size = self._info_size(url, RetryBudget(budget.policy))
            if size < reach:
                raise DamageError(
                    f"{redacted(url)}: ends {reach - size} bytes before offset {reach}"
                )
        raise StorageError(said)

    def _check_total(self, url: str, total: int, budget: RetryBudget) -> None:
        if (url, total) in opened.checked:
            return
        found = self._info_size(url, budget)
        if found != total:
            raise DamageError(
                f"{redacted(url)}: {found} bytes where {total} are expected: cut off or replaced"
            )
        with opened.lock:
            if len(opened.checked) >= MAX_CHECKED:
                opened.checked.clear()
            opened.checked[url, total] = None

    def _info_size(self, url: str, budget: RetryBudget) -> int:
        def ask(system: Any, path: str, call: dict[str, Any]) -> int:
            info = system.info(path, **call)
            if info.get("type", "file") != "file" or not isinstance(info.get("size"), int):
                raise AttemptError("no such file (it is a folder)", error=MissingError, tries=1)
            return int(info["size"])

        return _asked(url, budget, ask)

    # -- Writing -----------------------------------------------------------------------------------

    @cached_property
    def _writing(self) -> tuple[Any, str]:
        return filesystems.writing(self.url)

    def _full(self, path: str) -> str:
        return f"{self._writing[1]}/{path}"

    def create(self, *, private: bool) -> None:
        """Make the folder, where the storage has folders.

        Buckets are not made: where they lie and who may read them is not ours to choose.
        """
        if private:
            raise OptionError(
                f"{redacted(self.url)}: --private is for the Hub; who may read this is set where "
                "it is kept"
            )
        if self._scheme not in OBJECT_STORES:
            self._retried(
                lambda: self._writing[0].makedirs(self._writing[1], exist_ok=True),
                "cannot be created",
            )

    def hash_kind(self, upload: Upload) -> str | None:  # noqa: ARG002
        """Return which hash is stated: ETags on S3, MD5 on Google Cloud Storage; None elsewhere."""
        return "s3" if self._scheme in S3 else "md5" if self._scheme in GOOGLE else None

    def _look(self, paths: Sequence[str]) -> dict[str, StoredFile]:
        system = self._writing[0]
        found = {}
        system.invalidate_cache()
        for path in paths:
            try:
                found[path] = self._described(system.info(self._full(path)))
            except FileNotFoundError:
                continue
        return found

    def _described(self, info: dict[str, Any]) -> StoredFile:
        stated = None
        if self._scheme in S3 and info.get("ETag"):
            stated = f"s3:{str(info['ETag']).strip(chr(34))}"
        elif self._scheme in GOOGLE and info.get("md5Hash"):
            stated = md5_of_base64(info["md5Hash"])
        return StoredFile(size=int(info["size"]), hash=stated)

    def _send(self, uploads: Sequence[Upload]) -> None:
        system = self._writing[0]
        for upload in uploads:
            full = self._full(upload.path)
            if self._scheme not in OBJECT_STORES:
                system.makedirs(full.rpartition("/")[0], exist_ok=True)
            if isinstance(upload.content, bytes):
                system.pipe_file(full, upload.content)
            elif self._scheme in S3:
                self._remove_parts(full)
                system.put_file(str(upload.content), full, chunksize=part_bytes(upload.size))
            else:
                system.put_file(str(upload.content), full)

    def _remove_parts(self, full: str) -> None:
        """Abort what killed uploads of this very object have left; without the right to, leave
        it.
        """
        call = self._writing[0].call_s3
        bucket, _, key = full.partition("/")
        try:
            left = call("list_multipart_uploads", Bucket=bucket, Prefix=key).get("Uploads", [])
            for one in left:
                if one["Key"] == key:
                    call("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=one["UploadId"])
        except (OSError, NotImplementedError):
            return

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._writing[0].rm_file(self._full(path))

    def _explained(self) -> AbstractContextManager[None]:
        return explained((Exception,), self._explain)  # every filesystem has its own

    def _explain(self, error: Exception) -> Exception:
        said = redacted(str(error).strip())
        cause = next(iter(said.splitlines()), type(error).__name__)
        return filesystems.explain(error, self.url, WRITING, cause)


def _asked(
    url: str,
    budget: RetryBudget,
    ask: Callable[[Any, str, dict[str, Any]], Result],
    *,
    listing: bool = False,
) -> Result:
    """What `ask` returns, given the filesystem, the path in it and arguments for each call of
    it.
    """
    policy = budget.policy
    limit = policy.connect_s + policy.stall_s + PART / policy.bytes_per_s

    def attempt() -> Result:
        with explained((Exception,), lambda error: filesystems.explain(error, url, policy)):
            system, path, shared = filesystems.reading(url, policy)
            return ask(
                system, path, {"timeout": policy.retry_s if listing else limit} if shared else {}
            )

    return retry(redacted(url), budget, attempt)

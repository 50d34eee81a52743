"""Publishing on the Hugging Face Hub: buckets and dataset repositories.

Works with huggingface_hub 1.6 and later, 2.x included. Credentials are where that library keeps them.
"""

import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub import errors as hub_errors
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined,unused-ignore]
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
    hf_raise_for_status,
)

from roboshard.common.errors import MissingError, OptionError, StorageError
from roboshard.storage.targets_base import CHUNK, RemoteFile, Target, TransientError, Upload
from roboshard.storage.urls import redacted

try:  # httpx2 from 2.0 on
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined,unused-ignore]
except ImportError:
    import httpx  # type: ignore[no-redef,import-not-found,unused-ignore]

BUCKET = re.compile(r"hf://buckets/(?P<id>[^/@?#]+/[^/@?#]+)(?:/(?P<prefix>[^?#]*))?")
DATASET = re.compile(
    r"hf://datasets/(?P<id>[^/@?#]+/[^/@?#]+)(?:@(?P<revision>[^/?#]+))?(?:/(?P<prefix>[^?#]*))?"
)
_STATUS_OF_XET = re.compile(r"HTTP status (?:client|server) error \((\d{3}) ")
PATHS_AT_ONCE = 100
_PASSING = {408, 409, 412, 425, 429}
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _ALL_OF_BATCH, _SERVER_ERROR = 401, 403, 404, 422, 500


class HubTarget(Target):
    """What buckets and repositories share."""

    is_hub = True
    errors: ClassVar[tuple[type[Exception], ...]] = (
        OSError,
        RuntimeError,
        ValueError,
        httpx.HTTPError,
        getattr(hub_errors, "XetError", OSError),  # of releases before 2.0
    )

    def __init__(self, url: str, pattern: re.Pattern[str]) -> None:
        """Take the URL apart."""
        super().__init__(url)
        match = pattern.fullmatch(self.url)
        if match is None:
            raise OptionError(
                f"{redacted(url)}: not a place on the Hub; write hf://buckets/OWNER/NAME[/FOLDER] or "
                "hf://datasets/OWNER/NAME[@BRANCH][/FOLDER]"
            )
        self.id = match["id"]
        self._prefix = (match["prefix"] or "").strip("/")
        self._parts = match.groupdict()

    def _full(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    def _own(self, full: str) -> str | None:
        """The path under the URL; None for a file that is not below it."""
        if not self._prefix:
            return full
        return (
            full.removeprefix(f"{self._prefix}/") if full.startswith(f"{self._prefix}/") else None
        )

    def _create_if_missing(
        self, exists: Callable[[], object], create: Callable[[], object]
    ) -> None:
        try:
            self._retried(exists, "cannot be looked into")
        except MissingError:
            self._retried(create, "cannot be created")

    def _download(self, route: str) -> Iterator[bytes]:
        session, url = get_session(), f"{HfApi().endpoint}/{route}"
        with session.stream(
            "GET", url, headers=build_hf_headers(), follow_redirects=True
        ) as response:
            if not response.is_success:
                response.read()
            hf_raise_for_status(response)
            yield from response.iter_bytes(CHUNK)

    def _explained(self, error: Exception, doing: str) -> StorageError | MissingError:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        said = redacted(" ".join(str(error).split()))
        cause = " ".join(said.split(" ")[:60]) or type(error).__name__
        if (
            isinstance(error, LocalTokenNotFoundError)
            or type(error).__name__ == "XetAuthorizationError"
        ):
            status = _UNAUTHORIZED
        if status is None and (told := _STATUS_OF_XET.search(str(error))):
            status = int(told[1])
        if status == _UNAUTHORIZED:
            return StorageError(
                f"{doing}: the Hub knows no such place, or does not accept the token, or got none ({cause}). "
                "Log in with `hf auth login`, or set HF_TOKEN to a token that may write there"
            )
        if status == _FORBIDDEN:
            return StorageError(
                f"{doing}: the token may not write there ({cause}). Log in with `hf auth login` as someone who may"
            )
        if status == _NOT_FOUND or (status is None and isinstance(error, FileNotFoundError)):
            return MissingError(f"{doing}: {cause}")
        permanent = isinstance(error, OfflineModeIsEnabled | HFValidationError | ValueError)
        if permanent and status not in _PASSING and not isinstance(error, JSONDecodeError):
            return StorageError(f"{doing}: {cause}")
        passes = (
            status is None
            or status in _PASSING
            or status >= _SERVER_ERROR
            or _is_of_batch(error, status)
        )
        if not passes:
            return StorageError(f"{doing}: the Hub answered {status}: {cause}")
        transient = TransientError(
            f"{doing}, after several attempts: {cause}. Run the same command again to go on from here"
        )
        after = response.headers.get("Retry-After", "") if response is not None else ""
        transient.retry_after_s = float(after) if after.isdigit() else None
        return transient


class BucketTarget(HubTarget):
    """A bucket. Operations of a batch are independent; releases before 1.33 do not tell of those that failed."""

    max_batch_files = 8
    max_batch_bytes = 256 << 20

    def __init__(self, url: str) -> None:
        """Publish in hf://buckets/OWNER/NAME[/FOLDER]."""
        super().__init__(url, BUCKET)

    def create(self, *, private: bool) -> None:
        """Make the bucket where it is missing."""
        self._create_if_missing(
            lambda: HfApi().bucket_info(self.id),
            lambda: HfApi().create_bucket(self.id, private=private or None, exist_ok=True),
        )

    def hash_kind(self, upload: Upload) -> str:  # noqa: ARG002
        """Xet hashes of every file."""
        return "xet"

    def _list(self) -> dict[str, RemoteFile]:
        entries = HfApi().list_bucket_tree(self.id, prefix=self._prefix or None, recursive=True)
        return self._described(entries)

    def _look(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        return self._described(
            HfApi().get_bucket_paths_info(self.id, [self._full(path) for path in paths])
        )

    def _described(self, entries: Any) -> dict[str, RemoteFile]:
        files = {self._own(e.path): e for e in entries if e.type == "file"}
        return {
            path: RemoteFile(size=e.size, hash=f"xet:{e.xet_hash}")
            for path, e in files.items()
            if path
        }

    def _send(self, uploads: Sequence[Upload]) -> None:
        with tempfile.TemporaryDirectory(prefix="roboshard-") as folder:
            add: list[tuple[str | Path | bytes, str]] = []
            for number, upload in enumerate(uploads):
                content = upload.content
                if isinstance(
                    content, bytes
                ):  # hf_xet takes the two kinds by different ways: use one
                    path = Path(folder) / str(number)
                    path.write_bytes(content)
                    content = path
                add.append((str(content), self._full(upload.path)))
            with _no_bars():
                HfApi().batch_bucket_files(self.id, add=add)

    def _remove(self, paths: Sequence[str]) -> None:
        HfApi().batch_bucket_files(self.id, delete=[self._full(path) for path in paths])

    def _read_chunks(self, path: str) -> Iterator[bytes]:
        return self._download(f"buckets/{self.id}/resolve/{quote(self._full(path))}")


class DatasetRepoTarget(HubTarget):
    """A dataset repository: every `put` is one commit, of which the Hub allows only some per hour."""

    max_batch_files = 100
    max_batch_bytes = 8 << 30
    max_jobs = 1

    def __init__(self, url: str) -> None:
        """Publish in hf://datasets/OWNER/NAME[@BRANCH][/FOLDER]."""
        super().__init__(url, DATASET)
        self._branch = unquote(self._parts["revision"] or "main")
        self._repo: dict[str, Any] = {"repo_id": self.id, "repo_type": "dataset"}

    def create(self, *, private: bool) -> None:
        """Make the repository, and the branch, where they are missing."""
        self._create_if_missing(
            lambda: HfApi().repo_info(**self._repo),
            lambda: HfApi().create_repo(**self._repo, private=private or None, exist_ok=True),
        )
        self._create_if_missing(
            lambda: HfApi().repo_info(**self._repo, revision=self._branch),
            lambda: HfApi().create_branch(**self._repo, branch=self._branch, exist_ok=True),
        )

    def hash_kind(self, upload: Upload) -> str:
        """SHA-256 of files that go through LFS, as tar files do; git's hash of others."""
        return "sha256" if upload.path.endswith(".tar") else "git"

    def _list(self) -> dict[str, RemoteFile]:
        HfApi().repo_info(**self._repo, revision=self._branch)
        try:
            entries = HfApi().list_repo_tree(
                **self._repo,
                path_in_repo=self._prefix or None,
                recursive=True,
                revision=self._branch,
            )
            return self._described(entries)
        except self.errors as error:
            if isinstance(self._as_ours(error, "cannot be listed"), MissingError):
                return {}  # the repository is there, so it is the folder that is not
            raise

    def _look(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        found: dict[str, RemoteFile] = {}
        for start in range(0, len(paths), PATHS_AT_ONCE):
            full = [self._full(path) for path in paths[start : start + PATHS_AT_ONCE]]
            found |= self._described(
                HfApi().get_paths_info(**self._repo, paths=full, revision=self._branch)
            )
        return found

    def _described(self, entries: Any) -> dict[str, RemoteFile]:
        found = {}
        for entry in entries:
            path = self._own(entry.path)
            if path and hasattr(entry, "size"):  # not a folder
                stated = f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git:{entry.blob_id}"
                found[path] = RemoteFile(size=entry.size, hash=stated)
        return found

    def _send(self, uploads: Sequence[Upload]) -> None:
        self._commit(
            [
                CommitOperationAdd(
                    self._full(u.path),
                    u.content if isinstance(u.content, bytes) else str(u.content),
                )
                for u in uploads
            ],
            f"Add {uploads[0].path}"
            + (f" and {len(uploads) - 1} more" if len(uploads) > 1 else ""),
        )

    def _remove(self, paths: Sequence[str]) -> None:
        operations = [CommitOperationDelete(self._full(path)) for path in paths]
        self._commit(
            operations,
            f"Remove {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""),
        )

    def _commit(
        self, operations: Sequence[CommitOperationAdd | CommitOperationDelete], message: str
    ) -> None:
        with _no_bars():
            HfApi().create_commit(
                **self._repo, operations=operations, commit_message=message, revision=self._branch
            )

    def _read_chunks(self, path: str) -> Iterator[bytes]:
        branch = quote(self._branch, safe="")
        return self._download(f"datasets/{self.id}/resolve/{branch}/{quote(self._full(path))}")


@contextmanager
def _no_bars() -> Iterator[None]:
    """The library's progress bars are off for all threads while one is in here: ours shows the whole."""
    with _bars.lock:
        if _bars.users == 0:
            _bars.were_on = not are_progress_bars_disabled()
            disable_progress_bars()
        _bars.users += 1
    try:
        yield
    finally:
        with _bars.lock:
            _bars.users -= 1
            if _bars.users == 0 and _bars.were_on:
                enable_progress_bars()


class _Bars:
    """Who keeps the library's progress bars off."""

    lock = threading.Lock()
    users = 0
    were_on = False


_bars = _Bars()


def _is_of_batch(error: Exception, status: int | None) -> bool:
    """Whether operations of a batch failed, each perhaps for a passing cause: from 1.33 on an error of its own."""
    return type(error).__name__ == "BucketBatchError" or status == _ALL_OF_BATCH

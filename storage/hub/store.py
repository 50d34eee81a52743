"""Buckets and dataset repositories of the Hub: read by plain HTTP ranges, written by
huggingface_hub.

Works with huggingface_hub 1.6 and later, 2.x included. Credentials are where that library keeps
them.
"""

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from roboshard.common.errors import MissingError, StorageError
from roboshard.storage.api import WritableStore
from roboshard.storage.content import StoredFile, Upload
from roboshard.storage.http.redirects import Address, origin
from roboshard.storage.http.store import HttpStore, fetch
from roboshard.storage.hub.paths import HubPath, at_endpoint, quoted, refuse_offline
from roboshard.storage.retry import READING, RetryPolicy
from roboshard.storage.urls import redacted

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_PAGE_BYTES = 64 << 20
MAX_INFO_BYTES = 64 << 20
MAX_PAGES = 100_000
PATHS_AT_ONCE = 100
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NEXT = re.compile(r'<([^<>]+)>\s*;\s*rel="?next"?')


class HubStore(HttpStore, WritableStore):
    """A place on the Hub: what buckets and datasets share.

    The token goes to the endpoint alone, never to where it redirects.
    """

    is_hub = True

    def __init__(self, url: str) -> None:
        """Take the URL apart. Raises StorageError for what is no place on the Hub."""
        super().__init__(url)
        self.place = HubPath.of(url)
        self.folders_exist = not self.place.path

    def address(self, path: str = "") -> Address:
        """Return where the endpoint resolves a file."""
        refuse_offline(self.at(path))
        return at_endpoint(replace(self.place, path=self._full(path)).resolve)

    def files(self, *, policy: RetryPolicy = READING) -> dict[str, StoredFile]:
        """Every file under the URL, by path; none where a bucket or a repository has no such
        folder.
        """
        refuse_offline(self.url)
        address = at_endpoint(self.place.tree)
        files: dict[str, StoredFile] = {}
        for _ in range(MAX_PAGES):
            data, headers = fetch(self.url, address, MAX_PAGE_BYTES, policy)
            files |= self._on_page(data)
            link = _NEXT.search(
                {name.lower(): value for name, value in headers.items()}.get("link", "")
            )
            following = "" if link is None else urljoin(address.url, link[1])
            if origin(following) != origin(address.url) or following == address.url:
                break
            address = Address(following, address.authorization, address.remedy)
        return files

    def _on_page(self, data: bytes) -> dict[str, StoredFile]:
        """The files on one page of a listing."""
        page = _json(self.url, data)
        if not isinstance(page, list):
            raise StorageError(f"{redacted(self.url)}: the Hub's listing is none")
        files = {}
        for entry in page:
            kind, full, size = (entry.get(name) for name in ("type", "path", "size"))
            if kind == "file" and isinstance(full, str) and isinstance(size, int):
                path = self._own(full)
                if path:
                    files[path] = StoredFile(size=size, hash=self._stated(entry))
        return files

    @abstractmethod
    def _stated(self, entry: dict[str, Any]) -> str | None:
        """The hash that a listing states of a file."""

    def _full(self, path: str) -> str:
        return "/".join(filter(None, (self.place.path, path)))

    def _own(self, full: str) -> str | None:
        """The path under the URL; None for a file that is not below it."""
        prefix = f"{self.place.path}/" if self.place.path else ""
        return full.removeprefix(prefix) if full.startswith(prefix) else None

    @property
    def _api(self) -> "HfApi":
        """huggingface_hub's client, for which readers need not wait."""
        from huggingface_hub import HfApi  # noqa: PLC0415

        return HfApi()

    def _explained(self) -> AbstractContextManager[None]:
        from roboshard.storage.hub import client  # noqa: PLC0415 - slow

        return client.explained()

    def _create_if_missing(
        self, exists: Callable[[], object], create: Callable[[], object]
    ) -> None:
        try:
            self._retried(exists, "cannot be looked into")
        except MissingError:
            self._retried(create, "cannot be created")


class BucketStore(HubStore):
    """A bucket of the Hub.

    Operations of a batch are independent; releases before 1.33 do not tell of those that failed.
    """

    max_batch_files = 8
    max_batch_bytes = 256 << 20

    def create(self, *, private: bool) -> None:
        """Make the bucket where it is missing."""
        self._create_if_missing(
            lambda: self._api.bucket_info(self.place.id),
            lambda: self._api.create_bucket(self.place.id, private=private or None, exist_ok=True),
        )

    def hash_kind(self, upload: Upload) -> str:  # noqa: ARG002
        """Return "xet": buckets state Xet hashes of every file."""
        return "xet"

    def _stated(self, entry: dict[str, Any]) -> str | None:
        return f"xet:{entry.get('xetHash')}"

    def _look(self, paths: Sequence[str]) -> dict[str, StoredFile]:
        entries = self._api.get_bucket_paths_info(
            self.place.id, [self._full(path) for path in paths]
        )
        files = {self._own(entry.path): entry for entry in entries if entry.type == "file"}
        return {
            path: StoredFile(size=entry.size, hash=f"xet:{entry.xet_hash}")
            for path, entry in files.items()
            if path
        }

    def _send(self, uploads: Sequence[Upload]) -> None:
        from roboshard.storage.hub import client  # noqa: PLC0415 - slow

        client.send(self.place.id, {self._full(upload.path): upload.content for upload in uploads})

    def _remove(self, paths: Sequence[str]) -> None:
        self._api.batch_bucket_files(self.place.id, delete=[self._full(path) for path in paths])


class DatasetStore(HubStore):
    """A dataset repository: every `put` is one commit, of which the Hub allows only some per
    hour.
    """

    max_batch_files = 100
    max_batch_bytes = 8 << 30
    max_jobs = 1

    def __init__(self, url: str) -> None:
        """Take the URL apart: hf://datasets/OWNER/NAME[@REVISION][/PATH]."""
        super().__init__(url)
        self._revision = self.place.revision or "main"
        self._repo: dict[str, Any] = {"repo_id": self.place.id, "repo_type": "dataset"}

    def commit(self, *, policy: RetryPolicy = READING) -> str:
        """The commit that the revision means now.

        Raises MissingError where there is no such revision.
        """
        refuse_offline(self.url)
        api = at_endpoint(f"/api/datasets/{self.place.id}/revision/{quoted(self._revision)}")
        data, _ = fetch(self.url, api, MAX_INFO_BYTES, policy)
        answer = _json(self.url, data)
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise StorageError(f"{redacted(self.url)}: the Hub does not say which commit that is")
        return commit

    def pinned(self, *, policy: RetryPolicy = READING) -> str:
        """The URL with the commit that its revision means now, so that it cannot change while it is
        read.
        """
        if self.place.revision is not None and _COMMIT.fullmatch(self.place.revision):
            return self.url
        path = f"/{self.place.path}" if self.place.path else ""
        return f"hf://datasets/{self.place.id}@{self.commit(policy=policy)}{path}"

    def files(self, *, policy: RetryPolicy = READING) -> dict[str, StoredFile]:
        """Every file under the URL, by path; none where the repository has no such folder."""
        try:
            return super().files(policy=policy)
        except MissingError:
            if not self.place.path:
                raise
            self.commit(policy=policy)
            return {}  # the repository is there, so it is the folder that is not

    def create(self, *, private: bool) -> None:
        """Make the repository, and the branch, where they are missing."""
        self._create_if_missing(
            lambda: self._api.repo_info(**self._repo),
            lambda: self._api.create_repo(**self._repo, private=private or None, exist_ok=True),
        )
        self._create_if_missing(
            lambda: self._api.repo_info(**self._repo, revision=self._revision),
            lambda: self._api.create_branch(**self._repo, branch=self._revision, exist_ok=True),
        )

    def hash_kind(self, upload: Upload) -> str:
        """Return which hash is stated: SHA-256 of files that go through LFS, as tar files do; git's
        of others.
        """
        return "sha256" if upload.path.endswith(".tar") else "git"

    def _stated(self, entry: dict[str, Any]) -> str | None:
        lfs = entry.get("lfs")
        return f"sha256:{lfs.get('oid')}" if isinstance(lfs, dict) else f"git:{entry.get('oid')}"

    def _look(self, paths: Sequence[str]) -> dict[str, StoredFile]:
        found: dict[str, StoredFile] = {}
        for start in range(0, len(paths), PATHS_AT_ONCE):
            full = [self._full(path) for path in paths[start : start + PATHS_AT_ONCE]]
            entries: Sequence[Any] = self._api.get_paths_info(
                **self._repo, paths=full, revision=self._revision
            )
            for entry in entries:
                path = self._own(entry.path)
                if path and hasattr(entry, "size"):  # not a folder
                    stated = f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git:{entry.blob_id}"
                    found[path] = StoredFile(size=entry.size, hash=stated)
        return found

    def _send(self, uploads: Sequence[Upload]) -> None:
        self._commit(
            f"Add {uploads[0].path}"
            + (f" and {len(uploads) - 1} more" if len(uploads) > 1 else ""),
            add={self._full(upload.path): upload.content for upload in uploads},
        )

    def _remove(self, paths: Sequence[str]) -> None:
        self._commit(
            f"Remove {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""),
            delete=[self._full(path) for path in paths],
        )

    def _commit(self, message: str, **changes: Any) -> None:
        from roboshard.storage.hub import client  # noqa: PLC0415 - slow

        client.commit(self.place.id, self._revision, message, **changes)


def hub_store(url: str) -> BucketStore | DatasetStore:
    """The store of an `hf://` URL. Raises StorageError for what is no place on the Hub."""
    return BucketStore(url) if HubPath.of(url).is_bucket else DatasetStore(url)


def identity(url: str) -> str:
    """Return what an `hf://` URL names: endpoint, repository, revision and path."""
    return at_endpoint(HubPath.of(url).resolve).url


def _json(url: str, data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise StorageError(f"{redacted(url)}: the Hub's answer is not JSON") from None

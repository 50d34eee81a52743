"""The Hub's routes for dataset repositories: commits of files, of which the large ones lie in xet
storage.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote

from .core import Content, Exchange
from .hub_base import HubBase, iso, now_ms, route

_ID = r"([^/]+/[^/]+)"
_LARGE = {
    ".arrow",
    ".bin",
    ".gz",
    ".jpg",
    ".mp4",
    ".npy",
    ".npz",
    ".parquet",
    ".png",
    ".safetensors",
    ".tar",
    ".zip",
}
_LARGE_BYTES = 10_000_000


@dataclass(frozen=True)
class RepoEntry:
    """A file of a commit: its bytes, or the xet hash and SHA-256 of a large one."""

    oid: str
    size: int
    data: bytes | None = None
    xet_hash: str | None = None
    sha256: str | None = None

    @classmethod
    def regular(cls, data: bytes) -> RepoEntry:
        return cls(_git_oid(data), len(data), data=data)

    @classmethod
    def large(cls, xet_hash: str, sha256: str, size: int) -> RepoEntry:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return cls(_git_oid(pointer.encode()), size, xet_hash=xet_hash, sha256=sha256)


@dataclass(frozen=True)
class Commit:
    """All files of a repository at one point of its history."""

    sha: str
    title: str
    created_ms: int
    files: Mapping[str, RepoEntry]
    parent: str | None

    @classmethod
    def of(cls, files: Mapping[str, RepoEntry], title: str, parent: str | None) -> Commit:
        content = json.dumps(
            [sorted((path, entry.oid) for path, entry in files.items()), title, parent, now_ms()]
        )
        return cls(hashlib.sha1(content.encode()).hexdigest(), title, now_ms(), dict(files), parent)


@dataclass
class Dataset:
    """Commits, and the names that point at them."""

    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add(Commit.of({}, "initial commit", None), "main")

    def add(self, commit: Commit, branch: str) -> None:
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha

    def at(self, revision: str) -> Commit | None:
        revision = revision.removeprefix("refs/heads/")
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The commit that gave a path what it holds in this one."""
        while commit.parent and self.commits[commit.parent].files.get(path) == commit.files[path]:
            commit = self.commits[commit.parent]
        return commit


class DatasetRoutes(HubBase):
    """What huggingface_hub's functions for repositories ask for, of datasets."""

    datasets: dict[str, Dataset]

    @route("POST", r"/api/repos/create")
    def _create_repo(self, exchange: Exchange) -> None:
        if self.denied(exchange, private=False, write=True):
            return
        options = exchange.json()
        if options.get("type") != "dataset":
            exchange.reply(400, {"error": "this Hub has buckets and datasets only"})
            return
        repo_id = f"{options.get('organization') or self.user}/{options['name']}"
        private = options.get("visibility") == "private" or bool(options.get("private"))
        with self.lock:
            exists = repo_id in self.datasets
            self.datasets.setdefault(repo_id, Dataset(private))
        answer = {"url": f"{self.url}/datasets/{repo_id}", "name": repo_id, "id": repo_id}
        error = {"error": "You already created this dataset repo"} if exists else {}
        exchange.reply(409 if exists else 200, answer | error)

    @route("GET", rf"/api/datasets/{_ID}(?:/revision/(.+))?")
    def _dataset_info(self, exchange: Exchange, repo_id: str, revision: str | None) -> None:
        if (found := self._at(exchange, repo_id, revision or "main")) is None:
            return
        dataset, commit = found
        siblings: list[dict[str, Any]] = []
        for path, entry in sorted(commit.files.items()):
            details = self._repo_file(path, entry) if "blobs" in exchange.query else {}
            kept: dict[str, Any] = {
                name: details[name] for name in ("size", "lfs") if name in details
            }
            if kept.get("lfs"):
                kept["lfs"] = kept["lfs"] | {"sha256": entry.sha256}
            if details:
                kept["blobId"] = entry.oid
            siblings.append({"rfilename": path} | kept)
        exchange.reply(
            200,
            {
                "_id": hashlib.sha1(repo_id.encode()).hexdigest()[:24],
                "id": repo_id,
                "author": repo_id.partition("/")[0],
                "sha": commit.sha,
                "lastModified": iso(commit.created_ms),
                "createdAt": iso(min(one.created_ms for one in dataset.commits.values())),
                "private": dataset.private,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": siblings,
            },
        )

    @route("GET", rf"/api/datasets/{_ID}/refs")
    def _refs(self, exchange: Exchange, repo_id: str) -> None:
        if (dataset := self._dataset(exchange, repo_id)) is None:
            return

        def listed(kind: str, names: Mapping[str, str]) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}
                for name, sha in names.items()
            ]

        branches, tags = listed("heads", dataset.branches), listed("tags", dataset.tags)
        exchange.reply(
            200, {"branches": branches, "tags": tags, "converts": [], "pullRequests": []}
        )

    @route("POST", rf"/api/datasets/{_ID}/branch/(.+)")
    def _create_branch(self, exchange: Exchange, repo_id: str, branch: str) -> None:
        start = (exchange.json() or {}).get("startingPoint") or "main"
        if (found := self._at(exchange, repo_id, start, write=True)) is None:
            return
        with self.lock:
            exists = branch in found[0].branches
            found[0].branches.setdefault(branch, found[1].sha)
        exchange.reply(
            409 if exists else 200, {"error": "Reference already exists"} if exists else {}
        )

    @route("POST", rf"/api/datasets/{_ID}/tag/(.+)")
    def _create_tag(self, exchange: Exchange, repo_id: str, revision: str) -> None:
        if (found := self._at(exchange, repo_id, revision, write=True)) is None:
            return
        tag = exchange.json()["tag"]
        with self.lock:
            exists = tag in found[0].tags
            found[0].tags.setdefault(tag, found[1].sha)
        exchange.reply(
            409 if exists else 200, {"error": "Tag reference exists already"} if exists else {}
        )

    @route("GET", rf"/api/datasets/{_ID}/tree/([^/]+)(?:/(.*))?")
    def _tree(self, exchange: Exchange, repo_id: str, revision: str, folder: str | None) -> None:
        if (found := self._at(exchange, repo_id, revision)) is None:
            return
        dataset, commit = found
        base = f"{folder.rstrip('/')}/" if folder else ""
        inside = [path for path in sorted(commit.files) if path.startswith(base)]
        if base and not inside:
            self.not_found(exchange, "EntryNotFound", f"{folder} does not exist on {revision}")
            return
        expand = exchange.query.get("expand", "").lower() in ("1", "true")
        recursive = exchange.query.get("recursive", "").lower() in ("1", "true")
        entries: dict[str, dict[str, Any]] = {}
        for path in inside:
            parts = path.removeprefix(base).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                name = base + "/".join(parts[:depth])
                entries.setdefault(
                    name, self._repo_folder(name, dataset, commit, path if expand else None)
                )
            if recursive or len(parts) == 1:
                entries[path] = self._repo_file(
                    path, commit.files[path], dataset, commit if expand else None
                )
        self.reply_page(exchange, list(entries.values()))

    @route("POST", rf"/api/datasets/{_ID}/paths-info/(.+)")
    def _paths_info(self, exchange: Exchange, repo_id: str, revision: str) -> None:
        if (found := self._at(exchange, repo_id, revision)) is None:
            return
        dataset, commit = found
        if exchange.headers.get("Content-Type", "").startswith("application/json"):
            asked = exchange.json()
            paths, expand = asked["paths"], bool(asked.get("expand"))
        else:
            form = parse_qs(exchange.body.decode())
            paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
        entries = []
        for path in paths:
            inside = next((one for one in sorted(commit.files) if one.startswith(f"{path}/")), None)
            if path in commit.files:
                entries.append(
                    self._repo_file(path, commit.files[path], dataset, commit if expand else None)
                )
            elif inside is not None:
                entries.append(self._repo_folder(path, dataset, commit, inside if expand else None))
        exchange.reply(200, entries)

    @route("GET", rf"/api/datasets/{_ID}/commits/(.+)")
    def _commits(self, exchange: Exchange, repo_id: str, revision: str) -> None:
        if (found := self._at(exchange, repo_id, revision)) is None:
            return
        dataset, commit = found
        entries: list[dict[str, Any]] = []
        sha: str | None = commit.sha
        while sha is not None:
            one = dataset.commits[sha]
            entries.append(
                {
                    "id": sha,
                    "title": one.title,
                    "message": "",
                    "date": iso(one.created_ms),
                    "authors": [],
                }
            )
            sha = one.parent
        self.reply_page(exchange, entries)

    # -- Reading -----------------------------------------------------------------------------------

    @route("GET", rf"/datasets/{_ID}/resolve/([^/]+)/(.+)")
    def _resolve(self, exchange: Exchange, repo_id: str, revision: str, path: str) -> None:
        """Large files are on the storage host; the others behind a relative redirect that names the
        commit.
        """
        if (found := self._file(exchange, repo_id, revision, path)) is None:
            return
        commit, entry = found
        headers = {"X-Repo-Commit": commit.sha, "X-Linked-Size": str(entry.size)}
        if entry.xet_hash is None:
            headers["X-Linked-ETag"] = headers["ETag"] = f'"{entry.oid}"'
            exchange.redirect(
                307,
                f"/api/resolve-cache/datasets/{repo_id}/{commit.sha}/{quote(path, safe='')}",
                headers,
            )
            return
        headers["X-Linked-ETag"] = f'"{entry.sha256}"'
        refresh = f"{self.url}/api/datasets/{quote(repo_id)}/xet-read-token/{commit.sha}"
        headers["Link"] = f'<{refresh}>; rel="xet-auth"'
        self.redirect_to_cdn(exchange, entry.xet_hash, path, headers)

    @route("GET", rf"/api/resolve-cache/datasets/{_ID}/([^/]+)/(.+)")
    def _resolve_cache(self, exchange: Exchange, repo_id: str, revision: str, path: str) -> None:
        if (found := self._file(exchange, repo_id, revision, path)) is None:
            return
        commit, entry = found
        content = Content(f"{repo_id}/{path}", entry.data or b"", entry.oid)
        exchange.reply_object(content, {"X-Repo-Commit": commit.sha})

    @route("GET", rf"/api/datasets/{_ID}/xet-(read|write)-token/(.+)")
    def _dataset_token(self, exchange: Exchange, repo_id: str, use: str, revision: str) -> None:
        if (found := self._at(exchange, repo_id, revision, write=use == "write")) is not None:
            hashes = {entry.xet_hash for entry in found[1].files.values() if entry.xet_hash}
            self.reply_xet_token(exchange, use, hashes)

    # -- Writing -----------------------------------------------------------------------------------

    @route("POST", rf"/api/datasets/{_ID}/preupload/(.+)")
    def _preupload(self, exchange: Exchange, repo_id: str, revision: str) -> None:
        if (found := self._at(exchange, repo_id, revision, write=True)) is None:
            return
        answers = []
        for asked in exchange.json()["files"]:
            old = found[1].files.get(asked["path"])
            mode = (
                "lfs"
                if _is_large(asked["path"], asked["size"], base64.b64decode(asked["sample"]))
                else "regular"
            )
            oid = {"oid": old.sha256 or old.oid} if old else {}
            answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False} | oid)
        exchange.reply(200, {"files": answers})

    @route("POST", rf"/datasets/{_ID}\.git/info/lfs/objects/batch")
    def _lfs_batch(self, exchange: Exchange, repo_id: str) -> None:
        """Clients before 2.0 ask this first; those that offer xet are told to use it."""
        if self._dataset(exchange, repo_id, write=True) is None:
            return
        asked = exchange.json()
        xet = "xet" in asked.get("transfers", [])
        objects = []
        for one in asked["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if self.store.with_sha256(one["oid"]) is None:
                answer["actions"] = {
                    "upload": {"href": f"http://localhost:{self.port}/lfs/{one['oid']}"}
                }
            objects.append(answer)
        exchange.reply(200, {"transfer": "xet" if xet else "basic", "objects": objects})

    @route("PUT", r"/lfs/([0-9a-f]{64})")
    def _lfs_put(self, exchange: Exchange, sha256: str) -> None:
        if hashlib.sha256(exchange.body).hexdigest() != sha256:
            exchange.reply(400, b"the content has another SHA-256")
            return
        self.add_bytes(exchange.body)
        exchange.reply(200)

    @route("POST", rf"/api/datasets/{_ID}/commit/(.+)")
    def _commit(self, exchange: Exchange, repo_id: str, revision: str) -> None:
        if (found := self._at(exchange, repo_id, revision, write=True)) is None:
            return
        dataset = found[0]
        lines = [json.loads(line) for line in exchange.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        with self.lock:
            if revision not in dataset.branches:
                exchange.reply(400, {"error": f"{revision} is not a branch"})
                return
            parent = dataset.commits[dataset.branches[revision]]
            if header.get("parentCommit") not in (None, parent.sha):
                exchange.reply(
                    412, {"error": "A commit has happened since. Please refresh and try again."}
                )
                return
            files = dict(parent.files)
            for line in lines:
                if (problem := self._change(files, line["key"], line["value"])) is not None:
                    status, message = problem
                    code = {"X-Error-Code": "EntryNotFound"} if status == 404 else {}
                    exchange.reply(status, {"error": message}, code | {"X-Error-Message": message})
                    return
            commit = Commit.of(files, header["summary"], parent.sha)
            dataset.add(commit, revision)
        url = f"{self.url}/datasets/{repo_id}/commit/{commit.sha}"
        exchange.reply(
            200, {"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""}
        )

    def _change(
        self, files: dict[str, RepoEntry], key: str, value: dict[str, Any]
    ) -> tuple[int, str] | None:
        """Apply one line of a commit; status and message when it cannot be."""
        path = value.get("path", "")
        if key == "file":
            files[path] = RepoEntry.regular(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            xet_hash = self.store.with_sha256(value["oid"])
            if xet_hash is None:
                return 400, f"LFS pointer pointed to a file that does not exist: {path}"
            files[path] = RepoEntry.large(xet_hash, value["oid"], self.store.size(xet_hash))
        elif key in ("deletedFile", "deletedFolder"):
            gone = [one for one in files if one == path or one.startswith(f"{path.rstrip('/')}/")]
            if not gone:
                return 404, "A file with this name doesn't exist"
            for one in gone:
                del files[one]
        return None

    def make_commit(
        self, repo_id: str, branch: str, files: Mapping[str, RepoEntry], title: str, private: bool
    ) -> str:
        """A commit of exactly these files, in a repository and branch that appear if need be."""
        with self.lock:
            dataset = self.datasets.setdefault(repo_id, Dataset(private))
            commit = Commit.of(
                files, title, dataset.branches.get(branch) or dataset.branches["main"]
            )
            dataset.add(commit, branch)
            return commit.sha

    def entries_of(self, contents: Iterable[tuple[str, Any]]) -> dict[str, RepoEntry]:
        """Entries for files at local paths, stored as the Hub would."""
        entries: dict[str, RepoEntry] = {}
        large = []
        for name, path in contents:
            with path.open("rb") as file:
                is_large = _is_large(name, path.stat().st_size, file.read(512))
            if is_large:
                large.append((name, path))
            else:
                entries[name] = RepoEntry.regular(path.read_bytes())
        for (name, path), xet_hash in zip(
            large, self.store.add(path for _, path in large), strict=True
        ):
            entries[name] = RepoEntry.large(
                xet_hash, self.store.sha256(xet_hash), path.stat().st_size
            )
        return entries

    def add_bytes(self, data: bytes) -> str:
        """Store content; its xet hash."""
        raise NotImplementedError

    # -- Inside ------------------------------------------------------------------------------------

    @staticmethod
    def _repo_file(
        path: str, entry: RepoEntry, dataset: Dataset | None = None, commit: Commit | None = None
    ) -> dict[str, Any]:
        described: dict[str, Any] = {
            "type": "file",
            "path": path,
            "size": entry.size,
            "oid": entry.oid,
        }
        if entry.xet_hash is not None:
            described |= {
                "xetHash": entry.xet_hash,
                "lfs": {"oid": entry.sha256, "size": entry.size, "pointerSize": 134},
            }
        if dataset is not None and commit is not None:
            described["lastCommit"] = _last_commit(dataset.last_change(commit, path))
        return described

    @staticmethod
    def _repo_folder(
        path: str, dataset: Dataset, commit: Commit, inside: str | None
    ) -> dict[str, Any]:
        described: dict[str, Any] = {
            "type": "directory",
            "path": path,
            "oid": _git_oid(path.encode()),
            "size": 0,
        }
        if inside is not None:
            described["lastCommit"] = _last_commit(dataset.last_change(commit, inside))
        return described

    def _file(
        self, exchange: Exchange, repo_id: str, revision: str, path: str
    ) -> tuple[Commit, RepoEntry] | None:
        if (found := self._at(exchange, repo_id, revision)) is None:
            return None
        commit = found[1]
        if path not in commit.files:
            self.not_found(exchange, "EntryNotFound", "Entry not found", commit=commit.sha)
            return None
        return commit, commit.files[path]

    def _at(
        self, exchange: Exchange, repo_id: str, revision: str, write: bool = False
    ) -> tuple[Dataset, Commit] | None:
        if (dataset := self._dataset(exchange, repo_id, write)) is None:
            return None
        commit = dataset.at(revision)
        if commit is None:
            self.not_found(exchange, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return dataset, commit

    def _dataset(self, exchange: Exchange, repo_id: str, write: bool = False) -> Dataset | None:
        """The dataset, or None after the request has been refused."""
        dataset = self.datasets.get(repo_id)
        if self.denied(exchange, private=dataset is not None and dataset.private, write=write):
            return None
        if dataset is None:
            self.not_found(exchange, "RepoNotFound", "Repository not found")
        return dataset


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _last_commit(commit: Commit) -> dict[str, str]:
    return {"id": commit.sha, "title": commit.title, "date": iso(commit.created_ms)}


def _is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub would have this file in storage instead of in git: by its name, its size, or
    being binary.
    """
    return size > 0 and (
        PurePosixPath(path).suffix in _LARGE or size > _LARGE_BYTES or b"\0" in sample
    )

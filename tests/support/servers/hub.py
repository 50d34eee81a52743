"""A Hugging Face Hub on loopback: buckets and datasets, tokens, signed links, real xet storage."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core import Exchange, Request
from .hub_base import now_ms, route
from .hub_buckets import Bucket, BucketEntry, BucketRoutes
from .hub_datasets import Dataset, DatasetRoutes
from .remote import Remote

if TYPE_CHECKING:
    import pytest

TOKEN, READ_TOKEN, STRANGERS_TOKEN = "hf_local_write", "hf_local_read", "hf_local_stranger"


class HubProcess(BucketRoutes, DatasetRoutes):
    """The Hub's server itself, in the process that runs it."""

    CONTROLS = (
        *BucketRoutes.CONTROLS,
        "add_bucket",
        "add_bucket_folder",
        "add_dataset",
        "bucket_files",
        "dataset_files",
        "refuse_in_batch",
        "read",
    )

    def __init__(self, **options: Any) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.datasets: dict[str, Dataset] = {}
        super().__init__(**options)

    @route("GET", r"/api/whoami-v2")
    def _whoami(self, exchange: Exchange) -> None:
        if self.denied(exchange, private=True, write=False):
            return
        right = self.tokens[exchange.headers["Authorization"].removeprefix("Bearer ")]
        auth = {"type": "access_token", "accessToken": {"displayName": "local", "role": right}}
        exchange.reply(
            200,
            {"type": "user", "name": self.user, "fullname": self.user, "orgs": [], "auth": auth},
        )

    @route("POST", r"/api/validate-yaml")
    def _validate_yaml(self, exchange: Exchange) -> None:
        exchange.reply(200, {"errors": [], "warnings": []})

    # -- Controls ----------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget what every server forgets, and refusals and limits of links; buckets and datasets
        stay.
        """
        super().clear()
        self.refusals.clear()
        self.link_seconds, self.link_uses = 3600.0, None

    def add_bucket(self, bucket_id: str, private: bool) -> None:
        with self.lock:
            self.buckets.setdefault(bucket_id, Bucket(private)).private = private

    def add_bucket_folder(self, bucket_id: str, folder: str, prefix: str) -> None:
        names, paths = _files_below(folder)
        hashes = self.store.add(paths)
        with self.lock:
            files = self.buckets.setdefault(bucket_id, Bucket()).files
            for name, path, xet_hash in zip(names, paths, hashes, strict=True):
                place = "/".join(filter(None, (prefix.strip("/"), name)))
                files[place] = BucketEntry(xet_hash, path.stat().st_mtime_ns // 1_000_000, now_ms())

    def add_dataset(self, repo_id: str, folder: str, revision: str, private: bool) -> str:
        names, paths = _files_below(folder)
        files = self.entries_of(zip(names, paths, strict=True))
        return self.make_commit(repo_id, revision, files, f"Add {len(files)} files", private)

    def bucket_files(self, bucket_id: str) -> dict[str, dict[str, Any]]:
        with self.lock:
            files = dict(self.buckets[bucket_id].files)
        return {
            path: {
                "size": self.store.size(entry.xet_hash),
                "xet_hash": entry.xet_hash,
                "sha256": self.store.sha256(entry.xet_hash),
            }
            for path, entry in files.items()
        }

    def dataset_files(self, repo_id: str, revision: str) -> dict[str, dict[str, Any]]:
        commit = self.datasets[repo_id].at(revision)
        if commit is None:
            raise KeyError(revision)
        return {
            path: {
                "size": entry.size,
                "xet_hash": entry.xet_hash,
                "sha256": entry.sha256,
                "oid": entry.oid,
            }
            for path, entry in commit.files.items()
        }

    def read(self, kind: str, repo_id: str, path: str, revision: str) -> str:
        """The bytes of a file, as base64."""
        if kind == "bucket":
            data = self.store.blob(self.buckets[repo_id].files[path].xet_hash).read_bytes()
        else:
            commit = self.datasets[repo_id].at(revision)
            if commit is None:
                raise KeyError(revision)
            entry = commit.files[path]
            data = (
                entry.data
                if entry.xet_hash is None
                else self.store.blob(entry.xet_hash).read_bytes()
            )  # type: ignore[assignment]
        return base64.b64encode(data).decode()

    def refuse_in_batch(self, pattern: str, times: int, error: str) -> None:
        with self.lock:
            self.refusals.append({"pattern": pattern, "left": times, "error": error})

    def add_bytes(self, data: bytes) -> str:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return self.store.add([Path(file.name)])[0]


class LocalHub(Remote):
    """A Hub at `.endpoint`, for clients that run with `.environment`.

    with LocalHub(tmp_path / "hub") as hub:
        hub.add_dataset("me/data", folder)
        subprocess.run([...], env=os.environ | hub.environment, check=True)
        hub.fault("status", "^/cdn/", code=503, times=2)
        assert not hub.token_leaks

    `.token` may write, `.read_token` may not, `.strangers_token` is of somebody else. Paths of
    faults are the routes: `^/api/` is the Hub's interface, `/resolve/` the redirect,
    `^/cdn/<hash>/<path>` the file on the storage host. What clients of xet read or write goes
    through folders, so faults and the log do not see it.
    """

    server_class = HubProcess
    token, read_token, strangers_token = TOKEN, READ_TOKEN, STRANGERS_TOKEN

    def __init__(
        self,
        tmp: Path | str,
        *,
        user: str = "me",
        latency_s: float = 0.0,
        bytes_per_second: float | None = None,
        page_size: int = 1000,
        in_process: bool = False,
    ) -> None:
        self._tmp = Path(tmp).resolve()
        self.user = user
        super().__init__(
            in_process=in_process,
            root=str(self._tmp / "server"),
            user=user,
            tokens={TOKEN: "write", READ_TOKEN: "read", STRANGERS_TOKEN: "none"},
            page_size=page_size,
            latency_s=latency_s,
            bytes_per_second=bytes_per_second,
        )

    @property
    def endpoint(self) -> str:
        return self.url

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the environment for client processes: huggingface_hub reads these as it is
        imported.
        """
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HOME": str(self._tmp / "home"),
            "HF_HUB_CACHE": str(self._tmp / "home/hub"),
            "HF_XET_CACHE": str(self._tmp / "home/xet"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }

    def use(self, monkeypatch: pytest.MonkeyPatch, token: str | None = TOKEN) -> None:
        """Let the huggingface_hub of this process, and processes started from here, use this
        Hub.
        """
        import huggingface_hub  # noqa: PLC0415 - it reads the environment now
        from huggingface_hub import HfFileSystem, constants  # noqa: PLC0415

        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        if token is None:
            monkeypatch.delenv("HF_TOKEN")
        else:
            monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", self.environment["HF_HUB_CACHE"])
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(self._tmp / "home/token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", self.endpoint)
        HfFileSystem.clear_instance_cache()

    @property
    def token_leaks(self) -> list[Request]:
        """Requests that brought a token to the storage host, where none belongs."""
        hosts = (f"localhost:{self.port}", "localhost")
        return [
            request for request in self.requests if request.authorized and request.host in hosts
        ]

    def add_bucket(self, bucket_id: str, *, private: bool = False) -> None:
        self.call("add_bucket", bucket_id=bucket_id, private=private)

    def add_bucket_folder(self, bucket_id: str, folder: Path | str, prefix: str = "") -> None:
        """Put a folder's files into a bucket, which appears if need be."""
        self.call("add_bucket_folder", bucket_id=bucket_id, folder=str(folder), prefix=prefix)

    def add_dataset(
        self, repo_id: str, folder: Path | str, revision: str = "main", *, private: bool = False
    ) -> str:
        """Commit exactly a folder's files to a branch of a dataset, which appears if need be; the
        commit's hash.
        """
        sha: str = self.call(
            "add_dataset", repo_id=repo_id, folder=str(folder), revision=revision, private=private
        )
        return sha

    def bucket_files(self, bucket_id: str) -> dict[str, dict[str, Any]]:
        """Size, xet_hash and sha256 of each file."""
        files: dict[str, dict[str, Any]] = self.call("bucket_files", bucket_id=bucket_id)
        return files

    def dataset_files(self, repo_id: str, revision: str = "main") -> dict[str, dict[str, Any]]:
        """Size and oid of each file; xet_hash and sha256 of large ones."""
        files: dict[str, dict[str, Any]] = self.call(
            "dataset_files", repo_id=repo_id, revision=revision
        )
        return files

    def read_bucket(self, bucket_id: str, path: str) -> bytes:
        return base64.b64decode(
            self.call("read", kind="bucket", repo_id=bucket_id, path=path, revision="")
        )

    def read_dataset(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        return base64.b64decode(
            self.call("read", kind="dataset", repo_id=repo_id, path=path, revision=revision)
        )

    def refuse_in_batch(self, pattern: str, times: int = 1, error: str = "Internal error") -> None:
        """Let operations on such paths fail in a batch whose other operations are done."""
        self.call("refuse_in_batch", pattern=pattern, times=times, error=error)


def _files_below(folder: str) -> tuple[list[str], list[Path]]:
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return [path.relative_to(folder).as_posix() for path in paths], paths

"""The Hub's routes for buckets: files by path, mutable, without revisions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from .core import Exchange
from .hub_base import HubBase, iso, now_ms, route


@dataclass
class BucketEntry:
    """A file of a bucket."""

    xet_hash: str
    mtime_ms: int
    uploaded_ms: int = field(default_factory=now_ms)


@dataclass
class Bucket:
    """A bucket: files by path."""

    private: bool = False
    created_ms: int = field(default_factory=now_ms)
    files: dict[str, BucketEntry] = field(default_factory=dict)


class BucketRoutes(HubBase):
    """What huggingface_hub's bucket functions ask for."""

    buckets: dict[str, Bucket]

    @route("POST", r"/api/buckets/([^/]+)/([^/]+)")
    def _create_bucket(self, exchange: Exchange, namespace: str, name: str) -> None:
        if self.denied(exchange, private=False, write=True):
            return
        bucket_id = f"{self.user if namespace == 'me' else namespace}/{name}"
        options = exchange.json() or {}
        private = options.get("visibility") == "private" or bool(options.get("private"))
        with self.lock:
            exists = bucket_id in self.buckets
            self.buckets.setdefault(bucket_id, Bucket(private))
        answer = {"url": f"{self.url}/buckets/{bucket_id}", "id": bucket_id}
        exchange.reply(
            409 if exists else 200,
            answer | ({"error": "You already created this bucket"} if exists else {}),
        )

    @route("DELETE", r"/api/buckets/([^/]+/[^/]+)")
    def _delete_bucket(self, exchange: Exchange, bucket_id: str) -> None:
        if self._bucket(exchange, bucket_id, write=True) is not None:
            with self.lock:
                del self.buckets[bucket_id]
            exchange.reply(200, {})

    @route("GET", r"/api/buckets/([^/]+/[^/]+)")
    def _bucket_info(self, exchange: Exchange, bucket_id: str) -> None:
        if (bucket := self._bucket(exchange, bucket_id)) is None:
            return
        files = dict(bucket.files)
        exchange.reply(
            200,
            {
                "id": bucket_id,
                "private": bucket.private,
                "createdAt": iso(bucket.created_ms),
                "size": sum(self.store.size(entry.xet_hash) for entry in files.values()),
                "totalFiles": len(files),
            },
        )

    @route("GET", r"/api/buckets/([^/]+/[^/]+)/xet-(read|write)-token")
    def _bucket_token(self, exchange: Exchange, bucket_id: str, use: str) -> None:
        if (bucket := self._bucket(exchange, bucket_id, write=use == "write")) is not None:
            self.reply_xet_token(exchange, use, {entry.xet_hash for entry in bucket.files.values()})

    @route("POST", r"/api/buckets/([^/]+/[^/]+)/batch")
    def _batch(self, exchange: Exchange, bucket_id: str) -> None:
        """Operations are independent: those that fail are named, the others have been done."""
        if (bucket := self._bucket(exchange, bucket_id, write=True)) is None:
            return
        failed, count = [], 0
        for line in exchange.body.splitlines():
            operation = json.loads(line)
            count += 1
            error = self._apply(bucket, operation)
            if error is not None:
                failed.append({"path": operation["path"], "error": error})
        answer = {
            "success": not failed,
            "processed": count,
            "succeeded": count - len(failed),
            "failed": failed,
        }
        exchange.reply(422 if count and len(failed) == count else 200, answer)

    def _apply(self, bucket: Bucket, operation: dict[str, Any]) -> str | None:
        """Do one operation, or say why not."""
        path, kind = operation["path"], operation["type"]
        with self.lock:
            for refusal in self.refusals:
                if refusal["left"] > 0 and re.search(refusal["pattern"], path):
                    refusal["left"] -= 1
                    return str(refusal["error"])
            if kind == "deleteFile":
                bucket.files.pop(
                    path, None
                )  # what the real Hub says of a file that is not there is not known
                return None
            if operation["xetHash"] not in self.store:
                return "Xet file not found"
            bucket.files[path] = BucketEntry(
                operation["xetHash"], operation.get("mtime") or now_ms()
            )
        return None

    @route("POST", r"/api/buckets/([^/]+/[^/]+)/paths-info")
    def _bucket_paths(self, exchange: Exchange, bucket_id: str) -> None:
        if (bucket := self._bucket(exchange, bucket_id)) is not None:
            found = [(path, bucket.files.get(path)) for path in exchange.json()["paths"]]
            exchange.reply(
                200, [self._bucket_file(path, entry) for path, entry in found if entry is not None]
            )

    @route("GET", r"/api/buckets/([^/]+/[^/]+)/tree(?:/(.*))?")
    def _bucket_tree(self, exchange: Exchange, bucket_id: str, prefix: str | None) -> None:
        if (bucket := self._bucket(exchange, bucket_id)) is None:
            return
        prefix, files = prefix or "", dict(bucket.files)
        names_folder = any(path.startswith(f"{prefix}/") for path in files)
        base = f"{prefix}/" if prefix and names_folder else prefix[: prefix.rfind("/") + 1]
        recursive = exchange.query.get("recursive", "").lower() in ("1", "true")
        entries: dict[str, dict[str, Any]] = {}
        for path, entry in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            first, slash, _ = path.removeprefix(base).partition("/")
            if recursive or not path.startswith(base) or not slash:
                entries[path] = self._bucket_file(path, entry)
            else:
                folder = {
                    "type": "directory",
                    "path": base + first,
                    "uploadedAt": iso(entry.uploaded_ms),
                }
                entries.setdefault(base + first, folder)
        self.reply_page(exchange, list(entries.values()))

    @route("GET", r"/buckets/([^/]+/[^/]+)/resolve/(.*)")
    def _resolve_in_bucket(self, exchange: Exchange, bucket_id: str, path: str) -> None:
        if (bucket := self._bucket(exchange, bucket_id)) is None:
            return
        entry = bucket.files.get(path)
        if entry is None:
            self.not_found(exchange, "EntryNotFound", "Entry not found")
            return
        headers = {
            "X-Linked-ETag": f'"{entry.xet_hash}"',
            "Link": f'<{self.url}/api/buckets/{quote(bucket_id)}/xet-read-token>; rel="xet-auth"',
        }
        self.redirect_to_cdn(exchange, entry.xet_hash, path, headers)

    def _bucket_file(self, path: str, entry: BucketEntry) -> dict[str, Any]:
        return {
            "type": "file",
            "path": path,
            "size": self.store.size(entry.xet_hash),
            "xetHash": entry.xet_hash,
            "mtime": iso(entry.mtime_ms),
            "uploadedAt": iso(entry.uploaded_ms),
        }

    def _bucket(self, exchange: Exchange, bucket_id: str, write: bool = False) -> Bucket | None:
        """The bucket, or None after the request has been refused."""
        bucket = self.buckets.get(bucket_id)
        if self.denied(exchange, private=bucket is not None and bucket.private, write=write):
            return None
        if bucket is None:
            self.not_found(exchange, "RepoNotFound", "Repository not found")
        return bucket

"""Doing harm to datasets: by accident (bytes change) and on purpose (manifests lie, with hashes
that fit).
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from crc32c import crc32c

from roboshard.common import jsonio
from roboshard.shards import ShardedDataset
from roboshard.shards.index import index_bytes
from roboshard.shards.manifest import file_entry, fingerprint
from roboshard.shards.names import DATASET_MANIFEST, EPISODE_INDEX
from roboshard.shards.schema import ShardManifest, document_bytes
from roboshard.shards.tar import END_OF_ARCHIVE, member_header, padded

BLOCK = 512
Json = Any
Kind = Literal["flip", "zero", "truncate", "extend"]


def files_of(root: Path) -> list[Path]:
    """Every file of a dataset, in an order that does not depend on the file system."""
    return sorted(path for path in root.rglob("*") if path.is_file())


def contents(root: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file."""
    return {str(path.relative_to(root)): path.read_bytes() for path in files_of(root)}


def read_everything(urls: str | Path) -> bytes:
    """A digest of all that a reader can get out of a dataset: equal digests, equal data."""
    dataset = ShardedDataset.open(str(urls))
    digest = hashlib.sha256(document_bytes(dataset.manifest))
    for column in vars(dataset.index).values():
        digest.update(column.tobytes())
    for position in range(len(dataset.index)):
        episode = dataset.read_episode(position)
        digest.update(document_bytes(episode.record) + episode.rows)
        for key, video in episode.videos.items():
            digest.update(key.encode() + video)
    return digest.digest()


# -- By accident -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """One thing that can happen to a file: a bit flips, a 512-byte block reads as zeros, it ends
    early or late.
    """

    kind: Kind
    position: int
    """Place of the byte in the file; for `truncate` and `extend`, the new end is there or that many
    bytes later.
    """
    bit: int = 0

    def span(self, size: int) -> tuple[int, int]:
        """Return the range of bytes, in a file of `size` bytes, that are not what they were."""
        if self.kind == "flip":
            return self.position, self.position + 1
        if self.kind == "zero":
            start = self.position // BLOCK * BLOCK
            return start, min(size, start + BLOCK)
        return (self.position, size) if self.kind == "truncate" else (size, size + self.position)


@contextmanager
def damaged(path: Path, damage: Damage) -> Iterator[None]:
    """The file with that damage, whole again afterwards.

    Costs what is changed, not what the file holds.
    """
    with path.open("r+b", buffering=0) as file:
        size = path.stat().st_size
        start, stop = damage.span(size)
        file.seek(start)
        before = file.read(stop - start)
        if damage.kind == "truncate":
            file.truncate(start)
        else:
            after = {
                "flip": bytes(byte ^ 1 << damage.bit for byte in before),
                "zero": bytes(len(before)),
                "extend": bytes(i % 251 + 1 for i in range(damage.position)),
            }[damage.kind]
            file.seek(start)
            file.write(after)
        try:
            yield
        finally:
            file.truncate(size)
            file.seek(start)
            file.write(before)


# -- On purpose ------------------------------------------------------------------------------------


class Forgery:
    """A copy of a dataset whose documents can be rewritten; `seal` makes every hash fit again."""

    def __init__(self, honest: Path, root: Path) -> None:
        self.root = Path(shutil.copytree(honest, root))
        self.dataset: dict[str, Json] = json.loads((root / DATASET_MANIFEST).read_bytes())
        self.shards: list[dict[str, Json]] = [
            json.loads((root / entry["manifest"]["name"]).read_bytes())
            for entry in self.dataset["shards"]
        ]

    def shard_path(self, number: int) -> Path:
        """Return the path of a shard's file."""
        return self.root / str(self.dataset["shards"][number]["name"])

    def seal(self, before_fingerprint: Callable[[dict[str, Json]], None] = lambda _: None) -> str:
        """Write all documents with hashes that fit, and return the root to open.

        `before_fingerprint` is given dataset.json for the last changes.
        """
        for entry, shard in zip(self.dataset["shards"], self.shards, strict=True):
            data = jsonio.dump(shard)
            (self.root / entry["manifest"]["name"]).write_bytes(data)
            entry["manifest"] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        index = (self.root / EPISODE_INDEX).read_bytes()
        self.dataset["index"] = file_entry(EPISODE_INDEX, index).model_dump()
        before_fingerprint(self.dataset)
        self.dataset["fingerprint"] = fingerprint(self.dataset)
        (self.root / DATASET_MANIFEST).write_bytes(jsonio.dump(self.dataset))
        return str(self.root)

    def put_members(
        self, number: int, at: int, changes: Callable[[dict[str, bytes]], None]
    ) -> None:
        """Write a shard again with other members in one sample, given as suffix -> payload, and its
        manifest.
        """
        data, manifest = self.shard_path(number).read_bytes(), self.shards[number]
        with io.BytesIO() as file:
            for i, sample in enumerate(manifest["samples"]):
                prefix = f"{sample['key']}."
                members = {
                    m["name"][len(prefix) :]: data[m["offset"] :][: m["size"]]
                    for m in sample["members"]
                }
                if i == at:
                    changes(members)
                sample |= {"offset": file.tell(), "members": []}
                for suffix, payload in members.items():
                    file.write(member_header(prefix + suffix, len(payload)))
                    entry = {"name": prefix + suffix, "offset": file.tell(), "size": len(payload)}
                    sample["members"].append(entry | {"crc32c": f"{crc32c(payload):08x}"})
                    file.write(payload.ljust(padded(len(payload)), b"\0"))
                if sample is manifest["samples"][-1]:
                    file.write(END_OF_ARCHIVE)
                whole = file.getvalue()[sample["offset"] :]
                sample |= {"size": len(whole), "crc32c": f"{crc32c(whole):08x}"}
            self.put_shard(number, file.getvalue())
        self.put_index(
            index_bytes(
                [ShardManifest.model_validate_json(jsonio.dump(shard)) for shard in self.shards]
            )
        )

    def put_index(self, data: bytes) -> None:
        """Write other bytes to episodes.parquet; `seal` makes the hash fit."""
        (self.root / EPISODE_INDEX).write_bytes(data)

    def put_shard(self, number: int, data: bytes) -> None:
        """Write other bytes to a shard, and claim their size and hash; samples stay as the manifest
        has them.
        """
        self.shard_path(number).write_bytes(data)
        claims = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.shards[number] |= claims
        self.dataset["shards"][number] |= claims


def claims(table: bytes, old: int, new: int) -> bytes:
    """A parquet file whose footer (Thrift's compact form) says one number for another, wherever it
    is an i64.
    """
    footer_start = len(table) - 8 - int.from_bytes(table[-8:-4], "little")
    footer = table[footer_start:-8]
    assert b"\x16" + _varint(old) in footer
    footer = footer.replace(b"\x16" + _varint(old), b"\x16" + _varint(new))
    return table[:footer_start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _varint(value: int) -> bytes:
    zigzag, result = value << 1, b""
    while zigzag > 127:
        result, zigzag = result + bytes([zigzag & 127 | 128]), zigzag >> 7
    return result + bytes([zigzag])


@contextmanager
def cheaply(*, seconds: float = 5, megabytes: int = 64) -> Iterator[None]:
    """Fail if what is inside takes long or much memory, Python's or Arrow's."""
    pool, start = pa.default_memory_pool(), time.process_time()
    arrow = pool.bytes_allocated()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    finally:
        tracemalloc.stop()
    assert pool.bytes_allocated() - arrow < megabytes << 20
    assert time.process_time() - start < seconds

"""Check one shard from its first byte to its last: hashes, tar, and every episode in it."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from roboshard import storage
from roboshard.common.errors import DamageError, MissingError, RoboshardError
from roboshard.shards.manifest import load_shard_manifest
from roboshard.shards.problems import shard_problems
from roboshard.shards.schema import MAX_MANIFEST_BYTES, ShardManifest, parse
from roboshard.shards.shard_list import ShardEntry
from roboshard.tools.verify.checksums import check_bytes
from roboshard.tools.verify.episode import Contents, Expected, SourceReader, check_episode
from roboshard.tools.verify.index import IndexRows
from roboshard.tools.verify.layout import Sample, layout_of_manifest, layout_of_tar
from roboshard.tools.verify.problems import (
    CONVERT_AGAIN,
    COPY_AGAIN,
    READ_AGAIN,
    REBUILD,
    Place,
    Problems,
)

READ_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """A shard to check, which is what one thread does at a time."""

    number: int
    """The shard's position in dataset.json."""
    entry: ShardEntry
    chosen: Collection[int] | None
    """Which samples to check, by their place in the shard; None: all, and the shard's SHA-256."""
    expected: Expected
    """What the dataset says of the shard's episodes."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was read of a shard."""

    episodes: tuple[int, ...]
    """Indices of all episodes that the shard should hold."""
    read: int
    """How many of the shard's episodes were read."""
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What the check of a shard needs to know of the rest of the dataset."""

    root: str
    index: IndexRows | None
    """The rows of episodes.parquet; None: unreadable, and reported."""
    problems: Problems


class ShardCheck:
    """Checks everything about one shard; for one thread.

    What is wrong is added to the dataset's problems.
    """

    def __init__(
        self,
        task: ShardTask,
        dataset: Dataset,
        source: SourceReader | None,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Begin with nothing read."""
        self._task, self._dataset, self._source, self._on_bytes = task, dataset, source, on_bytes
        self._place = Place(problems=dataset.problems, file=task.entry.name)
        self._manifest_place = Place(problems=dataset.problems, file=task.entry.manifest.name)
        self._url = storage.join(dataset.root, task.entry.name)
        self._sha256: Any = hashlib.sha256()
        self._hashed = self._read = 0
        self._samples: list[Sample] = []
        self._owners: dict[str, str] | None = None

    def run(self) -> Checked:
        """Read and check the shard."""
        manifest = self._manifest()
        size = self._size()
        if size is None:
            stated = layout_of_manifest(manifest) if manifest else []
            return Checked(episodes=tuple(sample.episode for sample in stated), read=0, num_bytes=0)
        samples = self._layout(manifest, size)
        episodes = tuple(sample.episode for sample in samples)
        index = self._dataset.index
        if index is not None and manifest is not None:
            index.check(self._task.number, samples, self._manifest_place)
        checked = 0
        try:
            for i in range(len(samples)):
                if self._task.chosen is None or i in self._task.chosen:
                    self._check_sample(samples, i, size)
                    checked += 1
            if self._task.chosen is None:
                self._check_sha256(size)
        except RoboshardError as error:  # a read that failed for good; other shards may be well
            self._place.report_error(error, READ_AGAIN)
        return Checked(episodes=episodes, read=checked, num_bytes=self._read)

    def _manifest(self) -> ShardManifest | None:
        """Return the shard's manifest as far as it can be used; what is wrong with it
        is reported.
        """
        entry, root, place = self._task.entry, self._dataset.root, self._manifest_place
        try:
            manifest = load_shard_manifest(root, entry)
        except RoboshardError as error:
            place.report_error(error, _remedy(error))
            return None if isinstance(error, MissingError) else self._unchecked_manifest()
        if manifest.conversion != self._task.expected.conversion:
            place.report(
                "is of another conversion than dataset.json", "put the files of one conversion here"
            )
        return manifest

    def _unchecked_manifest(self) -> ShardManifest | None:
        """Return a manifest that is not the one in dataset.json, if it still tells of
        this shard.
        """
        entry = self._task.entry
        try:
            data = storage.read_all(
                storage.join(self._dataset.root, entry.manifest.name), MAX_MANIFEST_BYTES
            )
            manifest = parse(ShardManifest, data, entry.manifest.name, MAX_MANIFEST_BYTES)
        except RoboshardError:
            return None
        if (manifest.size, manifest.sha256) != (entry.size, entry.sha256):
            self._manifest_place.report(
                "stale: it tells of another shard than dataset.json does (size or SHA-256 differ)",
                REBUILD,
            )
            return None
        return None if shard_problems(manifest) else manifest

    def _size(self) -> int | None:
        try:
            size = storage.size(self._url)
        except MissingError:
            self._place.report("missing, though dataset.json lists it", COPY_AGAIN)
            return None
        except RoboshardError as error:
            self._place.report_error(error, READ_AGAIN)
            return None
        if size != self._task.entry.size:
            kind = (
                "cut off"
                if size < self._task.entry.size
                else "longer than it was, or another shard"
            )
            self._place.report(
                f"{size} bytes where dataset.json says {self._task.entry.size}: {kind}", COPY_AGAIN
            )
        return size

    def _layout(self, manifest: ShardManifest | None, size: int) -> list[Sample]:
        if manifest is not None:
            return layout_of_manifest(manifest)
        try:
            return layout_of_tar(self._url, size)
        except RoboshardError as error:
            self._place.report_error(error, COPY_AGAIN)
            return []

    def _check_sample(self, samples: list[Sample], i: int, size: int) -> None:
        sample = samples[i]
        self._samples = samples
        place = self._place.at(episode=sample.episode)
        if sample.end > size:
            place.report(
                f"lies at {sample.offset} to {sample.end}, the shard ends at {size}: cut off",
                COPY_AGAIN,
            )
            return
        data = memoryview(self._bytes(sample.offset, sample.size, size))
        damaged = check_bytes(
            sample, data, is_last=i + 1 == len(samples), place=place, owner_of=self._owner_of
        )
        contents = Contents(sample=sample, data=data, damaged=damaged, is_first=i == 0)
        check_episode(contents, self._task.expected, self._source, place)

    def _owner_of(self, checksum: str) -> str | None:
        """Return the member of this shard that has a checksum; looked up in what is made once, when
        bytes are wrong.
        """
        if self._owners is None:
            self._owners = {
                member.crc32c: member.name
                for sample in self._samples
                for member in sample.members
                if member.crc32c
            }
        return self._owners.get(checksum)

    def _check_sha256(self, size: int) -> None:
        while self._hashed < size:
            self._bytes(self._hashed, min(READ_BYTES, size - self._hashed), size)
        if self._sha256.hexdigest() != self._task.entry.sha256:
            self._place.report(
                "its SHA-256 is not the one in dataset.json: damaged, or another shard", COPY_AGAIN
            )

    def _bytes(self, offset: int, length: int, total: int) -> bytes | bytearray:
        """Read a range of the shard, and hash what comes in order."""
        stated = None if storage.is_local(self._url) else total
        if length <= READ_BYTES:
            data: bytes | bytearray = storage.read_range(self._url, offset, length, total=stated)
        else:
            data = bytearray(length)
            for start in range(0, length, READ_BYTES):
                count = min(READ_BYTES, length - start)
                data[start : start + count] = storage.read_range(
                    self._url, offset + start, count, total=stated
                )
        if offset <= self._hashed < offset + length:
            self._sha256.update(memoryview(data)[self._hashed - offset :])
            self._hashed = offset + length
        self._read += length
        self._on_bytes(length)
        return data


def _remedy(error: RoboshardError) -> str:
    return REBUILD if isinstance(error, MissingError | DamageError) else CONVERT_AGAIN

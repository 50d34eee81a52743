"""Reading a dataset: manifests and index once, episodes by position, every byte checked before it is used."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from crc32c import crc32c

from roboshard.shards import storage
from roboshard.shards.errors import DamageError, FormatError, MissingError, OptionError
from roboshard.shards.index import MAX_INDEX_BYTES, EpisodeIndex, read_index
from roboshard.shards.locate import Urls, locate
from roboshard.shards.manifest import load_dataset_manifest, load_index, load_shard_manifest
from roboshard.shards.names import RECORD_SUFFIX, ROWS_SUFFIX, member_name
from roboshard.shards.schema import (
    MAX_RECORD_BYTES,
    DatasetManifest,
    EpisodeRecord,
    MemberEntry,
    SampleEntry,
    ShardEntry,
    ShardManifest,
    parse,
)
from roboshard.shards.writer import crc_text


@dataclass(frozen=True, kw_only=True)
class EpisodeData:
    """One episode as stored: verified bytes, not yet decoded."""

    where: str
    """Shard and episode, for messages."""
    record: EpisodeRecord
    rows: memoryview
    """A parquet file."""
    videos: dict[str, memoryview]
    """Camera key -> MP4 file, of the cameras asked for."""
    num_bytes: int
    """Bytes read from storage."""


@dataclass(frozen=True)
class ShardedDataset:
    """A roboshard dataset opened for reading. Picklable; nothing stays open between reads."""

    root: str
    manifest: DatasetManifest
    index: EpisodeIndex
    """Of the episodes in the chosen shards."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shards", {})

    @classmethod
    def open(cls, urls: Urls) -> "ShardedDataset":
        """Open a dataset by its root, or some of its shards by URL or brace pattern.

        Raises:
            OptionError, MissingError, FormatError, VersionError, DamageError: with the file's URL.
        """
        root, names = locate(urls)
        manifest = load_dataset_manifest(root)
        what = storage.join(root, manifest.index.name)
        index = read_index(load_index(root, manifest, MAX_INDEX_BYTES), manifest, what)
        return cls(root, manifest, index if names is None else _only_shards(index, manifest, names, root))

    @cached_property
    def camera_keys(self) -> tuple[str, ...]:
        """Feature keys of the cameras that are stored as video, in the source's order."""
        return tuple(key for key, spec in self.manifest.features.items() if spec.get("dtype") == "video")

    def read_episode(self, position: int, cameras: Sequence[str] | None = None) -> EpisodeData:
        """Read and verify the episode at `position` of the index, with the videos of `cameras` (None: all).

        Raises:
            DamageError, FormatError, MissingError: naming shard, episode and, where it can be known, member.
        """
        entry = self.manifest.shards[int(self.index.shard[position])]
        sample = self._sample_entry(entry, position)
        where = f"{storage.join(self.root, entry.name)}, episode {sample.episode_index}"
        wanted = None if cameras is None or set(cameras) >= set(self.camera_keys) else tuple(cameras)
        url = storage.join(self.root, entry.name)
        if wanted is None:
            payloads = _read_whole(url, sample, where)
        else:
            suffixes = _suffixes_to_read(url, sample, wanted, where)
            payloads = {suffix: _read_member(url, member, where) for suffix, member in suffixes.items()}
        record = _record_of(payloads[RECORD_SUFFIX], sample, where)
        videos = {
            camera.key: payloads[camera.member] for camera in record.cameras if wanted is None or camera.key in wanted
        }
        missing = [key for key in (self.camera_keys if wanted is None else wanted) if key not in videos]
        if missing:
            raise FormatError(f"{where}: holds no video of camera {', '.join(map(repr, missing))}")
        return EpisodeData(
            where=where,
            record=record,
            rows=payloads[ROWS_SUFFIX],
            videos=videos,
            num_bytes=sum(len(payload) for payload in payloads.values()),
        )

    def shard_manifest(self, shard: ShardEntry) -> ShardManifest:
        """The manifest of a shard, read when first needed; the shard's size is checked then."""
        known: dict[str, ShardManifest] = self.__dict__["_shards"]
        if shard.name not in known:
            manifest = load_shard_manifest(self.root, shard)
            check_shard_size(storage.join(self.root, shard.name), shard.size)
            known[shard.name] = manifest
        return known[shard.name]

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "manifest": self.manifest, "index": self.index, "_shards": {}}

    def _sample_entry(self, shard: ShardEntry, position: int) -> SampleEntry:
        episode = int(self.index.episode_index[position])
        manifest = self.shard_manifest(shard)
        by_offset = {sample.offset: sample for sample in manifest.samples}
        sample = by_offset.get(int(self.index.offset[position]))
        expected = (
            episode,
            int(self.index.length[position]),
            int(self.index.size[position]),
            crc_text(int(self.index.crc32c[position])),
        )
        if sample is None or (sample.episode_index, sample.length, sample.size, sample.crc32c) != expected:
            raise FormatError(
                f"{storage.join(self.root, shard.manifest.name)}: does not hold episode {episode} where the "
                "index says; `roboshard rebuild` derives both again"
            )
        return sample


def check_shard_size(url: str, expected: int) -> None:
    """Raise MissingError or DamageError unless the shard at `url` is there with the size it had when written."""
    try:
        found = storage.size(url)
    except MissingError:
        raise MissingError(f"{url}: missing, though dataset.json lists it; copy it again") from None
    if found != expected:
        raise DamageError(f"{url}: {found} bytes where dataset.json says {expected}: cut off or replaced")


def _only_shards(index: EpisodeIndex, manifest: DatasetManifest, names: Sequence[str], root: str) -> EpisodeIndex:
    numbers = {shard.name: number for number, shard in enumerate(manifest.shards)}
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise OptionError(f"{root}/dataset.json does not list {', '.join(unknown[:5])}")
    keep = np.isin(index.shard, [numbers[name] for name in names])
    return replace(index, **{name: getattr(index, name)[keep] for name in EpisodeIndex.__dataclass_fields__})


def _read_whole(url: str, sample: SampleEntry, where: str) -> dict[str, memoryview]:
    """All members by suffix, from one read of the sample's range."""
    _check_has_record_and_rows(sample, where)
    data = memoryview(storage.read_range(url, sample.offset, sample.size))
    payloads = {
        _suffix(member, sample): data[member.offset - sample.offset :][: member.size] for member in sample.members
    }
    if crc_text(crc32c(data)) != sample.crc32c:
        for member in sample.members:
            _check_crc(payloads[_suffix(member, sample)], member, where)
        raise DamageError(f"{where}: damaged: a tar header or padding is not what was written")
    return payloads


def _suffixes_to_read(url: str, sample: SampleEntry, cameras: Sequence[str], where: str) -> dict[str, MemberEntry]:
    """Suffix -> member of record, rows and the chosen cameras; the record says which member is which camera."""
    _check_has_record_and_rows(sample, where)
    members = {_suffix(member, sample): member for member in sample.members}
    record = _record_of(_read_member(url, members[RECORD_SUFFIX], where), sample, where)
    wanted = [RECORD_SUFFIX, ROWS_SUFFIX]
    wanted += [camera.member for camera in record.cameras if camera.key in cameras]
    return {suffix: members[suffix] for suffix in wanted}


def _check_has_record_and_rows(sample: SampleEntry, where: str) -> None:
    suffixes = {_suffix(member, sample) for member in sample.members}
    if not suffixes >= {RECORD_SUFFIX, ROWS_SUFFIX}:
        raise FormatError(f"{where}: its members are {sorted(suffixes)}, without {RECORD_SUFFIX} or {ROWS_SUFFIX}")


def _read_member(url: str, member: MemberEntry, where: str) -> memoryview:
    payload = memoryview(storage.read_range(url, member.offset, member.size))
    _check_crc(payload, member, where)
    return payload


def _check_crc(payload: memoryview, member: MemberEntry, where: str) -> None:
    if crc_text(crc32c(payload)) != member.crc32c:
        raise DamageError(f"{where}: member {member.name} is damaged (CRC32C differs from the manifest's)")


def _record_of(data: memoryview, sample: SampleEntry, where: str) -> EpisodeRecord:
    """The episode record, checked against the manifest's entry and the members that are there."""
    record = parse(EpisodeRecord, data, where, MAX_RECORD_BYTES)
    if (record.episode_index, record.length) != (sample.episode_index, sample.length):
        raise FormatError(
            f"{where}: its record is of episode {record.episode_index} with {record.length} rows, "
            f"the manifest's of {sample.episode_index} with {sample.length}"
        )
    listed = {_suffix(member, sample) for member in sample.members}
    expected = {RECORD_SUFFIX, ROWS_SUFFIX, *(camera.member for camera in record.cameras)}
    if listed != expected:
        raise FormatError(f"{where}: members {sorted(listed)} where its record names {sorted(expected)}")
    return record


def _suffix(member: MemberEntry, sample: SampleEntry) -> str:
    return member.name.removeprefix(member_name(sample.key, ""))

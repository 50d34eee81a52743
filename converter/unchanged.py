"""Whether the episodes that a dataset has are in a source as they were, shard by shard.

An episode is read from the source as a conversion would read it. Where that gives the bytes that
the shard's manifest has the checksums of, it is the same, and nothing is read of the shard. Where
not, because it was written by other versions of the libraries or lies elsewhere in the source now,
what it holds is compared: rows value by value, its row of meta/episodes field by field, video
packet by packet.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from crc32c import crc32c

from roboshard import storage
from roboshard.common import interrupts, jsonio
from roboshard.common.errors import DamageError, OptionError, RoboshardError, StorageError
from roboshard.common.jsonio import Json
from roboshard.common.selection import some
from roboshard.converter.config import ConvertConfig
from roboshard.converter.episode.reader import EpisodeReader
from roboshard.converter.plan import ConversionPlan
from roboshard.converter.reencoding.settings import Encoding
from roboshard.converter.source.api import Episode, SourceMeta
from roboshard.converter.task import OnEpisode
from roboshard.converter.video.slice_file import VideoSlice
from roboshard.shards.manifest import load_shard_manifest
from roboshard.shards.names import RECORD_SUFFIX, ROWS_SUFFIX, member_name
from roboshard.shards.rows import decode_rows, encode_rows, read_episode_row
from roboshard.shards.schema import (
    MAX_RECORD_BYTES,
    CameraRecord,
    EpisodeRecord,
    MemberEntry,
    SampleEntry,
    document_bytes,
    parse,
)
from roboshard.shards.shard_list import ShardEntry
from roboshard.shards.slices import read_slice
from roboshard.shards.writer import crc_text

PLACES = ("data/", "videos/", "meta/", "dataset_from_index", "dataset_to_index")
"""Where an episode lies in its source: columns of meta/episodes that say nothing of what it
holds.
"""

SHOWN, MANY = 10, 100


@dataclass(frozen=True, kw_only=True)
class ChangedEpisode:
    """An episode that is not in the source as it was."""

    episode_index: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class KeptShardSpec:
    """All that a worker needs to know to compare a shard with the source."""

    root: str
    entry: ShardEntry
    source: SourceMeta
    episodes: tuple[Episode, ...]
    """Episodes of the shard, as the source has them."""
    tolerance_s: float
    copied: tuple[str, ...]
    """Keys of the cameras whose packets are compared."""
    versions: dict[str, str]
    """Library versions that a machine must have: none, as nothing is written."""

    @contextmanager
    def on_node(self) -> Iterator["KeptShardSpec"]:
        """Return this task for another machine, which must see source and destination."""
        yield self

    def check_seen(self, result: object) -> None:
        """Do nothing: this task writes nothing."""

    def remove_unfinished(self, process: int) -> None:
        """Do nothing: this task writes nothing."""


def changed_episodes(spec: KeptShardSpec, on_episode: OnEpisode) -> list[ChangedEpisode]:
    """Return the episodes of a shard that are not in the source as they were.

    Args:
        spec: the shard, and the source.
        on_episode: called with the bytes of each episode as it has been compared.

    Raises:
        DamageError, FormatError, MissingError, StorageError: of the shard's manifest, or the shard.
        StorageError: a remote source does not answer.
    """
    manifest = load_shard_manifest(spec.root, spec.entry)
    episodes = {episode.index: episode for episode in spec.episodes}
    found = []
    with EpisodeReader(spec.source, spec.tolerance_s) as reader:
        for sample in manifest.samples:
            interrupts.check()
            comparison = _Comparison(spec, sample)
            try:
                reason = comparison.of(reader, episodes[sample.episode_index])
            except StorageError:
                raise
            except _StoredError as error:
                raise error.error from None
            except RoboshardError as error:
                reason = f"it cannot be read any more: {error}"
            if reason:
                found.append(ChangedEpisode(episode_index=sample.episode_index, reason=reason))
            on_episode(sample.size)
    return found


def kept_shards(
    plan: ConversionPlan, config: ConvertConfig, numbers: Iterable[int]
) -> Iterator[KeptShardSpec]:
    """Yield what is to be compared of these shards, by their places in dataset.json, of the dataset
    that grows.
    """
    base, meta = plan.base, plan.source.meta
    if base is None:
        return
    again = Encoding.of_json(base.manifest.conversion.options.get("video"))
    encoded = () if again is None else again.cameras
    copied = [key for key in meta.camera_keys if key not in encoded]
    for number in numbers:
        episodes = base.episodes[base.rows.shard == number].tolist()
        yield KeptShardSpec(
            root=base.root,
            entry=base.manifest.shards[number],
            source=meta,
            episodes=tuple(plan.source.episodes(episodes)),
            tolerance_s=config.tolerance_s,
            copied=tuple(copied) if config.compare == "video" else (),
            versions={},
        )


def refuse_changed(changed: Sequence[ChangedEpisode], plan: ConversionPlan) -> None:
    """Raise OptionError, naming them, if there are any."""
    if not changed or plan.base is None:
        return
    listed = [f"episode {each.episode_index}: {each.reason}" for each in changed[:SHOWN]]
    listed += ["…"] if len(changed) > SHOWN else []
    indices = some([each.episode_index for each in changed], MANY)
    said = (
        f"{plan.source.meta.files.where()}: {len(changed)} episodes are not what they were when "
        f"{plan.base.shown} was made of them ({indices}). Nothing was added; convert the dataset "
        "anew, to another place, or put these episodes back as they were:"
    )
    raise OptionError("\n  - ".join([said, *listed]))


class _StoredError(Exception):
    """An error of the shard that is compared, not of the source."""

    def __init__(self, error: RoboshardError) -> None:
        super().__init__()
        self.error = error


class _Comparison:
    """Compares one episode of a shard with the source's."""

    def __init__(self, spec: KeptShardSpec, sample: SampleEntry) -> None:
        self._spec, self._sample = spec, sample
        self._members = {member.name: member for member in sample.members}

    def of(self, reader: EpisodeReader, episode: Episode) -> str:
        """Return what has changed, in words; empty: nothing."""
        rows, tasks, findings = reader.rows(episode)
        if rows.table.num_rows != self._sample.length:
            return f"it has {rows.table.num_rows} rows, and had {self._sample.length}"
        if list(tasks) != self._sample.tasks:
            return f"its tasks are {list(tasks)}, and were {self._sample.tasks}"
        reason = self._of_rows(rows.table, reader.metadata_row(episode))
        if reason or not self._spec.copied:
            return reason
        slices, odd = reader.slices(episode, rows, self._spec.copied)
        record = reader.record(episode, rows, tasks, slices, [*findings, *odd])
        if self._is_same(self._member(RECORD_SUFFIX), document_bytes(record)):
            stored = record  # which frame each row shows, above all
        else:
            data = self._read(self._member(RECORD_SUFFIX))
            with _of_the_shard():
                stored = parse(EpisodeRecord, data, self._where, MAX_RECORD_BYTES)
        cameras = {camera.key: camera for camera in stored.cameras}
        return next(filter(None, (self._of_video(video, cameras) for video in slices)), "")

    def _of_rows(self, table: pa.Table, row: dict[str, Json]) -> str:
        member = self._member(ROWS_SUFFIX)
        if self._is_same(member, encode_rows(table, row, None)):
            return ""
        data = self._read(member)
        with _of_the_shard():
            stored = decode_rows(data, self._where, self._sample.length)
            stored_row = read_episode_row(data, self._where)
        if (names := stored.column_names) != table.column_names:
            return f"its columns are {table.column_names}, and were {names}"
        other = [name for name in names if _alone(stored, name) != _alone(table, name)]
        if other:
            return f"its values of {some(other)} are others"
        fields = [
            name
            for name in dict.fromkeys([*stored_row, *row])
            if not name.startswith(PLACES)
            and jsonio.canonical([stored_row.get(name)]) != jsonio.canonical([row.get(name)])
        ]
        return f"meta/episodes says otherwise of {some(fields)}" if fields else ""

    def _of_video(self, video: VideoSlice, stored: Mapping[str, CameraRecord]) -> str:
        key = video.camera.key
        camera = stored.get(key)
        if camera is None or camera.member != video.camera.member:
            return f"camera {key!r} needs a file of another kind"
        if camera.frames().tolist() != video.camera.frames().tolist():
            return f"its rows show other frames of camera {key!r}"
        member = self._member(camera.member)
        if self._is_same(member, video.data):
            return ""
        data = self._read(member)
        with _of_the_shard():
            before = _payloads(VideoSlice(data=data, camera=camera))
        return "" if _payloads(video) == before else f"the video of camera {key!r} is another one"

    @property
    def _where(self) -> str:
        return f"{storage.redacted(self._url)}, episode {self._sample.episode_index}"

    @property
    def _url(self) -> str:
        return storage.join(self._spec.root, self._spec.entry.name)

    def _member(self, suffix: str) -> MemberEntry:
        return self._members[member_name(self._sample.key, suffix)]

    @staticmethod
    def _is_same(member: MemberEntry, data: bytes) -> bool:
        return (member.size, member.crc32c) == (len(data), crc_text(crc32c(data)))

    def _read(self, member: MemberEntry) -> bytes:
        with _of_the_shard():
            total = self._spec.entry.size
            data = storage.read_range(self._url, member.offset, member.size, total=total)
            if not self._is_same(member, data):
                raise DamageError(f"{self._where}: damaged: {member.name} has not its checksum")
        return data


@contextmanager
def _of_the_shard() -> Iterator[None]:
    try:
        yield
    except RoboshardError as error:
        raise _StoredError(error) from error


def _alone(table: pa.Table, name: str) -> bytes:
    """A column as bytes, in which NaN equals itself and -0.0 is not 0.0."""
    return encode_rows(table.select([name]).replace_schema_metadata(None), {}, None)


def _payloads(video: VideoSlice) -> list[bytes]:
    packets = read_slice(memoryview(video.data), video.camera)
    tables = packets.tables
    return [
        bytes(packets.payload[offset : offset + size])
        for offset, size in zip(tables.offsets.tolist(), tables.sizes.tolist(), strict=True)
    ]

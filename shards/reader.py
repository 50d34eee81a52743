"""Reading a dataset: manifests and index once, episodes by position, every byte checked before it
is used.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from roboshard import storage
from roboshard.common.errors import (
    OptionError,
    RoboshardError,
)
from roboshard.shards.entries import SampleEntries, check_shard_size
from roboshard.shards.features import keys_of
from roboshard.shards.fetch import OnRead, ReadSettings, ShardReads, ignore
from roboshard.shards.index import MAX_INDEX_BYTES, EpisodeIndex, read_index
from roboshard.shards.locate import Urls, locate
from roboshard.shards.manifest import load_dataset_manifest, load_index, load_shard_manifest
from roboshard.shards.names import camera_suffixes
from roboshard.shards.sample import EpisodeData, Piece, SampleRead, assemble, plan_sample
from roboshard.shards.schema import DatasetManifest, SampleEntry, ShardManifest
from roboshard.shards.shard_list import ShardEntry
from roboshard.shards.snapshots import SnapshotName, load_snapshot

__all__ = ["EpisodeData", "ReadSettings", "ShardedDataset"]


@dataclass(frozen=True)
class ShardedDataset:
    """A roboshard dataset opened for reading. Picklable; nothing stays open between reads."""

    root: str
    manifest: DatasetManifest
    index: EpisodeIndex
    """Index of the episodes in the chosen shards."""
    settings: ReadSettings = field(default_factory=ReadSettings)

    def __post_init__(self) -> None:
        entries = SampleEntries(self.root, self.manifest, self.index, self.settings)
        object.__setattr__(self, "_entries", entries)

    @classmethod
    def open(
        cls,
        urls: Urls,
        settings: ReadSettings | None = None,
        snapshot: SnapshotName | None = None,
    ) -> "ShardedDataset":
        """Open a dataset by its root, or some of its shards by URL or brace pattern.

        Args:
            urls: root, shards, or a pattern of them.
            settings: how to read; None: without a cache.
            snapshot: number or fingerprint of what it was before it grew; None: what it is now.

        Raises:
            OptionError, MissingError, FormatError, VersionError, DamageError: with the file's URL.
        """
        settings = settings or ReadSettings()
        policy = settings.policy
        root, names = locate(urls)
        root = storage.pinned(root, policy=policy)
        manifest = load_dataset_manifest(root, policy=policy)
        manifest = load_snapshot(root, manifest, snapshot, policy=policy)
        what = storage.redacted(storage.join(root, manifest.index.name))
        index = read_index(
            load_index(root, manifest, MAX_INDEX_BYTES, policy=policy), manifest, what
        )
        chosen = index if names is None else _only_shards(index, manifest, names, root)
        return cls(root, manifest, chosen, settings)

    @cached_property
    def camera_keys(self) -> tuple[str, ...]:
        """Feature keys of the cameras that are stored as video, in the source's order."""
        return keys_of(self.manifest.features, "video")

    @cached_property
    def _camera_suffixes(self) -> Mapping[str, str]:
        return camera_suffixes(self.camera_keys)

    def read_episode(self, position: int, cameras: Sequence[str] | None = None) -> EpisodeData:
        """Read and verify the episode at `position` of the index.

        Args:
            position: place of the episode in `index`.
            cameras: keys of the cameras whose videos are read; None: all.

        Raises:
            DamageError, FormatError, MissingError, StorageError: naming shard, episode and, where
                it can be known, member.
        """
        (outcome,) = self.read_episodes([position], cameras)
        if isinstance(outcome, RoboshardError):
            raise outcome
        return outcome

    def read_episodes(
        self,
        positions: Sequence[int],
        cameras: Sequence[str] | None = None,
        on_read: OnRead = ignore,
    ) -> Iterator[EpisodeData | RoboshardError]:
        """Read and verify several episodes; neighbours in a shard are read in one go.

        An episode that cannot be read is yielded as its error: the others come all the same. What
        is read together stays in memory until the iterator is at its end.

        Args:
            positions: places of the episodes in `index`, in the order in which they are yielded.
            cameras: keys of the cameras whose videos are read; None: all.
            on_read: told the bytes of each read, and where they came from.
        """
        planned = [self._planned(position, cameras) for position in positions]
        pieces: dict[int, list[Piece]] = defaultdict(list)
        for read in planned:
            if isinstance(read, SampleRead):
                pieces[read.shard] += read.pieces
        sources = {
            shard: ShardReads(
                self.root, self.manifest.shards[shard], wanted, self.settings, on_read
            )
            for shard, wanted in pieces.items()
        }
        for read in planned:
            yield self._carried_out(read, sources) if isinstance(read, SampleRead) else read

    def sample(self, position: int) -> SampleEntry:
        """Return where the episode at `position` lies in its shard, as the shard's manifest says.

        Raises:
            FormatError, MissingError, StorageError: the manifest contradicts the index, or cannot
                be read.
        """
        entries: SampleEntries = self.__dict__["_entries"]
        return entries.sample(position)

    def _planned(self, position: int, cameras: Sequence[str] | None) -> SampleRead | RoboshardError:
        """Plan which bytes to read, as the entry of the episode in its shard's manifest says."""
        shard = int(self.index.shard[position])
        entry = self.manifest.shards[shard]
        where = storage.redacted(storage.join(self.root, entry.name))
        is_all = cameras is None or set(cameras) >= set(self.camera_keys)
        try:
            sample = self.sample(position)
            return plan_sample(
                shard,
                sample,
                f"{where}, episode {sample.episode_index}",
                None if is_all or cameras is None else tuple(cameras),
                self._camera_suffixes,
            )
        except RoboshardError as error:
            return error

    def _carried_out(
        self, read: SampleRead, sources: Mapping[int, ShardReads]
    ) -> EpisodeData | RoboshardError:
        source = sources[read.shard]
        try:
            return assemble(
                read, lambda piece: source.get(piece, read.where), source.stored, self.camera_keys
            )
        except RoboshardError as error:
            return error

    def shard_manifest(self, shard: ShardEntry) -> ShardManifest:
        """The manifest of a shard, read, parsed and checked as a whole, as is a local shard's size;
        not kept.
        """
        manifest = load_shard_manifest(self.root, shard, policy=self.settings.policy)
        url = storage.join(self.root, shard.name)
        if storage.is_local(url):
            check_shard_size(url, shard.size)
        return manifest

    def __getstate__(self) -> dict[str, object]:
        return {
            "root": self.root,
            "manifest": self.manifest,
            "index": self.index,
            "settings": self.settings,
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.__post_init__()


def _only_shards(
    index: EpisodeIndex, manifest: DatasetManifest, names: Sequence[str], root: str
) -> EpisodeIndex:
    numbers = {name: number for number, name in enumerate(manifest.shards.names)}
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise OptionError(
            f"{storage.redacted(root)}/dataset.json does not list {', '.join(unknown[:5])}"
        )
    keep = np.isin(index.shard, [numbers[name] for name in names])
    return replace(
        index, **{name: getattr(index, name)[keep] for name in EpisodeIndex.__dataclass_fields__}
    )

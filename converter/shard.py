"""The one task of a conversion: episodes in, a finished shard with its manifest out.

Idempotent and free of shared state, so that any engine can run it, on any machine, as often as it
likes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Self

from roboshard import storage
from roboshard.common import interrupts
from roboshard.common.errors import RoboshardError, StorageError
from roboshard.converter.destination.api import ShardPlace, files_of
from roboshard.converter.episode.reader import EpisodeReader
from roboshard.converter.reencoding.settings import Encoding
from roboshard.converter.source.api import Episode, SourceMeta
from roboshard.converter.task import OnEpisode
from roboshard.shards.names import shard_manifest_name
from roboshard.shards.problems import shard_problems
from roboshard.shards.schema import (
    MAX_MANIFEST_BYTES,
    Provenance,
    ShardManifest,
    document_bytes,
    parse,
)
from roboshard.shards.writer import ShardWriter


def ignore(_num_bytes: int) -> None:
    """The `OnEpisode` of a caller who does not want to know."""


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """All that a worker needs to know to make one shard."""

    place: ShardPlace
    """Where the shard goes."""
    source: SourceMeta
    episodes: tuple[Episode, ...]
    provenance: Provenance
    tolerance_s: float
    encoding: Encoding | None
    """Which cameras are encoded again, and how; None: all video is copied."""
    skip_errors: bool

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that decide bytes."""
        versions = self.provenance.conversion.versions
        return {name: text for name, text in versions.items() if name != "format"}

    @contextmanager
    def on_node(self) -> Iterator[Self]:
        """Return this task for another machine of a cluster; see `ShardPlace.on_node`."""
        with self.place.on_node() as place:
            yield replace(self, place=place)

    def check_seen(self, result: object) -> None:
        """See that a shard is there which another machine has written. Raises OptionError."""
        if isinstance(result, ShardResult) and result.manifest is not None:
            self.place.check_seen(result.manifest)

    def remove_unfinished(self, process: int) -> None:
        """Remove what a process that was killed at the shard had written of it."""
        paths = [self.place.folder / name for name in files_of(self.place.shard)]
        storage.remove_temporaries_of(process, paths)


@dataclass(frozen=True, kw_only=True)
class SkippedEpisode:
    """An episode that was left out, and why."""

    episode_index: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What became of a shard."""

    manifest: ShardManifest | None
    """Manifest of the shard; None: every episode of it was skipped, and no shard was written."""
    skipped: tuple[SkippedEpisode, ...]
    reused: bool
    """Whether the shard was there already, whole and right."""


def convert_shard(spec: ShardSpec, on_episode: OnEpisode = ignore) -> ShardResult:
    """Write the shard and then its manifest, each atomically, and deliver them; or find that both
    are there already.

    Args:
        spec: what to write, and where.
        on_episode: called with the bytes of each episode as it is written.

    Raises:
        SourceError, MissingError: naming episode, camera and file, unless `spec.skip_errors`.
    """
    interrupts.check()
    result = _finished(spec, on_episode)
    if result is None:
        result = _write_shard(spec, on_episode)
        spec.place.deliver(result.manifest)
    return result


def finished_shard(spec: ShardSpec, on_episode: OnEpisode = ignore) -> ShardResult | None:
    """What `convert_shard` finds done: a shard that is there, whole and right, or one that has no
    episodes left.

    None: there is still something to do. Writes nothing.
    """
    result = _finished(spec, on_episode)
    if result is not None or not spec.skip_errors or spec.place.exists():
        return result
    with EpisodeReader(spec.source, spec.tolerance_s, spec.encoding) as reader:
        skipped = []
        for episode in spec.episodes:
            interrupts.check()
            reason = _why_unreadable(reader, episode)
            if reason is None:
                return None
            skipped.append(reason)
    return ShardResult(manifest=None, skipped=tuple(skipped), reused=True)


def _finished(spec: ShardSpec, on_episode: OnEpisode) -> ShardResult | None:
    """The shard as an earlier run left it, if it is this conversion's, whole and undamaged."""
    name = spec.place.shard
    there = spec.place.finished()
    if there is None:
        return None
    data, size, sha256 = there
    try:
        manifest = parse(ShardManifest, data, shard_manifest_name(name), MAX_MANIFEST_BYTES)
    except RoboshardError:
        return None
    # The manifest to the byte: dataset.json will hold its hash.
    stated = (document_bytes(manifest), manifest.size, manifest.sha256, manifest.conversion)
    if stated != (data, size, sha256, spec.provenance.conversion.id) or shard_problems(manifest):
        return None
    present = {sample.episode_index for sample in manifest.samples}
    left_out = [episode for episode in spec.episodes if episode.index not in present]
    if left_out and not spec.skip_errors:
        return None
    with EpisodeReader(spec.source, spec.tolerance_s, spec.encoding) as reader:
        skipped = [_why_unreadable(reader, episode) for episode in left_out]
    if None in skipped:
        return None
    for sample in manifest.samples:
        on_episode(sample.size)
    reasons = tuple(reason for reason in skipped if reason is not None)
    return ShardResult(manifest=manifest, skipped=reasons, reused=True)


def _why_unreadable(reader: EpisodeReader, episode: Episode) -> SkippedEpisode | None:
    try:
        reader.read(episode, None)
    except StorageError:
        raise
    except RoboshardError as error:
        return SkippedEpisode(episode_index=episode.index, reason=str(error))
    return None


def _write_shard(spec: ShardSpec, on_episode: OnEpisode) -> ShardResult:
    name = spec.place.shard
    manifests: list[ShardManifest] = []
    skipped: list[SkippedEpisode] = []

    def write(file: IO[bytes]) -> None:
        writer = ShardWriter(file, shard=name, conversion=spec.provenance.conversion.id)
        with EpisodeReader(spec.source, spec.tolerance_s, spec.encoding) as reader:
            for episode in spec.episodes:
                interrupts.check()
                provenance = None if writer.num_samples else spec.provenance
                try:
                    record, rows, videos = reader.read(episode, provenance)
                except (
                    StorageError
                ):  # a remote source that does not answer is no fault of the episode's
                    raise
                except RoboshardError as error:
                    if not spec.skip_errors:
                        raise
                    skipped.append(SkippedEpisode(episode_index=episode.index, reason=str(error)))
                    continue
                writer.add(record, rows, videos)
                on_episode(len(rows) + sum(map(len, videos.values())))
        if not writer.num_samples:
            raise _EmptyShardError
        manifests.append(writer.finish())

    target = spec.place.folder / name
    manifest_path = spec.place.folder / shard_manifest_name(name)
    # A manifest never stands beside a shard that it does not describe.
    storage.remove_file(manifest_path, below=spec.place.folder)
    try:
        storage.write_atomic(target, write, below=spec.place.folder)
    except _EmptyShardError:
        storage.remove_file(target, below=spec.place.folder)
        return ShardResult(manifest=None, skipped=tuple(skipped), reused=False)
    storage.write_bytes(manifest_path, document_bytes(manifests[0]), below=spec.place.folder)
    return ShardResult(manifest=manifests[0], skipped=tuple(skipped), reused=False)


class _EmptyShardError(Exception):
    """Every episode of the shard was skipped."""

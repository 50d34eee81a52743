"""The one task of a conversion: episodes in, a finished shard with its manifest out.

Idempotent and free of shared state, so that any engine can run it, on any machine, as often as it likes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from roboshard import storage
from roboshard.common import interrupts
from roboshard.common.errors import RoboshardError, StorageError
from roboshard.converter.encoding import Encoding
from roboshard.converter.episode import EpisodeReader
from roboshard.converter.remote_destination import RemotePlace
from roboshard.converter.source import Episode, SourceMeta
from roboshard.shards.manifest import shard_problems
from roboshard.shards.names import shard_manifest_name, shard_name
from roboshard.shards.schema import (
    MAX_MANIFEST_BYTES,
    Provenance,
    ShardManifest,
    document_bytes,
    parse,
)
from roboshard.shards.writer import ShardWriter

OnEpisode = Callable[[int], None]


def ignore(_num_bytes: int) -> None:
    """The `OnEpisode` of a caller who does not want to know."""


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """All that a worker needs to know to make one shard."""

    number: int
    destination: Path
    """The dataset's folder, or the one in which shards wait to be sent."""
    source: SourceMeta
    episodes: tuple[Episode, ...]
    provenance: Provenance
    tolerance_s: float
    encoding: Encoding | None
    """Of the cameras that are not copied; None: all are."""
    skip_errors: bool
    remote: RemotePlace | None = None
    """Where to send the shard; None: it stays in `destination`."""


@dataclass(frozen=True, kw_only=True)
class SkippedEpisode:
    """An episode that was left out, and why."""

    episode_index: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What became of a shard."""

    manifest: ShardManifest | None
    """None: every episode of it was skipped, and no shard was written."""
    skipped: tuple[SkippedEpisode, ...]
    reused: bool
    """It was there already, whole and right."""


def convert_shard(spec: ShardSpec, on_episode: OnEpisode = ignore) -> ShardResult:
    """Write the shard and then its manifest, each atomically; or find that both are there already.

    With a remote place both are sent there, and only the manifest stays here.

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
        if spec.remote is not None:
            spec.remote.send(spec.destination, shard_name(spec.number), result.manifest)
    return result


def remove_unfinished(spec: ShardSpec, process: int) -> None:
    """Remove what a process that was killed at a shard had written of it."""
    name = shard_name(spec.number)
    paths = (spec.destination / name, spec.destination / shard_manifest_name(name))
    storage.remove_temporaries_of(process, paths)


def finished_shard(spec: ShardSpec, on_episode: OnEpisode = ignore) -> ShardResult | None:
    """What `convert_shard` finds done: a shard that is there, whole and right, or one that has no episodes left.

    None: there is still something to do. Writes nothing.
    """
    result = _finished(spec, on_episode)
    if result is not None or not spec.skip_errors or _is_there(spec):
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


def _is_there(spec: ShardSpec) -> bool:
    """Whether there is anything of the shard."""
    names = (shard_name(spec.number), shard_manifest_name(shard_name(spec.number)))
    if spec.remote is not None:
        return any(name in spec.remote.there for name in names)
    return any((spec.destination / name).exists() for name in names)


def _finished(spec: ShardSpec, on_episode: OnEpisode) -> ShardResult | None:
    """The shard as an earlier run left it, if it is this conversion's, whole and undamaged."""
    name = shard_name(spec.number)
    there = (
        _files_here(spec.destination, name) if spec.remote is None else spec.remote.finished(name)
    )
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


def _files_here(folder: Path, name: str) -> tuple[bytes, int, str] | None:
    """(manifest file, size of the shard, its SHA-256); None where one of them is missing or not readable."""
    try:
        data = storage.read_all(str(folder / shard_manifest_name(name)), MAX_MANIFEST_BYTES)
        return data, *_hash_file(str(folder / name))
    except RoboshardError:
        return None


def _why_unreadable(reader: EpisodeReader, episode: Episode) -> SkippedEpisode | None:
    try:
        reader.read(episode, None)
    except StorageError:
        raise
    except RoboshardError as error:
        return SkippedEpisode(episode_index=episode.index, reason=str(error))
    return None


def _hash_file(url: str) -> tuple[int, str]:
    size, digest = storage.size(url), hashlib.sha256()
    for chunk in storage.read_range_chunks(url, 0, size):
        interrupts.check()
        digest.update(chunk)
    return size, digest.hexdigest()


def _write_shard(spec: ShardSpec, on_episode: OnEpisode) -> ShardResult:
    name = shard_name(spec.number)
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

    target = spec.destination / name
    manifest_path = spec.destination / shard_manifest_name(name)
    # A manifest never stands beside a shard that it does not describe.
    storage.remove_file(manifest_path, below=spec.destination)
    try:
        storage.write_atomic(target, write, below=spec.destination)
    except _EmptyShardError:
        storage.remove_file(target, below=spec.destination)
        return ShardResult(manifest=None, skipped=tuple(skipped), reused=False)
    storage.write_bytes(manifest_path, document_bytes(manifests[0]), below=spec.destination)
    return ShardResult(manifest=manifests[0], skipped=tuple(skipped), reused=False)


class _EmptyShardError(Exception):
    """Every episode was skipped."""

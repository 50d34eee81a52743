"""Deriving a dataset's manifests from its shards, generation by generation.

The first is what the first conversion wrote, each other what an append did, in the order of their
numbers. The shards of a generation carry its provenance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from roboshard import storage
from roboshard.common.errors import FormatError, MissingError, RoboshardError
from roboshard.shards.growth import grow
from roboshard.shards.index import MAX_INDEX_BYTES
from roboshard.shards.manifest import (
    file_entry,
    first_dataset,
    parse_dataset_manifest,
)
from roboshard.shards.names import (
    DATASET_MANIFEST,
    shard_name,
    shard_number,
    snapshot_name,
)
from roboshard.shards.schema import (
    MAX_MANIFEST_BYTES,
    DatasetManifest,
    Provenance,
    ShardManifest,
    document_bytes,
)

PARTIAL = "copy them here, or pass --partial to make a dataset of those that are here"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The shards that one conversion or append wrote."""

    provenance: Provenance
    manifests: list[ShardManifest]

    @property
    def planned(self) -> range:
        """Numbers of the shards that were planned for the generation."""
        conversion = self.provenance.conversion
        return range(conversion.first_shard, conversion.first_shard + conversion.num_shards)


@dataclass(frozen=True, kw_only=True)
class _Dataset:
    """A dataset as of one generation."""

    manifest: DatasetManifest
    data: bytes
    index: bytes


def generations_of(
    root: Path, parts: Sequence[tuple[ShardManifest, Provenance]]
) -> list[Generation]:
    """Group shards, in the order of their names, by who wrote them.

    Raises:
        FormatError: shards of two conversions of which the second did not add to the first.
    """
    found: list[Generation] = []
    for _, group in groupby(parts, key=lambda part: document_bytes(part[1])):  # NaN is not itself
        members = list(group)
        first, provenance = members[0]
        number = shard_number(first.shard)
        generation = Generation(
            provenance=provenance, manifests=[manifest for manifest, _ in members]
        )
        is_added = provenance.conversion.grows is not None and number in generation.planned
        if found and not is_added:
            raise FormatError(
                f"{root / first.shard}: from another conversion than {parts[0][0].shard}; keep "
                "them apart"
            )
        found.append(generation)
    return found


def derived_files(
    root: Path, generations: Sequence[Generation], *, partial_dataset: bool
) -> dict[str, bytes]:
    """Return the index, the snapshots and, last, dataset.json, by name.

    Raises:
        MissingError: shards are missing, unless a partial dataset is wanted.
    """
    if not partial_dataset:
        _check_complete(root, generations)
    first = generations[0]
    manifest, index = first_dataset(first.provenance, first.manifests)
    now = _Dataset(manifest=manifest, data=document_bytes(manifest), index=index)
    now = _as_it_was(root, generations[1:], now)
    files = {now.manifest.index.name: now.index}
    for i, generation in enumerate(generations[1:], 1):
        if not partial_dataset:
            _check_follows(root, generations[i - 1], generation, now.manifest)
        grown = grow(now.manifest, now.data, now.index, generation.provenance, generation.manifests)
        written = dict(grown.files)
        files |= {name: data for name, data in written.items() if name != DATASET_MANIFEST}
        derived = _Dataset(
            manifest=grown.manifest,
            data=written[DATASET_MANIFEST],
            index=written[grown.manifest.index.name],
        )
        now = _as_it_was(root, generations[i + 1 :], derived)
        files[now.manifest.index.name] = now.index
    return files | {DATASET_MANIFEST: now.data}


def _as_it_was(root: Path, later: Sequence[Generation], derived: _Dataset) -> _Dataset:
    """Return the snapshot that the next generation was added to, if it lies there and is of these
    shards.

    Other versions of the libraries write an index in other bytes: then its fingerprint, which
    states name, would be another one. Where it does not lie there, it is the derived one.
    """
    grows = later[0].provenance.conversion.grows if later else None
    if grows is None or grows == derived.manifest.fingerprint:
        return derived
    try:
        data = storage.read_all(str(root / snapshot_name(grows)), MAX_MANIFEST_BYTES)
        manifest = parse_dataset_manifest(data, snapshot_name(grows))
        index = storage.read_all(str(root / manifest.index.name), MAX_INDEX_BYTES)
    except RoboshardError:
        return derived
    is_it = (
        manifest.fingerprint == grows
        and manifest.shards == derived.manifest.shards
        and manifest.snapshots == derived.manifest.snapshots
        and file_entry(manifest.index.name, index) == manifest.index
    )
    return _Dataset(manifest=manifest, data=data, index=index) if is_it else derived


def _check_complete(root: Path, generations: Sequence[Generation]) -> None:
    planned = {shard_name(number) for each in generations for number in each.planned}
    there = {manifest.shard for each in generations for manifest in each.manifests}
    if generations[0].provenance.conversion.grows is not None:
        planned |= {shard_name(number) for number in range(generations[0].planned.start)}
    _refuse_missing(root, sorted(planned - there), len(planned))


def _check_follows(
    root: Path, before: Generation, after: Generation, manifest: DatasetManifest
) -> None:
    """See that no generation is missing whose numbers would lie between two."""
    between = range(before.planned.stop, after.planned.start)
    if after.provenance.conversion.grows != manifest.fingerprint:
        _refuse_missing(root, [shard_name(number) for number in between], after.planned.stop)


def _refuse_missing(root: Path, missing: Sequence[str], planned: int) -> None:
    if missing:
        raise MissingError(
            f"{root}: {len(missing)} of {planned} shards are missing ({', '.join(missing[:3])}, "
            f"…); {PARTIAL}"
        )

"""Growing a dataset: new shards after the old ones, of which no byte changes.

    shards/shard-000007.tar, .json     the new shards, complete
    snapshots/FINGERPRINT.json         dataset.json as it was until now, byte for byte
    snapshots/episodes-HASH.parquet    the index of what the dataset is now
    dataset.json                       last, replaced atomically: it is what it was until then

No file but dataset.json is ever replaced or removed. So a reader that has read the old dataset.json
finds all that it lists, and what was killed before the last step has changed nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from roboshard.shards.documents import FileEntry
from roboshard.shards.index import INDEX_SCHEMA, index_table, table_bytes
from roboshard.shards.manifest import file_entry, seal, shard_entry
from roboshard.shards.names import DATASET_MANIFEST, grown_index_name, snapshot_name
from roboshard.shards.schema import (
    DatasetManifest,
    Provenance,
    ShardManifest,
    Snapshot,
    document_bytes,
)
from roboshard.shards.versions import GROWN_VERSION


@dataclass(frozen=True, kw_only=True)
class Grown:
    """A dataset that has grown, as it is to be written."""

    manifest: DatasetManifest
    files: tuple[tuple[str, bytes], ...]
    """Names and contents, in the order in which they are written; the last is dataset.json."""


def snapshot_of(manifest: DatasetManifest, data: bytes) -> Snapshot:
    """Return what a dataset that grows says of what it was; `data` is its dataset.json until
    then.
    """
    return Snapshot(
        fingerprint=manifest.fingerprint,
        conversion=manifest.conversion.id,
        episodes=manifest.total_episodes,
        frames=manifest.total_frames,
        shards=len(manifest.shards),
        index=manifest.index,
        manifest=file_entry(snapshot_name(manifest.fingerprint), data),
    )


def grow(
    base: DatasetManifest,
    base_data: bytes,
    base_index: bytes,
    provenance: Provenance,
    manifests: Sequence[ShardManifest],
) -> Grown:
    """Return what has to be written, once its new shards are, for a dataset to grow by them.

    Args:
        base: the dataset as it is.
        base_data: its dataset.json.
        base_index: its index, checked.
        provenance: of the new shards; what it says of the source holds for all episodes.
        manifests: of the new shards, ascending by name.
    """
    index = extended_index(base_index, len(base.shards), manifests)
    entry = grown_index_entry(index)
    sealed = seal(
        provenance,
        [*base.shards, *map(shard_entry, manifests)],
        entry,
        GROWN_VERSION,
        [*base.snapshots, snapshot_of(base, base_data)],
    )
    return Grown(
        manifest=sealed,
        files=(
            (snapshot_name(base.fingerprint), base_data),
            (entry.name, index),
            (DATASET_MANIFEST, document_bytes(sealed)),
        ),
    )


def grown_index_entry(index: bytes) -> FileEntry:
    """Return name, size and hash of the index of a dataset that has grown."""
    return file_entry(grown_index_name(hashlib.sha256(index).hexdigest()), index)


def extended_index(index: bytes, num_shards: int, manifests: Sequence[ShardManifest]) -> bytes:
    """Return the index of a dataset of `num_shards` shards with those of further ones: as of all
    manifests together.

    Raises:
        ArrowException, OSError: `index` is none.
    """
    old = pq.read_table(pa.BufferReader(index), columns=INDEX_SCHEMA.names, use_threads=False)
    new = index_table(manifests, first_shard=num_shards)
    together = pa.concat_tables([old.cast(INDEX_SCHEMA), new])
    return table_bytes(together.sort_by("episode_index"))

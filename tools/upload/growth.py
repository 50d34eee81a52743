"""A dataset that has grown since it was sent: what the destination's dataset.json lists stays, the
rest is added.
"""

import hashlib
from collections.abc import Mapping

from roboshard.shards.documents import FileEntry
from roboshard.shards.schema import DatasetManifest, Snapshot
from roboshard.shards.shard_list import ShardEntry
from roboshard.storage import StoredFile


def snapshot_there(old: bytes | None, dataset: DatasetManifest) -> Snapshot | None:
    """Return the snapshot whose dataset.json is at the destination; None: another one is, or
    none.
    """
    if old is None:
        return None
    sha256 = hashlib.sha256(old).hexdigest()
    found = [each for each in dataset.snapshots if each.manifest.sha256 == sha256]
    return found[0] if found else None


def listed_by(snapshot: Snapshot, dataset: DatasetManifest) -> set[str]:
    """Return the files that the dataset.json of a snapshot lists."""
    before = dataset.snapshots[: dataset.snapshots.index(snapshot)]
    names = {entry.name for each in before for entry in (each.manifest, each.index)}
    for shard in dataset.shards[: snapshot.shards]:
        names |= {shard.name, shard.manifest.name}
    return names | {snapshot.index.name}


def published(
    snapshot: Snapshot, dataset: DatasetManifest, there: Mapping[str, StoredFile]
) -> set[str]:
    """Return which shards of a snapshot, with their manifests, are at the destination with their
    sizes.

    Each was seen to be right there before the dataset.json was sent that lists it. So it is not
    read and hashed again each time that the dataset grows.
    """
    entries: list[ShardEntry | FileEntry] = []
    for shard in dataset.shards[: snapshot.shards]:
        entries += [shard, shard.manifest]
    return {
        entry.name
        for entry in entries
        if entry.name in there and there[entry.name].size == entry.size
    }

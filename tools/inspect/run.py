"""What a dataset is, in numbers: from its manifests, and from the records of a few episodes."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common.selection import spread
from roboshard.shards.cameras import EPISODES_LOOKED_AT, CameraSummary, summarize_cameras
from roboshard.shards.index import MAX_INDEX_BYTES
from roboshard.shards.manifest import load_index
from roboshard.shards.names import camera_suffixes, member_name
from roboshard.shards.reader import ShardedDataset
from roboshard.shards.schema import CameraRecord, DatasetManifest

BARS = 10


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a dataset of shards is, in numbers."""

    url: str
    version: str
    fingerprint: str
    episodes: int
    frames: int
    fps: float
    hours: float
    shards: int
    num_bytes: int
    shard_bytes: tuple[int, int, int]
    """Bytes of the smallest shard, of the median one, and of the largest."""
    lengths: list[tuple[int, int, int]]
    """Histogram of rows per episode: (from, to, episodes), `to` included."""
    tasks: list[tuple[str, int]]
    """(task, how many episodes have it), most frequent first."""
    features: dict[str, str]
    """Feature key -> dtype and shape, and in how many rows it has no value."""
    cameras: list[CameraSummary]
    looked_at: list[int]
    """The episodes whose records were read for `cameras`."""
    source: dict[str, Any]
    conversion: dict[str, Any]
    snapshots: list[dict[str, Any]]
    """What a dataset that has grown was each time, oldest first, and what it is: `number`,
    `fingerprint`, `episodes`, `frames`, `shards`. Empty for one that has not.
    """


def summarize(url: str) -> Summary:
    """Read manifests, index and a few records of a dataset.

    Args:
        url: the dataset's root or a shard of it.

    Returns:
        What the dataset holds.

    Raises:
        MissingError, FormatError, VersionError, DamageError, StorageError: No usable dataset is
            there.

    Example:
        >>> summary = summarize("my_dataset_shards")
        >>> (summary.episodes, summary.fps)
        (14, 10.0)
    """
    dataset = ShardedDataset.open(url)
    manifest, index = dataset.manifest, dataset.index
    missing = manifest.missing
    shards = [manifest.shards[i] for i in np.unique(index.shard).tolist()]
    sizes = sorted(shard.size for shard in shards)
    positions = spread(len(index), EPISODES_LOOKED_AT)
    frames = int(index.length.sum())
    return Summary(
        url=storage.redacted(dataset.root),
        version=manifest.version,
        fingerprint=manifest.fingerprint,
        episodes=len(index),
        frames=frames,
        fps=manifest.fps,
        hours=frames / manifest.fps / 3600,
        shards=len(shards),
        num_bytes=sum(sizes),
        shard_bytes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else (0, 0, 0),
        lengths=histogram(index.length),
        tasks=_tasks(dataset),
        features={
            key: f"{spec.get('dtype')} {spec.get('shape')}"
            + (f", no value in {missing[key]} rows" if key in missing else "")
            for key, spec in manifest.features.items()
        },
        cameras=_cameras(dataset, positions),
        looked_at=[int(index.episode_index[position]) for position in positions],
        source=manifest.source.model_dump(mode="json"),
        conversion=manifest.conversion.model_dump(mode="json"),
        snapshots=_snapshots(manifest) if manifest.snapshots else [],
    )


def _snapshots(manifest: DatasetManifest) -> list[dict[str, Any]]:
    now = {
        "fingerprint": manifest.fingerprint,
        "episodes": manifest.total_episodes,
        "frames": manifest.total_frames,
        "shards": len(manifest.shards),
    }
    found = [{name: getattr(snapshot, name) for name in now} for snapshot in manifest.snapshots]
    return [{"number": number, **each} for number, each in enumerate([*found, now])]


def histogram(lengths: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Return at most BARS bars of whole lengths, equally wide: (from, to included, episodes)."""
    if not len(lengths):
        return []
    low, high = int(lengths.min()), int(lengths.max())
    width = -(-(high - low + 1) // BARS)
    counts = np.bincount((lengths - low) // width)
    return [
        (low + i * width, low + (i + 1) * width - 1, int(count)) for i, count in enumerate(counts)
    ]


def _tasks(dataset: ShardedDataset) -> list[tuple[str, int]]:
    data = load_index(dataset.root, dataset.manifest, MAX_INDEX_BYTES)
    table = pq.read_table(
        pa.BufferReader(data), columns=["episode_index", "tasks"], use_threads=False
    )
    kept = np.isin(table.column("episode_index").to_numpy(), dataset.index.episode_index)
    counts = Counter[str]()
    for tasks in table.column("tasks").filter(pa.array(kept)).to_pylist():
        counts.update(set(tasks))
    return counts.most_common()


def _cameras(dataset: ShardedDataset, positions: list[int]) -> list[CameraSummary]:
    records: list[tuple[CameraRecord, int]] = []
    suffixes = camera_suffixes(dataset.camera_keys)
    for position in positions:
        record = dataset.read_episode(position, cameras=[]).record
        sample = dataset.sample(position)
        sizes = {member.name: member.size for member in sample.members}
        for camera in record.cameras:
            size = sizes.get(member_name(sample.key, camera.member or suffixes[camera.key]), 0)
            records.append((camera, size))
    return summarize_cameras(records)

"""`episodes.parquet`: one row per episode, what a loader plans from. Derived from the shard manifests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard.shards.errors import FormatError
from roboshard.shards.schema import DatasetManifest, ShardManifest

MAX_INDEX_BYTES = 4 << 30

INDEX_SCHEMA = pa.schema(
    [
        pa.field("episode_index", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("tasks", pa.list_(pa.string()), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),  # position in dataset.json's shards
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("crc32c", pa.uint32(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class EpisodeIndex:
    """Arrays over all episodes, ascending by episode_index; each of shape (num_episodes,)."""

    episode_index: NDArray[np.int64]
    length: NDArray[np.int64]
    """Rows per episode."""
    shard: NDArray[np.int64]
    """Position of the episode's shard in dataset.json."""
    offset: NDArray[np.int64]
    """First byte of the sample in its shard."""
    size: NDArray[np.int64]
    """Bytes of the sample's range."""
    crc32c: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.episode_index)


def index_bytes(manifests: Sequence[ShardManifest]) -> bytes:
    """The index of a dataset made of these shards, in dataset.json's order."""
    samples = sorted(
        ((sample, number) for number, manifest in enumerate(manifests) for sample in manifest.samples),
        key=lambda pair: pair[0].episode_index,
    )
    columns = {
        "episode_index": [sample.episode_index for sample, _ in samples],
        "length": [sample.length for sample, _ in samples],
        "tasks": [sample.tasks for sample, _ in samples],
        "shard": [number for _, number in samples],
        "offset": [sample.offset for sample, _ in samples],
        "size": [sample.size for sample, _ in samples],
        "crc32c": [int(sample.crc32c, 16) for sample, _ in samples],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=INDEX_SCHEMA), sink, compression="zstd")
    return bytes(sink.getvalue())


def read_index(data: bytes, manifest: DatasetManifest, what: str) -> EpisodeIndex:
    """Read and check the index against the dataset manifest.

    Raises:
        FormatError: not parquet, other columns, or rows that contradict the manifest.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.metadata.num_rows != manifest.total_episodes:
            raise FormatError(
                f"{what}: {file.metadata.num_rows} episodes where dataset.json counts {manifest.total_episodes}"
            )
        table = file.read(columns=[name for name in INDEX_SCHEMA.names if name != "tasks"], use_threads=False)
        arrays = {name: table.column(name).to_numpy().astype(np.int64) for name in EpisodeIndex.__dataclass_fields__}
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{what}: not a readable episode index: {error}") from None
    index = EpisodeIndex(**arrays)
    problems = list(_problems(index, manifest))
    if problems:
        raise FormatError(f"{what}: contradicts dataset.json:", problems)
    return index


def _problems(index: EpisodeIndex, manifest: DatasetManifest) -> list[str]:
    problems = []
    if np.any(np.diff(index.episode_index) <= 0) or np.any(index.episode_index < 0):
        problems.append("episode_index does not ascend")
    if np.any(index.length < 1) or int(index.length.sum()) != manifest.total_frames:
        problems.append(f"lengths add up to {index.length.sum()}, not {manifest.total_frames} frames")
    if np.any((index.shard < 0) | (index.shard >= len(manifest.shards))):
        return [*problems, "a row names a shard that dataset.json does not list"]
    counts = np.bincount(index.shard, minlength=len(manifest.shards))
    sizes = np.array([shard.size for shard in manifest.shards], dtype=np.int64)
    if np.any(counts != np.array([shard.episodes for shard in manifest.shards], dtype=np.int64)):
        problems.append("the episodes of a shard are not as many as dataset.json says")
    if np.any((index.offset < 0) | (index.size < 1) | (index.offset + index.size > sizes[index.shard])):
        problems.append("a sample's range leaves its shard")
    return problems

"""`episodes.parquet`: one row per episode, what a loader plans from.

Derived from the shard manifests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard.common.errors import FormatError
from roboshard.shards.arrow_numbers import to_numpy
from roboshard.shards.parquet_limits import check_decoded
from roboshard.shards.schema import DatasetManifest, ShardManifest

MAX_INDEX_BYTES = 4 << 30
CHECKSUM_BYTES = 4  # per episode, which no encoding makes smaller

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
    """Rows of each episode."""
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
    return table_bytes(index_table(manifests))


def index_table(manifests: Sequence[ShardManifest], *, first_shard: int = 0) -> pa.Table:
    """The rows of these shards, the first of which has the place `first_shard` in dataset.json."""
    samples = sorted(
        (
            (sample, number)
            for number, manifest in enumerate(manifests, first_shard)
            for sample in manifest.samples
        ),
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
    return pa.table(columns, schema=INDEX_SCHEMA)


def table_bytes(table: pa.Table) -> bytes:
    """The index's file; the same bytes for the same rows, however they came together."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="zstd")
    return bytes(sink.getvalue())


def read_index(data: bytes, manifest: DatasetManifest, what: str) -> EpisodeIndex:
    """Read and check the index against the dataset manifest.

    Raises:
        FormatError: not parquet, other columns, or rows that contradict the manifest.
    """
    names = list(EpisodeIndex.__dataclass_fields__)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        problems = _shape_problems(file, manifest, len(data))
        if problems:
            raise FormatError(f"{what}: not the episode index of dataset.json:", problems)
        check_decoded(file, data, what)
        table = file.read(columns=names, use_threads=False)
    except FormatError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise FormatError(f"{what}: not a readable episode index: {error}") from None
    index = EpisodeIndex(**{name: to_numpy(table.column(name)).astype(np.int64) for name in names})
    problems = _problems(index, manifest)
    if problems:
        raise FormatError(f"{what}: contradicts dataset.json:", problems)
    return index


def _shape_problems(file: Any, manifest: DatasetManifest, num_bytes: int) -> list[str]:
    """What can be known before any column is read: a few kilobytes of parquet can claim billions of
    rows.
    """
    metadata, schema, problems = file.metadata, file.schema_arrow, []
    rows = sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if not rows == metadata.num_rows == manifest.total_episodes:
        problems.append(f"{rows} episodes where dataset.json counts {manifest.total_episodes}")
    if rows * CHECKSUM_BYTES > num_bytes:
        problems.append(f"{num_bytes} bytes cannot hold the checksums of {rows} episodes")
    for name in EpisodeIndex.__dataclass_fields__:
        expected = INDEX_SCHEMA.field(name)
        if [schema.field(i) for i in schema.get_all_field_indices(name)] != [expected]:
            problems.append(f"no one column {name!r} of type {expected.type}, not null")
    return problems


def _problems(index: EpisodeIndex, manifest: DatasetManifest) -> list[str]:
    problems = []
    if np.any(np.diff(index.episode_index) <= 0) or np.any(index.episode_index < 0):
        problems.append("episode_index does not ascend")
    if np.any((index.length < 1) | (index.length > manifest.total_frames)):
        problems.append("a length is not in 1..total_frames")
    if np.any((index.shard < 0) | (index.shard >= len(manifest.shards))):
        return [*problems, "a row names a shard that dataset.json does not list"]
    counts = np.bincount(index.shard, minlength=len(manifest.shards))
    frames = np.bincount(
        index.shard, index.length, minlength=len(manifest.shards)
    )  # float64: no wrapping around
    if np.any(counts != manifest.shards.episodes):
        problems.append("the episodes of a shard are not as many as dataset.json says")
    if np.any(frames != manifest.shards.frames):
        problems.append("the frames of a shard are not as many as dataset.json says")
    sizes = manifest.shards.sizes
    if np.any(
        (index.offset < 0) | (index.size < 1) | (index.size > sizes[index.shard] - index.offset)
    ):
        problems.append("a sample's range leaves its shard")
    return problems

"""The index gives back what the manifests say, and holds nothing that dataset.json does not
allow.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.common.errors import FormatError
from roboshard.shards.index import INDEX_SCHEMA, EpisodeIndex, index_bytes, read_index
from roboshard.shards.manifest import (
    file_entry,
    load_dataset_manifest,
    load_shard_manifest,
    seal,
    shard_entry,
    write_dataset,
)
from roboshard.shards.names import sample_key, shard_name
from roboshard.shards.schema import (
    FORMAT_VERSION,
    Conversion,
    DatasetManifest,
    Provenance,
    SampleEntry,
    ShardManifest,
    SourceInfo,
)

PROVENANCE = Provenance(
    source=SourceInfo(name="x", revision=None, codebase_version="v3.0", fingerprint="0" * 64),
    conversion=Conversion(id="1" * 64, options={}, versions={}, num_shards=1),
    fps=10.0,
    features={},
    tasks=[],
    info={},
    stats=None,
)


def made(shards: list[list[tuple[int, int]]]) -> list[ShardManifest]:
    """Manifests of shards that hold these (episode, length)."""
    return [
        ShardManifest(
            version=FORMAT_VERSION,
            shard=shard_name(number),
            size=2048 * len(episodes),
            sha256="2" * 64,
            conversion="1" * 64,
            samples=[
                SampleEntry(
                    key=sample_key(episode),
                    episode_index=episode,
                    length=length,
                    tasks=["拿起 🧊"],
                    offset=2048 * i,
                    size=2048,
                    crc32c=f"{episode * 2654435761 % (1 << 32):08x}",
                    members=[],
                )
                for i, (episode, length) in enumerate(episodes)
            ],
        )
        for number, episodes in enumerate(shards)
    ]


def sealed(manifests: list[ShardManifest], index: bytes) -> DatasetManifest:
    return seal(
        PROVENANCE,
        [shard_entry(manifest) for manifest in manifests],
        file_entry("episodes.parquet", index),
    )


@st.composite
def dealt(draw: st.DrawFn) -> list[list[tuple[int, int]]]:
    """Episodes with lengths, dealt to shards in any order."""
    episodes = draw(st.lists(st.integers(0, 10**9 - 1), unique=True, min_size=1, max_size=12))
    with_lengths = [(episode, draw(st.integers(1, 1 << 36))) for episode in episodes]
    cuts = sorted(draw(st.sets(st.integers(1, len(episodes)), max_size=3)) | {0, len(episodes)})
    return [with_lengths[a:b] for a, b in pairwise(cuts)]


@given(dealt())
def test_the_index_lists_every_sample_by_episode(shards: list[list[tuple[int, int]]]) -> None:
    manifests = made(shards)
    data = index_bytes(manifests)
    index = read_index(data, sealed(manifests, data), "episodes.parquet")
    by_episode = {
        s.episode_index: (n, s) for n, manifest in enumerate(manifests) for s in manifest.samples
    }
    assert index.episode_index.tolist() == sorted(by_episode)
    for i, episode in enumerate(index.episode_index.tolist()):
        number, sample = by_episode[episode]
        found = (
            index.shard[i],
            index.length[i],
            index.offset[i],
            index.size[i],
            f"{index.crc32c[i]:08x}",
        )
        assert found == (number, sample.length, sample.offset, sample.size, sample.crc32c)
    assert len(index) == len(by_episode)
    assert index_bytes(manifests) == data


def test_the_index_of_a_real_dataset_is_that_of_its_manifests(pusht_shards: Path) -> None:
    dataset = load_dataset_manifest(str(pusht_shards))
    manifests = [load_shard_manifest(str(pusht_shards), shard) for shard in dataset.shards]
    assert index_bytes(manifests) == (pusht_shards / "episodes.parquet").read_bytes()
    table = pq.read_table(pusht_shards / "episodes.parquet")
    assert table.schema.equals(INDEX_SCHEMA)
    assert table["tasks"].to_pylist() == [dataset.tasks] * 14


# -- What contradicts dataset.json -----------------------------------------------------------------

MANIFESTS = made([[(0, 5), (1, 7)], [(2, 9)]])
HONEST = pq.read_table(pa.BufferReader(index_bytes(MANIFESTS)))
DATASET = sealed(MANIFESTS, index_bytes(MANIFESTS))


def written(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue())


def column(name: str, values: object, **changes: object) -> bytes:
    """The honest index with one column replaced; `changes` are of its field."""
    field = INDEX_SCHEMA.field(name)
    field = pa.field(
        name, changes.get("type", field.type), nullable=bool(changes.get("nullable", False))
    )
    at = HONEST.schema.get_field_index(name)
    return written(HONEST.set_column(at, field, pa.array(values, field.type)))


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("episode_index", [0, 2, 1], "does not ascend"),
        ("episode_index", [0, 1, 1], "does not ascend"),
        ("episode_index", [-1, 1, 2], "does not ascend"),
        ("episode_index", [-(1 << 63), 1, (1 << 63) - 1], "does not ascend"),
        ("length", [5, 7, 0], "a length is not in"),
        ("length", [5, 7, -9], "a length is not in"),
        ("length", [(1 << 63) - 1, (1 << 63) - 1, 23], "a length is not in"),
        ("length", [7, 7, 9], "the frames of a shard"),
        ("length", [5, 9, 7], "the frames of a shard"),
        ("shard", [0, 0, 2], "names a shard that dataset.json does not list"),
        ("shard", [-1, 0, 1], "names a shard that dataset.json does not list"),
        ("shard", [0, 1, 1], "the episodes of a shard"),
        ("offset", [0, 2048, 1], "leaves its shard"),
        ("offset", [-1, 2048, 0], "leaves its shard"),
        ("offset", [0, (1 << 63) - 1, 0], "leaves its shard"),
        ("size", [2048, 2049, 2048], "leaves its shard"),
        ("size", [2048, 0, 2048], "leaves its shard"),
        ("size", [2048, (1 << 63) - 1, 2048], "leaves its shard"),
    ],
)
def test_rows_that_contradict_dataset_json_are_refused(
    name: str, values: list[int], problem: str
) -> None:
    with pytest.raises(FormatError, match=r"x: contradicts dataset\.json:\n(.|\n)*" + problem):
        read_index(column(name, values), DATASET, "x")


@pytest.mark.parametrize("name", EpisodeIndex.__dataclass_fields__)
@pytest.mark.parametrize(
    ("type_", "values"),
    [
        (pa.float64(), [0.0, 1.0, float("nan")]),
        (pa.string(), ["0", "1", "2"]),
        (pa.list_(pa.int64()), [[0], [1], []]),
        (pa.struct([("a", pa.int64())]), [{"a": 0}] * 3),
        (pa.bool_(), [True, False, True]),
        (pa.null(), [None] * 3),
        (pa.timestamp("us"), [0, 1, 2]),
        (pa.dictionary(pa.int8(), pa.string()), ["a"] * 3),
    ],
    ids=str,
)
def test_a_column_of_another_type_is_refused(
    name: str, type_: pa.DataType, values: list[object]
) -> None:
    data = column(name, values, type=type_, nullable=True)
    with pytest.raises(FormatError, match=f"no one column '{name}' of type"):
        read_index(data, DATASET, "x")


@pytest.mark.parametrize("name", EpisodeIndex.__dataclass_fields__)
def test_a_column_that_is_missing_doubled_or_has_gaps_is_refused(name: str) -> None:
    doubled = HONEST.append_column(INDEX_SCHEMA.field(name), HONEST[name])
    gaps = column(name, [None, 1, 2], nullable=True)
    for data in (written(HONEST.drop_columns([name])), written(doubled), gaps):
        with pytest.raises(FormatError, match=f"no one column '{name}' of type"):
            read_index(data, DATASET, "x")


def test_more_columns_and_another_order_are_read() -> None:
    more = HONEST.append_column("later", pa.array([1.5, None, 2.5])).select(
        [*reversed(INDEX_SCHEMA.names), "later"]
    )
    for options in ({}, {"compression": "none"}, {"row_group_size": 1}, {"use_dictionary": False}):
        index = read_index(written(more, **options), DATASET, "x")
        assert index.length.tolist() == [5, 7, 9]
        assert all(values.dtype == np.int64 for values in vars(index).values())


@pytest.mark.parametrize(
    "data",
    [b"", b"PAR1", b"x" * 100, written(HONEST)[:-1], written(HONEST)[1:], b"PAR1" + bytes(100)],
)
def test_what_is_not_parquet_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="x: not a readable episode index"):
        read_index(data, DATASET, "x")


def test_more_or_fewer_rows_than_episodes_are_refused() -> None:
    for table in (HONEST.slice(0, 2), pa.concat_tables([HONEST, HONEST]), HONEST.slice(0, 0)):
        with pytest.raises(FormatError, match=f"{len(table)} episodes where dataset.json counts 3"):
            read_index(written(table), DATASET, "x")


def test_a_dataset_of_no_episodes_has_an_empty_index() -> None:
    data = index_bytes([])
    assert len(read_index(data, sealed([], data), "x")) == 0


def test_opening_many_shards_takes_little_more_memory_than_their_entries(tmp_path: Path) -> None:
    """The parsed JSON of dataset.json is gone before entries are made of it, and those are
    packed.
    """
    number = 1000
    write_dataset(tmp_path, PROVENANCE, made([[(i, 1)] for i in range(number)]))
    manifest = load_dataset_manifest(str(tmp_path))  # what is made once is there
    entries, _ = traced(lambda: list(manifest.shards))
    kept, peak = traced(lambda: load_dataset_manifest(str(tmp_path)))
    assert peak < 1.5 * entries
    assert kept < 0.1 * entries


def traced(make: Callable[[], object]) -> tuple[int, int]:
    """Return the memory that something takes once it is made, and at the most until then."""
    gc.collect()
    tracemalloc.start()
    try:
        _made = make()
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

"""The episode index against the shard manifests, one shard at a time."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roboshard.common.errors import FormatError
from roboshard.common.selection import some
from roboshard.shards.index import INDEX_SCHEMA, read_index
from roboshard.shards.schema import DatasetManifest
from roboshard.tools.verify.layout import Sample
from roboshard.tools.verify.problems import REBUILD, Place


class IndexRows:
    """All rows of episodes.parquet, as compact as it keeps them, found by shard."""

    def __init__(self, data: bytes, manifest: DatasetManifest, what: str) -> None:
        """Read episodes.parquet. Raises FormatError as a reader would."""
        index = read_index(data, manifest, what)
        try:
            self._table = pq.read_table(
                pa.BufferReader(data), columns=INDEX_SCHEMA.names, use_threads=False
            )
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise FormatError(f"{what}: not a readable episode index: {error}") from None
        if self._table.schema.names != INDEX_SCHEMA.names:
            raise FormatError(
                f"{what}: columns {self._table.schema.names} where there should be "
                f"{INDEX_SCHEMA.names}"
            )
        self._order = np.argsort(index.shard, kind="stable")
        self._bounds = np.searchsorted(
            index.shard[self._order], np.arange(len(manifest.shards) + 1)
        )

    def check(self, shard: int, samples: Sequence[Sample], place: Place) -> None:
        """Report what the index says otherwise than the manifest of a shard."""
        positions = self._order[self._bounds[shard] : self._bounds[shard + 1]]
        rows = {
            row["episode_index"]: row for row in self._table.take(pa.array(positions)).to_pylist()
        }
        absent = [sample.episode for sample in samples if sample.episode not in rows]
        extra = sorted(rows.keys() - {sample.episode for sample in samples})
        if absent:
            place.report(
                f"episodes.parquet does not have episodes {some(absent)} in this shard", REBUILD
            )
        if extra:
            place.report(
                f"episodes.parquet has episodes {some(extra)} in this shard, its manifest has not",
                REBUILD,
            )
        for sample in samples:
            row = rows.get(sample.episode)
            if row is None:
                continue
            crc32c = None if sample.crc32c is None else int(sample.crc32c, 16)
            stated = {
                "length": sample.length,
                "tasks": sample.tasks,
                "offset": sample.offset,
                "size": sample.size,
            }
            wrong = [
                name for name, value in {**stated, "crc32c": crc32c}.items() if row[name] != value
            ]
            if wrong:
                place.at(episode=sample.episode).report(
                    f"{', '.join(wrong)} differ from episodes.parquet", REBUILD
                )

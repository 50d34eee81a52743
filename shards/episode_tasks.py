"""The tasks of all episodes, as the index has them: arrays, since there may be a million of
them.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common.errors import FormatError
from roboshard.shards.arrow_numbers import to_numpy
from roboshard.shards.index import INDEX_SCHEMA, MAX_INDEX_BYTES
from roboshard.shards.manifest import load_index
from roboshard.shards.parquet_limits import check_decoded
from roboshard.shards.reader import ShardedDataset


@dataclass(frozen=True)
class EpisodeTasks:
    """Tasks by position in the index of a dataset."""

    texts: tuple[str, ...]
    """Texts of all tasks that occur, each once."""
    codes: NDArray[np.int64]
    """Places in `texts` of the tasks of all episodes, episode by episode."""
    starts: NDArray[np.int64]
    """Where each episode's tasks begin in `codes`; one more entry than episodes."""

    def of(self, position: int) -> tuple[str, ...]:
        """Return the tasks of an episode."""
        start, stop = self.starts[position : position + 2].tolist()
        return tuple(self.texts[code] for code in self.codes[start:stop].tolist())

    def have_one_of(self, tasks: Collection[str]) -> NDArray[np.bool_]:
        """Return whether each episode has one of these tasks, (num_episodes,)."""
        is_wanted = np.asarray([text in tasks for text in self.texts], dtype=np.bool_)
        found = np.zeros(len(self.codes) + 1, dtype=np.int64)
        if len(self.codes):
            found[1:] = np.cumsum(is_wanted[self.codes])
        have: NDArray[np.bool_] = found[self.starts[1:]] > found[self.starts[:-1]]
        return have


def read_episode_tasks(dataset: ShardedDataset) -> EpisodeTasks:
    """Read the tasks of the episodes in a dataset's index.

    Raises:
        FormatError, DamageError, MissingError, StorageError: as reading the index does.
    """
    manifest, root = dataset.manifest, dataset.root
    data = load_index(root, manifest, MAX_INDEX_BYTES, policy=dataset.settings.policy)
    what = storage.redacted(storage.join(root, manifest.index.name))
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if not file.schema_arrow.field("tasks").type.equals(INDEX_SCHEMA.field("tasks").type):
            raise FormatError(f"{what}: the column 'tasks' holds no lists of texts")
        check_decoded(file, data, what)
        table = file.read(columns=["episode_index", "tasks"], use_threads=False)
    except FormatError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise FormatError(f"{what}: not a readable episode index: {error}") from None
    places = np.searchsorted(to_numpy(table["episode_index"]), dataset.index.episode_index)
    tasks = table["tasks"].combine_chunks().take(pa.array(places))
    encoded = tasks.flatten().fill_null("").dictionary_encode()
    counts = to_numpy(tasks.value_lengths().fill_null(0)).astype(np.int64)
    return EpisodeTasks(
        texts=tuple(encoded.dictionary.to_pylist()),
        codes=to_numpy(encoded.indices).astype(np.int64),
        starts=np.r_[0, np.cumsum(counts)].astype(np.int64),
    )

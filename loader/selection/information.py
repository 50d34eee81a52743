"""What a predicate is told of an episode, read as far as it asks for it."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common.errors import OptionError, RoboshardError
from roboshard.common.jsonio import Json
from roboshard.shards.episode_tasks import EpisodeTasks, read_episode_tasks
from roboshard.shards.reader import ShardedDataset
from roboshard.shards.rows import read_episode_row

AT_ONCE = 8
"""Episodes that a thread reads together."""
BYTES_AT_ONCE = 256 << 20
"""Most bytes of the samples, videos included, of episodes that a thread reads together."""
REMOTE_THREADS = 8
STATS = "stats/"


class EpisodeInfo:
    """An episode as a predicate sees it: `lambda e: e.length > 100 and e["success"]`.

    `episode_index`, `length` and `tasks` are in the dataset's index and cost nothing. `e["column"]`
    and `stats` come from the episode's row of the source's meta/episodes, which lies beside its
    rows: a predicate that asks for them has the rows of the episodes read, without their videos.
    """

    __slots__ = ("_metadata", "_position", "episode_index", "length")

    def __init__(
        self, metadata: "EpisodeMetadata", position: int, episode_index: int, length: int
    ) -> None:
        self._metadata = metadata
        self._position = position
        self.episode_index = episode_index
        """The episode's number in the dataset."""
        self.length = length
        """How many rows the episode has."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the episode's metadata names."""
        return self._metadata.tasks.of(self._position)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the episode's metadata."""
        return tuple(self._metadata.row(self._position))

    @property
    def stats(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Feature key -> min, max, mean, std, count, … of this episode, as arrays; empty where
        there are none.
        """
        found: dict[str, dict[str, NDArray[Any]]] = {}
        for name, value in self._metadata.row(self._position).items():
            if name.startswith(STATS) and value is not None:
                key, _, what = name.removeprefix(STATS).rpartition("/")
                found.setdefault(key, {})[what] = np.asarray(value)
        return found

    def __getitem__(self, column: str) -> Json:
        """Return the value of a column of the episode's metadata.

        Raises OptionError where it has no such column.
        """
        row = self._metadata.row(self._position)
        if column not in row:
            names = [name for name in row if not name.startswith(STATS)]
            raise OptionError(
                f"the metadata of episode {self.episode_index} have no column {column!r}; there "
                f"are {names}" + (f" and {STATS}…" if len(names) < len(row) else "")
            )
        return row[column]

    def get(self, column: str, default: Json = None) -> Json:
        """Return the value of a column of the episode's metadata, or `default` where there is no
        such column.
        """
        return self._metadata.row(self._position).get(column, default)

    def __repr__(self) -> str:
        return f"EpisodeInfo(episode_index={self.episode_index}, length={self.length})"


class EpisodeMetadata:
    """The metadata of episodes that are gone through in order: rows are read some ahead, and not
    kept.
    """

    def __init__(self, dataset: ShardedDataset, positions: NDArray[np.int64]) -> None:
        """Read nothing yet; `positions` ascend."""
        self._dataset = dataset
        self._positions = positions
        self._rows: OrderedDict[int, dict[str, Json] | RoboshardError] = OrderedDict()

    def __iter__(self) -> Iterator[EpisodeInfo]:
        """Yield each episode in order, as a predicate sees it."""
        index = self._dataset.index
        for position in self._positions.tolist():
            yield EpisodeInfo(
                self, position, int(index.episode_index[position]), int(index.length[position])
            )

    @cached_property
    def tasks(self) -> EpisodeTasks:
        """The tasks of all episodes."""
        return read_episode_tasks(self._dataset)

    def row(self, position: int) -> dict[str, Json]:
        """Return an episode's row of the source's meta/episodes; empty where it has none.

        Raises:
            DamageError, FormatError, MissingError, StorageError: of an episode that cannot be read.
        """
        if position not in self._rows:
            self._read_from(position)
        found = self._rows[position]
        if isinstance(found, RoboshardError):
            raise found
        return found

    def _read_from(self, position: int) -> None:
        threads = 1 if storage.is_local(self._dataset.root) else REMOTE_THREADS
        groups: list[list[int]] = []
        place = int(np.searchsorted(self._positions, position))
        while len(groups) < threads and place < len(self._positions):
            coming = self._positions[place : place + AT_ONCE]
            held = np.cumsum(self._dataset.index.size[coming]) <= BYTES_AT_ONCE
            groups.append(coming[: max(1, int(held.sum()))].tolist())
            place += len(groups[-1])
        self._rows.clear()
        if len(groups) == 1:
            self._rows.update(self._read(groups[0]))
            return
        with ThreadPoolExecutor(threads) as pool:
            for rows in pool.map(self._read, groups):
                self._rows.update(rows)

    def _read(self, positions: Sequence[int]) -> dict[int, dict[str, Json] | RoboshardError]:
        read = self._dataset.read_episodes(positions, cameras=())
        return {
            position: data
            if isinstance(data, RoboshardError)
            else read_episode_row(data.rows, data.where)
            for position, data in zip(positions, read, strict=True)
        }

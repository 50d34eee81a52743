"""Where each episode's samples lie among those of a dataset: the columns that LeRobot's samplers
read.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import OptionError

COLUMNS = ("episode_index", "length", "dataset_from_index", "dataset_to_index")
MAX_ROWS, ROWS_AN_EPISODE = 1 << 22, 64
"""Most rows of a column: the first number, and the second one more for each episode."""


@dataclass(frozen=True, eq=False)
class EpisodeTable:
    """Episodes as in `LeRobotDatasetMetadata.episodes`: `table["dataset_from_index"]` is a column,
    `table[7]` a row.

    Row n is episode n. Boundaries are numbers of samples, for `dataset[i]`; an episode that is not
    in the dataset, or not among those chosen of it, has none: it begins where it ends.
    """

    episode_index: NDArray[np.int64]
    """(n,) indices of the episodes that have samples, ascending."""
    num_samples: NDArray[np.int64]
    """(n,) how many samples each of the episodes has."""

    @property
    def column_names(self) -> list[str]:
        """Names of the columns that the table has."""
        return list(COLUMNS)

    def __len__(self) -> int:
        """Return how many rows the table has: one more than the largest episode index."""
        return int(self.episode_index[-1]) + 1

    @overload
    def __getitem__(self, key: str) -> list[int]: ...

    @overload
    def __getitem__(self, key: int) -> dict[str, int]: ...

    def __getitem__(self, key: str | int) -> list[int] | dict[str, int]:
        """Return a column by its name, or a row by its episode index.

        Raises:
            KeyError, IndexError: there is none.
            OptionError: a column is asked for where the largest number is far beyond the number of
                episodes.
        """
        if isinstance(key, str):
            column: list[int] = self._columns[key].tolist()
            return column
        row = range(len(self))[key]
        place = int(np.searchsorted(self.episode_index, row))
        is_there = place < len(self.episode_index) and int(self.episode_index[place]) == row
        length = int(self.num_samples[place]) if is_there else 0
        start = int(self._ends[place - 1]) if place else 0
        return dict(zip(COLUMNS, (row, length, start, start + length), strict=True))

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.num_samples)

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int64]]:
        if len(self) > MAX_ROWS + ROWS_AN_EPISODE * len(self.episode_index):
            raise OptionError(
                f"{len(self.episode_index)} episodes are numbered up to "
                f"{int(self.episode_index[-1])}: columns with a row for each number would not fit "
                "into memory; read rows by their number, or episode_index"
            )
        length = np.zeros(len(self), dtype=np.int64)
        length[self.episode_index] = self.num_samples
        end = np.cumsum(length)
        columns = (np.arange(len(self)), length, end - length, end)
        return dict(zip(COLUMNS, columns, strict=True))

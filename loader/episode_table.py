"""Where each episode's samples lie among those of a dataset: the columns that LeRobot's samplers read."""

from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class EpisodeTable:
    """As `LeRobotDatasetMetadata.episodes`: `table["dataset_from_index"]` is a column, `table[7]` a row.

    Row n is episode n. Boundaries are numbers of samples, for `dataset[i]`; an episode that is not in the dataset, or
    not among those chosen of it, has none: it begins where it ends.
    """

    episode_index: NDArray[np.int64]
    """Of the episodes that have samples, ascending, shape (n,)."""
    num_samples: NDArray[np.int64]
    """Of each of them."""

    @property
    def column_names(self) -> list[str]:
        """What there is for every episode."""
        return list(self._columns)

    def __len__(self) -> int:
        """One more than the largest episode index."""
        return int(self.episode_index[-1]) + 1

    @overload
    def __getitem__(self, key: str) -> list[int]: ...

    @overload
    def __getitem__(self, key: int) -> dict[str, int]: ...

    def __getitem__(self, key: str | int) -> list[int] | dict[str, int]:
        """A column by its name, or a row by its episode index. Raises KeyError, IndexError."""
        if isinstance(key, str):
            column: list[int] = self._columns[key].tolist()
            return column
        row = range(len(self))[key]
        return {name: int(column[row]) for name, column in self._columns.items()}

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int64]]:
        length = np.zeros(len(self), dtype=np.int64)
        length[self.episode_index] = self.num_samples
        end = np.cumsum(length)
        return {
            "episode_index": np.arange(len(self)),
            "length": length,
            "dataset_from_index": end - length,
            "dataset_to_index": end,
        }

"""Statistics where the source's no longer hold: of fewer episodes, or of episodes that are numbered
anew.

Those of numbers are found in the rows that are written. Those of pictures are the episodes' own,
taken together.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roboshard.common import jsonio
from roboshard.shards.collected import CollectedNumbers, collect_table
from roboshard.shards.features import Features
from roboshard.shards.statistics import (
    NAMES,
    OF_EPISODES,
    FeatureStats,
    as_json,
    mixed,
    number_keys,
    row_stats,
    usable,
)

Row = dict[str, jsonio.Json]


class Statistics:
    """Statistics of all episodes seen, feature by feature."""

    def __init__(self, features: Features, num_rows: int) -> None:
        """Begin with no episode; all episodes together will have `num_rows` rows."""
        self._features = features
        self._dtypes = {key: str(features[key]["dtype"]) for key in number_keys(features)}
        self._numbers = CollectedNumbers(num_rows)
        self._others: dict[str, list[tuple[FeatureStats, float]]] = {}

    def add(self, row: Row, table: pa.Table) -> None:
        """Take in an episode.

        Args:
            row: its row of meta/episodes.
            table: its rows, as they are written.
        """
        collect_table(self._numbers, table, self._dtypes)
        for key, values in row_stats(row).items():
            own = usable(values) if key not in self._dtypes else None
            if own is not None:
                self._others.setdefault(key, []).append((own, float(table.num_rows)))

    def result(self) -> dict[str, jsonio.Json]:
        """Return the statistics as in stats.json; empty where there are none."""
        found = {key: mixed(parts) for key, parts in self._others.items()} | self._numbers.stats()
        return as_json({key: found[key] for key in (*self._features, *found) if key in found})


def lacks(stats: Mapping[str, jsonio.Json], features: Features) -> bool:
    """Return whether statistics of features of numbers are missing."""
    return any(not set(NAMES) <= _names(stats.get(key)) for key in number_keys(features))


def completed(
    stats: Mapping[str, jsonio.Json], found: Mapping[str, jsonio.Json]
) -> dict[str, jsonio.Json]:
    """Return a source's statistics, and what was found of those that it lacks."""
    added = {
        key: {**own, **(stats[key] if _names(stats.get(key)) else {})} for key, own in found.items()
    }
    return {**stats, **added}


def _names(values: jsonio.Json) -> set[str]:
    return set(values) if isinstance(values, dict) else set()


def renumbered(row: Row, key: str, by: int) -> Row:
    """Return an episode's row whose statistics of feature `key`, a whole number per row, are moved
    by a constant.
    """
    moved = {}
    for name, value in row.items():
        feature, _, what = name.removeprefix(OF_EPISODES).rpartition("/")
        if (
            name.startswith(OF_EPISODES)
            and feature == key
            and what not in ("std", "count")
            and value is not None
            and _numbers(value).size
        ):
            moved[name] = (np.asarray(value) + by).tolist()
    return row | moved


def _numbers(value: jsonio.Json) -> NDArray[Any]:
    """Return the numbers of a statistic as float64; none where it is not made of numbers."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.zeros(0)

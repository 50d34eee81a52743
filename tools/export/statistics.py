"""Statistics where the source's no longer hold: of fewer episodes, or of episodes that are numbered anew.

Taken together from those of the episodes, as LeRobot's `aggregate_stats` does; quantiles by that are approximate.
"""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common import jsonio

Row = dict[str, jsonio.Json]
PREFIX = "stats/"


class Statistics:
    """Statistics of all episodes seen, feature by feature."""

    def __init__(self) -> None:
        """Of none."""
        self._count: dict[str, NDArray[Any]] = {}
        self._sums: dict[str, dict[str, NDArray[Any]]] = defaultdict(dict)

    def add(self, row: Row) -> None:
        """Take in an episode's, by its row of meta/episodes."""
        found: dict[str, dict[str, NDArray[Any]]] = defaultdict(dict)
        for name, value in row.items():
            if name.startswith(PREFIX) and value is not None:
                key, _, what = name.removeprefix(PREFIX).rpartition("/")
                found[key][what] = _numbers(value)
        for key, values in found.items():
            if self._fits(key, values):
                self._add(key, values)

    def result(self) -> dict[str, jsonio.Json]:
        """As in stats.json; empty where the episodes have none."""
        return {key: self._of(key) for key in self._count}

    def _fits(self, key: str, values: dict[str, NDArray[Any]]) -> bool:
        """Whether an episode's statistics of a feature can be taken together with the others'."""
        names = {"mean", "std", "min", "max", "count"}
        if not names <= values.keys() or not all(array.size for array in values.values()):
            return False
        shapes = {what: array.shape for what, array in values.items() if what != "count"}
        before = self._sums.get(key, values)
        known = {
            what: array.shape for what, array in before.items() if what not in ("count", "std")
        }
        del shapes["std"]
        if "squares" in known:
            known.pop("squares")
        return shapes == known and values["count"].reshape(-1)[0] > 0

    def _add(self, key: str, values: dict[str, NDArray[Any]]) -> None:
        count, sums = values.pop("count"), self._sums[key]
        weight = count.reshape(-1)[0]
        squares = values.pop("std") ** 2 + values["mean"] ** 2
        self._count[key] = self._count.get(key, np.zeros_like(count)) + count
        sums["squares"] = sums.get("squares", 0) + weight * squares
        for what, value in values.items():
            if what in ("min", "max"):
                sums[what] = getattr(np, what + "imum")(sums.get(what, value), value)
            else:
                sums[what] = sums.get(what, 0) + weight * value

    def _of(self, key: str) -> jsonio.Json:
        weight, sums = self._count[key].reshape(-1)[0], self._sums[key]
        means = {what: value / weight for what, value in sums.items() if what not in ("min", "max")}
        spread = np.sqrt(np.maximum(means.pop("squares") - means["mean"] ** 2, 0))
        values = {"min": sums["min"], "max": sums["max"], "mean": means.pop("mean"), "std": spread}
        result = {
            what: value.tolist()
            for what, value in (values | {"count": self._count[key]} | means).items()
        }
        result["count"] = self._count[key].astype(np.int64).tolist()
        return result


def renumbered(row: Row, key: str, by: int) -> Row:
    """An episode's row whose statistics of feature `key`, a whole number per row, are moved by a constant."""
    moved = {}
    for name, value in row.items():
        feature, _, what = name.removeprefix(PREFIX).rpartition("/")
        if (
            name.startswith(PREFIX)
            and feature == key
            and what not in ("std", "count")
            and value is not None
            and _numbers(value).size
        ):
            moved[name] = (np.asarray(value) + by).tolist()
    return row | moved


def _numbers(value: jsonio.Json) -> NDArray[np.float64]:
    """Numbers of a statistic; none where it is not made of them."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.zeros(0)

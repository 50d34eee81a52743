"""Statistics of a whole dataset from those of its episodes: LeRobot's own arithmetic, in the same order."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.shards.errors import SourceError

NAMES = ("min", "max", "mean", "std", "count")
MAX_COUNT = 1 << 40  # of values in an episode
BLOCK = 512  # episodes whose small arrays are put into one, which takes far less memory

_Arrays = dict[str, NDArray[Any]]


def read_feature(stats: object, where: str) -> _Arrays:
    """One feature's statistics in one episode as arrays. Raises SourceError; `where` names them."""
    if not isinstance(stats, dict):
        raise SourceError(
            f"{where}: expected an object with {', '.join(NAMES)}, found {type(stats).__name__}"
        )
    arrays = {name: _array(stats.get(name), f"{where}: {name}") for name in NAMES}
    count = arrays["count"]
    if count.shape != (1,) or count.dtype.kind not in "iu" or not 0 < int(count[0]) < MAX_COUNT:
        raise SourceError(
            f"{where}: count must be a list of one positive integer, not {stats.get('count')!r:.80}"
        )
    shapes = {arrays[name].shape for name in NAMES[:-1]}
    if len(shapes) > 1 or () in shapes:
        raise SourceError(f"{where}: min, max, mean and std must be lists of one shape")
    return arrays


class FeatureStats:
    """One feature's statistics, gathered episode by episode in any order."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._episodes: list[int] = []
        self._blocks: list[_Arrays] = []
        self._pending: list[_Arrays] = []

    def add(self, episode: int, arrays: _Arrays, where: str) -> None:
        """Those of one more episode. Raises SourceError where they are of another shape than the others."""
        first = (
            self._blocks[0]["min"].shape[1:]
            if self._blocks
            else (self._pending or [arrays])[0]["min"].shape
        )
        if arrays["min"].shape != first:
            raise SourceError(
                f"{where}: of shape {list(arrays['min'].shape)}, in other episodes {list(first)}"
            )
        self._episodes.append(episode)
        self._pending.append(arrays)
        if len(self._pending) == BLOCK:
            self._stack()

    def aggregate(self) -> dict[str, Any]:
        """Those over all episodes, as JSON."""
        self._stack()
        order = np.argsort(self._episodes)
        stacked = {
            name: np.concatenate([block[name] for block in self._blocks])[order] for name in NAMES
        }
        total = stacked["count"].sum(axis=0)
        means = stacked["mean"]
        weights = stacked["count"].reshape(-1, *(1,) * (means.ndim - 1))
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # what is absurd in the episodes stays so
            mean = (means * weights).sum(axis=0) / total
            deviations = stacked["std"] ** 2 + (means - mean) ** 2
            std = np.sqrt((deviations * weights).sum(axis=0) / total)
        result = {
            "min": stacked["min"].min(axis=0),
            "max": stacked["max"].max(axis=0),
            "mean": mean,
            "std": std,
        }
        return {name: values.tolist() for name, values in (result | {"count": total}).items()}

    def _stack(self) -> None:
        if self._pending:
            self._blocks.append(
                {name: np.stack([arrays[name] for arrays in self._pending]) for name in NAMES}
            )
            self._pending.clear()


def _array(values: object, what: str) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or not array.size:
        raise SourceError(f"{what} must be numbers, not {values!r:.80}")
    return array

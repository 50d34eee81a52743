"""Statistics of a whole dataset from those of its episodes: LeRobot's own arithmetic, in the same
order.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import SourceError
from roboshard.converter.source.files import SourceFiles
from roboshard.converter.source.findings import Report, finding
from roboshard.converter.source.json_lines import EpisodeLines, Line

NAMES = ("min", "max", "mean", "std", "count")
MAX_COUNT = 1 << 40  # of values in an episode
BLOCK = 512  # episodes whose small arrays are put into one, which takes far less memory

_Arrays = dict[str, NDArray[Any]]


def read_episode_stats(
    files: SourceFiles,
    path: str,
    episodes: NDArray[np.int64],
    report: Report,
) -> tuple[EpisodeLines, dict[str, Any]]:
    """(where the lines of episodes_stats.jsonl lie, statistics of the dataset, taken together from
    them).

    What cannot be used of them is left out, as LeRobot's samples do not depend on it.

    Args:
        files: the source.
        path: the file in JSON Lines.
        episodes: the episodes of the dataset, ascending.
        report: told what is odd.
    """
    features: dict[str, FeatureStats] = {}
    told: list[bool] = []

    def odd(place: str, what: str) -> None:
        if not told:
            report(finding("stats-ignored", place, what))

    def add(line: Line) -> None:
        stats = line.value.get("stats")
        place = f"{path}, line {line.number}"
        if not isinstance(stats, dict):
            odd(place, f"stats must be an object, not {stats!r:.80}")
            return
        for key, of_feature in stats.items():
            try:
                arrays = read_feature(of_feature, repr(key))
                features.setdefault(key, FeatureStats()).add(line.episode, arrays, repr(key))
            except SourceError as error:
                odd(place, str(error))

    lines = EpisodeLines.scan(files, path, add, report)
    if lines.has_doubles:  # of which only the last one counts: taken together anew
        features.clear()
        told.append(True)
        for line in filter(None, lines.read(lines.indices.tolist())):
            add(line)
    missing = np.setdiff1d(episodes, lines.indices)
    if missing.size:
        what = (
            f"no statistics of {missing.size} of {len(episodes)} episodes, "
            f"the first of them {missing[0]}"
        )
        report(finding("stats-missing", path, what))
    found = {key: feature.aggregate() for key, feature in features.items() if feature.num_episodes}
    return lines, found


def flat_stats(line: Line | None) -> dict[str, Any]:
    """An episode's statistics under the names that LeRobot v3 gives them beside the rest of its
    metadata.
    """
    stats = line.value.get("stats") if line else None
    return {
        f"stats/{key}/{name}": value
        for key, of_feature in (stats.items() if isinstance(stats, dict) else ())
        if isinstance(of_feature, dict)
        for name, value in of_feature.items()
    }


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
        """Start without any episode's statistics."""
        self._episodes: list[int] = []
        """Indices of the episodes whose statistics were added, in the order in which they came."""
        self._blocks: list[_Arrays] = []
        self._pending: list[_Arrays] = []

    @property
    def num_episodes(self) -> int:
        """Episodes whose statistics were added."""
        return len(self._episodes)

    def add(self, episode: int, arrays: _Arrays, where: str) -> None:
        """Add the statistics of one more episode.

        Raises SourceError where they are of another shape than the others.
        """
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
        """Return the statistics over all episodes, as JSON."""
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

"""What can be shown of an episode: its facts, its curves, which of its frames.

Arithmetic on rows at hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common.jsonio import Json

MAX_DIMENSIONS = 64
"""Most dimensions of a feature that is drawn as curves; wider ones are embeddings,
tactile pads, …
"""
FIRST = ("observation.state", "action")
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One feature of numbers over the rows of an episode."""

    key: str
    names: tuple[str, ...]
    """Names of the feature's dimensions (d,), each another."""
    named: bool
    """Whether the dataset has these names, and there are several; otherwise no legend is drawn."""
    values: NDArray[np.float64]
    """Values of the feature (rows, d); booleans are 0 and 1, and a row without a value is NaN."""
    boolean: bool = False


@dataclass(frozen=True, kw_only=True)
class Content:
    """What there is to show of one episode, besides pictures."""

    dataset: str
    episode_index: int
    fps: float
    seconds: NDArray[np.float64]
    """The time of each row in seconds (rows,)."""
    tasks: tuple[tuple[int, str], ...]
    """(first row, task): from which row on which task is done; empty for a dataset
    without tasks.
    """
    curves: tuple[Curves, ...]
    not_drawn: Mapping[str, str]
    """Features that are left out, and why."""

    @property
    def length(self) -> int:
        """How many rows the episode has."""
        return len(self.seconds)


def make_content(
    rows: Mapping[str, Any],
    features: Mapping[str, Mapping[str, Json]],
    *,
    dataset: str,
    episode_index: int,
    fps: float,
) -> Content:
    """Choose what to show of an episode.

    Args:
        rows: Feature key -> array-like (n, ...), or a list of n values that are no numbers;
            `task` -> n texts; `<key>_is_missing` -> (n,) rows without a value, gaps of the curve.
        features: Feature key -> dtype, shape, names, as in info.json. Video and images are passed
            over.
    """
    curves, not_drawn = [], {}
    keys = [
        *(key for key in FIRST if key in features),
        *(key for key in features if key not in FIRST),
    ]
    for key in keys:
        if key in BOOKKEEPING or features[key].get("dtype") in ("video", "image"):
            continue
        found = _curves(key, rows.get(key), features[key])
        if isinstance(found, Curves):
            mask = f"{key}_is_missing"
            if mask in rows and mask not in features:
                found.values[np.asarray(rows[mask], dtype=np.bool_)] = np.nan
            curves.append(found)
        else:
            not_drawn[key] = found
    length = len(rows["frame_index"])
    return Content(
        dataset=dataset,
        episode_index=episode_index,
        fps=fps,
        seconds=np.asarray(rows.get("timestamp", np.arange(length) / fps), dtype=np.float64),
        tasks=_changes(rows.get("task", [])),
        curves=tuple(curves),
        not_drawn=not_drawn,
    )


def dimension_names(names: Json, count: int) -> tuple[str, ...] | None:
    """Return the names of a feature's dimensions, as recorders write them; None where there are not
    `count` different ones.

    A list of names, a list or mapping around one ({"motors": [...]}), or names with their places
    ({"x": 0, "y": 1}).
    """
    if isinstance(names, Mapping):
        if len(names) == count and sorted(map(repr, names.values())) == sorted(
            map(repr, range(count))
        ):
            names = sorted(names, key=lambda name: names[name])
        elif len(names) == 1:
            return dimension_names(next(iter(names.values())), count)
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
        names = names[0]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return None
    return tuple(names) if len(names) == count == len(set(names)) else None


def _curves(key: str, values: Any, spec: Mapping[str, Json]) -> Curves | str:
    """Return the curves of a feature, or why there are none."""
    dtype = spec.get("dtype")
    if values is None or isinstance(values, list):
        return f"{dtype}, not numbers of one shape"
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        return f"{dtype}, not numbers"
    if array.ndim > 2:
        return f"{array.ndim - 1} axes"
    boolean = array.dtype.kind == "b"
    array = array.reshape(len(array), -1).astype(np.float64)
    count = array.shape[1]
    if not 1 <= count <= MAX_DIMENSIONS:
        return f"{count} dimensions"
    names = dimension_names(spec.get("names"), count)
    return Curves(
        key=key,
        names=names or tuple(map(str, range(count))),
        named=names is not None and count > 1,
        values=array,
        boolean=boolean,
    )


def _changes(tasks: Sequence[str]) -> tuple[tuple[int, str], ...]:
    return tuple(
        (row, task) for row, task in enumerate(tasks) if row == 0 or task != tasks[row - 1]
    )

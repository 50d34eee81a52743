"""Statistics of features: exact ones of numbers in rows, and those of pictures, mixed from
statistics.

Each is a dict of the names that LeRobot's stats.json has: min, max, mean, std, count, q01, q10,
q50, q90 and q99.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common.jsonio import Json
from roboshard.shards.features import SCALAR_DTYPES, Features
from roboshard.shards.quantiles import Piece, Pieces, exact_quantiles

FeatureStats = dict[str, NDArray[Any]]
"""Name -> array of the feature's shape, float64; `count` is (1,) int64."""
Stats = dict[str, FeatureStats]
"""Feature key -> its statistics."""

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MOMENTS = ("min", "max", "mean", "std")
NAMES = (*MOMENTS, "count", *QUANTILES)
OF_EPISODES = "stats/"
"""How columns of meta/episodes begin that hold an episode's statistics: stats/<feature
key>/<name>.
"""

WIDEST = 4096
"""Most numbers of a feature in one row: wider ones are pictures of a kind, whose statistics are the
source's.
"""
PIECE = 1 << 20
"""How many numbers are looked at together."""
STEPS = 1024
"""How many steps the distribution of pictures is mixed in."""


def number_keys(features: Features) -> tuple[str, ...]:
    """Keys of the features of numbers, one or a list in each row: their statistics are those of the
    rows.
    """
    return tuple(key for key, spec in features.items() if spec.get("dtype") in SCALAR_DTYPES)


# -- Of numbers ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers that a feature has in some rows."""

    values: NDArray[Any]
    """(numbers of a row, rows) the feature's values."""
    shape: tuple[int, ...]
    """Shape of the feature's statistics."""
    weights: NDArray[np.float64] | None = None
    """(rows,) How often each row counts, more than 0; None: once."""
    factor: float = 1.0
    """How often all rows count, times their weights."""
    num_own: int | None = None
    """Numbers of a row that are no padding, where vectors of several lengths are padded; None:
    all.
    """

    def has(self, number: int) -> bool:
        """Whether one of the numbers of a row is no padding."""
        return self.num_own is None or number < self.num_own

    def pieces(self, number: int) -> Iterator[Piece]:
        """Yield the values of one of the numbers of a row, and what they weigh."""
        values = self.values[number]
        for first in range(0, len(values), PIECE):
            part = slice(first, first + PIECE)
            weights = None if self.weights is None else self.weights[part]
            if self.factor != 1.0:
                weights = self.factor * (np.ones(len(values[part])) if weights is None else weights)
            yield values[part], weights


def statistics_of(parts: Sequence[Numbers]) -> FeatureStats:
    """Return the statistics of a feature over the rows of all parts, which agree in shape.

    `count` is the number of rows, whatever they weigh. A number that is padding in some parts has
    the statistics of the others.
    """
    described = [
        describe(partial(_pieces_of, parts, number)) for number in range(len(parts[0].values))
    ]
    return stacked(described, parts[0].shape, sum(part.values.shape[1] for part in parts))


def _pieces_of(parts: Sequence[Numbers], number: int) -> Iterator[Piece]:
    for part in [part for part in parts if part.has(number)] or parts:
        yield from part.pieces(number)


def describe(pieces: Pieces) -> dict[str, float]:
    """Return min, max, mean, std and quantiles of numbers, at least one, as NumPy has them.

    All are NaN where a number is; std is that of the population.
    """
    low, high, total, added = np.inf, -np.inf, 0.0, 0.0
    with np.errstate(invalid="ignore", over="ignore"):  # of infinities; NaN says it
        for values, weights in pieces():
            if len(values):
                low, high = np.minimum(low, values.min()), np.maximum(high, values.max())
                total += len(values) if weights is None else float(weights.sum())
                added += _weighted_sum(values.astype(np.float64), weights)
        mean = added / total
        squares = sum(
            _weighted_sum(np.square(values.astype(np.float64) - mean), weights)
            for values, weights in pieces()
        )
        std = np.sqrt(squares / total)
    found = {"min": float(low), "max": float(high), "mean": float(mean), "std": float(std)}
    if np.isnan(low):
        return found | dict.fromkeys(QUANTILES, np.nan)
    quantiles = exact_quantiles(pieces, [*QUANTILES.values()], total)
    return found | dict(zip(QUANTILES, quantiles.tolist(), strict=True))


def stacked(
    described: Sequence[Mapping[str, float]], shape: tuple[int, ...], count: int
) -> FeatureStats:
    """Return what was found of each number of a feature's rows as arrays of `shape`."""
    arrays: FeatureStats = {
        name: np.asarray([own[name] for own in described], dtype=np.float64).reshape(shape)
        for name in NAMES
        if name != "count"
    }
    return {name: np.asarray([count]) if name == "count" else arrays[name] for name in NAMES}


def _weighted_sum(values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> float:
    return float(values.sum() if weights is None else (values * weights).sum())


# -- Of statistics ---------------------------------------------------------------------------------


def row_stats(row: Mapping[str, Json]) -> Stats:
    """Return the statistics in an episode's row of meta/episodes as arrays, of whatever was written
    there.

    What is no array of numbers is left out.
    """
    found: Stats = {}
    for name, value in row.items():
        if name.startswith(OF_EPISODES) and value is not None:
            key, _, what = name.removeprefix(OF_EPISODES).rpartition("/")
            numbers = _array(value)
            if numbers is not None:
                found.setdefault(key, {})[what] = numbers
    return found


def as_json(stats: Stats) -> dict[str, Json]:
    """Return statistics as stats.json has them."""
    return {
        key: {name: values.tolist() for name, values in own.items()} for key, own in stats.items()
    }


def usable(stats: Mapping[str, NDArray[Any]]) -> FeatureStats | None:
    """Return the statistics of a feature under the names that are known, float64, count int64.

    None: they lack one of min, max, mean and std, or these are of several shapes. Quantiles of
    another shape are left out; a count that is missing is 1.
    """
    arrays = {name: _array(stats[name]) for name in NAMES if name in stats}
    found = {name: array for name, array in arrays.items() if array is not None and array.size}
    shapes = {found[name].shape for name in MOMENTS if name in found}
    if len(shapes) != 1 or not found.keys() >= set(MOMENTS):
        return None
    (shape,) = shapes
    count = found.pop("count", np.ones(1)).reshape(-1)[:1]
    fitting: FeatureStats = {name: array for name, array in found.items() if array.shape == shape}
    return fitting | {"count": count.astype(np.int64)}


def mixed(parts: Sequence[tuple[FeatureStats, float]]) -> FeatureStats:
    """Return the statistics of a feature over several parts, from those of each.

    min, max, mean and std follow from those of the parts. Quantiles do not: they are those of the
    distributions of the parts added up, each taken to be even between the quantiles that it has.
    They are left out where a part has none. Parts of another shape than the first one are left out.

    Args:
        parts: what `usable` returned, and the part's share, more than 0. At least one.
    """
    shape = parts[0][0]["mean"].shape
    fitting = [(own, share) for own, share in parts if own["mean"].shape == shape]
    shares = np.asarray([share for _, share in fitting], dtype=np.float64)
    shares = shares / shares.sum()

    def of(name: str) -> NDArray[np.float64]:
        """Return (parts, numbers) of the statistic of this name, one row for each part."""
        return np.stack([own[name].reshape(-1) for own, _ in fitting])

    with np.errstate(over="ignore", invalid="ignore"):  # what is absurd in the parts stays so
        mean = shares @ of("mean")
        std = np.sqrt(shares @ (of("std") ** 2 + (of("mean") - mean) ** 2))
    result = {"min": of("min").min(axis=0), "max": of("max").max(axis=0), "mean": mean, "std": std}
    if all(own.keys() >= QUANTILES.keys() for own, _ in fitting):
        knots = np.stack([of(name) for name in ("min", *QUANTILES, "max")], axis=-1)
        result |= _mixed_quantiles(knots, shares)
    count = np.sum([own["count"] for own, _ in fitting], axis=0)
    found = {name: values.reshape(shape) for name, values in result.items()} | {"count": count}
    return {name: found[name] for name in NAMES if name in found}


def _mixed_quantiles(
    knots: NDArray[np.float64], shares: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return quantiles of distributions added up. `knots`: (parts, numbers, 7), from min to max."""
    levels = np.asarray([0.0, *QUANTILES.values(), 1.0])
    knots = np.maximum.accumulate(knots, axis=-1)
    found = np.full((len(QUANTILES), knots.shape[1]), np.nan)
    for number in np.flatnonzero(np.isfinite(knots).all(axis=(0, 2))).tolist():
        own = knots[:, number]
        places = np.unique(np.concatenate([np.linspace(own.min(), own.max(), STEPS), own[0]]))
        reached = np.zeros(len(places))
        for knot, share in zip(own, shares, strict=True):
            reached += share * np.interp(places, knot, levels)
        found[:, number] = np.interp(levels[1:-1], reached, places)
    return dict(zip(QUANTILES, found, strict=True))


def _array(value: Json) -> NDArray[np.float64] | None:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None

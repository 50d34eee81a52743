"""The numbers of a dataset's samples, from its rows alone, and the statistics of its pictures, from
its source.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common import interrupts
from roboshard.common.errors import DamageError, FormatError, MissingError, RoboshardError
from roboshard.common.jsonio import Json
from roboshard.common.progress import progress_of
from roboshard.loader.episodes.columns import TensorColumn
from roboshard.loader.episodes.parsed import ParsedEpisode, parse_episode
from roboshard.loader.sources import Source
from roboshard.shards.collected import CollectedNumbers
from roboshard.shards.features import Features, depth_factor
from roboshard.shards.read_ahead import read_rows_ahead
from roboshard.shards.reader import EpisodeData
from roboshard.shards.rows import read_episode_row
from roboshard.shards.statistics import (
    FeatureStats,
    Numbers,
    Stats,
    mixed,
    number_keys,
    row_stats,
    usable,
)

PASSED_OVER = (DamageError, FormatError, MissingError)
"""Errors of episodes that `on_error="skip"` leaves out."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What is known of a dataset's samples."""

    numbers: Mapping[str, Numbers]
    """Feature key -> its values in the rows that are samples, and how often each is one in an
    epoch.
    """
    others: Stats
    """Feature key -> statistics of what has no such numbers: pictures, above all."""
    num_samples: float
    """Samples of an epoch, on average."""
    is_whole: bool
    """Whether no episode was left out because it cannot be read."""

    def numbers_at(self, factor: float) -> dict[str, Numbers]:
        """Return the numbers, where all of them count `factor` times."""
        return {key: replace(own, factor=factor) for key, own in self.numbers.items()}


def collect(source: Source, keys: Collection[str], *, skips: bool) -> Collected:
    """Read the rows of the chosen episodes.

    Args:
        source: a dataset, and which of its rows are samples.
        keys: of the features that are wanted.
        skips: leave out episodes that are damaged, instead of raising what is wrong with them.

    Raises:
        DamageError, FormatError, MissingError, StorageError: of an episode that cannot be read.
    """
    features = {key: spec for key, spec in source.features.items() if key in keys}
    wanted = {key: features[key] for key in number_keys(features)}
    weights = weights_of(source)
    pictures = _Pictures(source, features.keys() - wanted.keys())
    collected = CollectedNumbers(int(source.episodes.num_rows.sum()))
    is_whole = True
    widths: dict[str, int] = {}
    for place, data in read_episodes(source):
        try:
            episode = parse_rows(data, source, wanted)
        except PASSED_OVER:
            if not skips:
                raise
            is_whole = False
            continue
        rows = rows_used(source, place)
        widths |= episode.widths
        for key, (values, is_there) in numbers_of(episode).items():
            used = rows if is_there is None else rows[is_there[rows]]
            collected.add(key, values[used], float(weights[place]))
        pictures.add(data, len(rows) * float(weights[place]))
    numbers = {
        key: replace(own, num_own=widths.get(key)) for key, own in collected.numbers().items()
    }
    return Collected(
        numbers=numbers,
        others=pictures.stats() | _declared(source, wanted.keys() - numbers.keys()),
        num_samples=float((source.episodes.num_rows * weights).sum()),
        is_whole=is_whole,
    )


def weights_of(source: Source) -> NDArray[np.float64]:
    """Return how often each chosen episode comes in an epoch, on average."""
    repeats = source.episodes.repeats
    if repeats is None:
        return np.ones(len(source.episodes))
    weights: NDArray[np.float64] = repeats.numerator / repeats.denominator
    return weights


def takes_all(source: Source) -> bool:
    """Whether every row of the dataset is a sample, as often as any other."""
    index, episodes = source.dataset.index, source.episodes
    lengths = index.length[episodes.position - source.first]
    return (
        len(episodes) == source.dataset.manifest.total_episodes
        and episodes.repeats is None
        and bool(np.array_equal(episodes.num_rows, lengths))
    )


def read_episodes(source: Source) -> Iterator[tuple[int, EpisodeData | RoboshardError]]:
    """Yield (place among the chosen episodes, rows), in the order in which they are stored.

    Rows are read past the cache of the shards: they are wanted once.
    """
    dataset = replace(source.dataset, settings=replace(source.dataset.settings, cache=None))
    places = np.argsort(source.episodes.storage_rank, kind="stable").tolist()
    positions = (source.episodes.position[places] - source.first).tolist()
    with progress_of("statistics", items=len(places), what="episodes", num_bytes=0) as progress:
        for place, data in zip(places, read_rows_ahead(dataset, positions), strict=True):
            interrupts.check()
            yield place, data
            progress.add(items=1)


def parse_rows(
    data: EpisodeData | RoboshardError, source: Source, features: Features
) -> ParsedEpisode:
    """Return the values of some features, as samples have them.

    Raises what is wrong with the episode.
    """
    if isinstance(data, RoboshardError):
        raise data
    lenient = replace(source.membership, is_lenient=True)
    return parse_episode(data, features, (), lenient)


def numbers_of(episode: ParsedEpisode) -> dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]:
    """Return feature key -> (values (rows, ...), which of them are there), of features of numbers
    of one shape.
    """
    found: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {}
    for key, own in episode.columns.items():
        column = episode.table.column(key) if own is None else own
        if isinstance(column, TensorColumn):
            missing = column.missing
            found[key] = (column.take_all(), None if missing is None else ~missing)
    return found


def rows_used(source: Source, place: int) -> NDArray[np.int64]:
    """Return the rows of a chosen episode that are samples."""
    within = np.arange(int(source.episodes.num_rows[place]), dtype=np.int64)
    return source.episodes.rows(np.full(len(within), place, dtype=np.int64), within)


class _Pictures:
    """Statistics of pictures: the dataset's own where all of it is used, else those of the
    episodes, mixed.
    """

    def __init__(self, source: Source, keys: Collection[str]) -> None:
        self._source = source
        self._keys = keys
        self._is_declared = takes_all(source)
        self._episodes: dict[str, list[tuple[FeatureStats, float]]] = {}

    def add(self, data: EpisodeData | RoboshardError, share: float) -> None:
        """Take in an episode, of which so many samples come in an epoch."""
        if self._is_declared or not self._keys or isinstance(data, RoboshardError):
            return
        found = row_stats(read_episode_row(data.rows, data.where))
        for key in self._keys:
            own = usable(found.get(self._source.membership.own_key(key), {}))
            if own is not None:
                self._episodes.setdefault(key, []).append((own, share))

    def stats(self) -> Stats:
        """Return the statistics of features that have some: of the episodes, else the dataset's."""
        features = self._source.features
        of_episodes = {
            key: in_units_of_samples(mixed(parts), features[key])
            for key, parts in self._episodes.items()
        }
        return _declared(self._source, self._keys) | of_episodes


def _declared(source: Source, keys: Collection[str]) -> Stats:
    """Return the dataset's own statistics of some features, as far as they can be used."""
    declared = source.dataset.manifest.stats or {}
    found: Stats = {}
    for key in keys:
        stats = declared.get(source.membership.own_key(key))
        own = usable(stats) if isinstance(stats, dict) else None
        if own is not None:
            found[key] = in_units_of_samples(own, source.features[key])
    return found


def in_units_of_samples(stats: FeatureStats, spec: Mapping[str, Json]) -> FeatureStats:
    """Return statistics of a depth camera in millimetres; those of other features as they are."""
    factor = depth_factor(spec)
    if factor == 1.0:
        return stats
    return {name: own if name == "count" else own * factor for name, own in stats.items()}

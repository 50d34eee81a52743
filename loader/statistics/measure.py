"""What statistics a loader has: of its dataset, or of its mixture, each of its parts, and each type
of robot.

They are found together when one of them is first asked for, in the process that asks, and kept in a
file.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from roboshard import storage
from roboshard.common import interrupts, jsonio
from roboshard.loader.episodes.parsed import Membership
from roboshard.loader.job import LoadJob
from roboshard.loader.meta import (
    DatasetMeta,
    MixtureMeta,
    Statistics,
    declared_stats,
    merged_manifest,
)
from roboshard.loader.selection.config import SelectionConfig
from roboshard.loader.selection.digest import selection_digest
from roboshard.loader.selection.select import select
from roboshard.loader.sources import Source
from roboshard.loader.statistics.collect import Collected, collect, takes_all
from roboshard.loader.statistics.relative import (
    RelativeActions,
    collect_actions,
    relative_statistics,
)
from roboshard.loader.statistics.stored import kept
from roboshard.shards.features import Features
from roboshard.shards.statistics import (
    NAMES,
    FeatureStats,
    Numbers,
    Stats,
    as_json,
    mixed,
    number_keys,
    statistics_of,
)

VERSION = 1
"""Version of how statistics are found: kept ones of another version are not used."""
Members = tuple[int, ...]
"""Numbers of the datasets that statistics are of."""


class MeasuredStatistics:
    """The statistics of what a job loads, found when they are first asked for."""

    def __init__(self, job: LoadJob) -> None:
        """Read nothing yet."""
        self._job = job
        self._sources = job.sources
        self._offsets = job.offsets
        self._shares = (1,) if job.schedule is None else job.schedule.parts
        self._skips = job.config.read.on_error == "skip"

    @cached_property
    def robots(self) -> dict[str | None, Members]:
        """Type of robot -> the datasets that were recorded with it."""
        found: dict[str | None, Members] = {}
        for number, source in enumerate(self._sources):
            robot = source.dataset.manifest.info.get("robot_type")
            name = robot if isinstance(robot, str) else None
            found[name] = (*found.get(name, ()), number)
        return found

    @property
    def everything(self) -> Members:
        """Numbers of all datasets."""
        return tuple(range(len(self._sources)))

    def of(self, members: Members) -> Statistics:
        """Return the statistics of some datasets: of all, of one, or of those of one robot.

        Of one dataset of which nothing was chosen they are the source's own, as in LeRobot.
        """
        number, *others = members
        if not others and takes_all(self._sources[number]):
            return DeclaredStatistics(self._job_of(number))
        return StatisticsOf(self, members)

    def _job_of(self, number: int) -> LoadJob:
        """Return what there is to load of one dataset, as of a loader of its own."""
        job, source = self._job, self._sources[number]
        if job.schedule is None:
            return job
        windows = {key: np.atleast_2d(own) for key, own in job.offsets.items()}
        return replace(
            job,
            sources=(replace(source, first=0),),
            offsets={key: own[min(number, len(own) - 1)] for key, own in windows.items()},
            meta=job.metas[number],
            schedule=None,
        )

    def stats(self, members: Members) -> Stats:
        """Return feature key -> statistics. Raises as reading the rows does."""
        return self._stats[members]

    def relative(self, members: Members, relative: RelativeActions) -> FeatureStats:
        """Return the statistics of relative actions. Raises what `collect_actions` raises."""
        found = kept(
            self._name([vars(relative), self._window(relative.action)]),
            self._keys,
            lambda: self._measure_relative(relative),
        )
        return _feature_stats(_of_members(found, members)[relative.action])

    @cached_property
    def _scopes(self) -> tuple[Members, ...]:
        single = [(number,) for number in self.everything]
        return tuple(dict.fromkeys([self.everything, *single, *self.robots.values()]))

    @property
    def _keys(self) -> set[str]:
        return set(map(_scope_name, self._scopes))

    @cached_property
    def _stats(self) -> dict[Members, Stats]:
        found = kept(self._name(None), self._keys, self._measure)
        return {
            members: {key: _feature_stats(own) for key, own in _of_members(found, members).items()}
            for members in self._scopes
        }

    @interrupts.interruptible
    def _measure(self) -> tuple[dict[str, jsonio.Json], bool]:
        parts = [collect(source, source.features, skips=self._skips) for source in self._sources]

        def of(members: Members) -> Stats:
            factors = self._factors([parts[number].num_samples for number in members], members)
            own = [(parts[number], factor) for number, factor in zip(members, factors, strict=True)]
            keys = dict.fromkeys(
                key for number in members for key in self._sources[number].features
            )
            return _together(own, keys)

        return self._json(of), all(part.is_whole for part in parts)

    @interrupts.interruptible
    def _measure_relative(self, relative: RelativeActions) -> tuple[dict[str, jsonio.Json], bool]:
        windows = self._window(relative.action)
        parts = [
            collect_actions(source, relative, np.asarray(window, dtype=np.int64), skips=self._skips)
            for source, window in zip(self._sources, windows, strict=True)
        ]

        def of(members: Members) -> Stats:
            factors = self._factors([parts[number].num_samples for number in members], members)
            own = [(parts[number], factor) for number, factor in zip(members, factors, strict=True)]
            spec = self._sources[members[0]].features[relative.action]
            mask = relative.is_relative(spec, len(own[0][0].actions))
            return {relative.action: relative_statistics(own, mask)}

        return self._json(of), all(part.is_whole for part in parts)

    def _json(self, of: Callable[[Members], Stats]) -> dict[str, jsonio.Json]:
        return {_scope_name(members): as_json(of(members)) for members in self._scopes}

    def _factors(self, num_samples: Sequence[float], members: Members) -> list[float]:
        """Return how often each dataset comes in an epoch of the mixture: in the shortest that has
        all of each.
        """
        rates = [
            self._shares[number] / own for number, own in zip(members, num_samples, strict=True)
        ]
        return [rate / min(rates) for rate in rates]

    def _window(self, key: str) -> list[list[int]]:
        """Return the window of a feature in frames, of each dataset."""
        offsets = np.atleast_2d(self._offsets.get(key, np.zeros(1, dtype=np.int64)))
        window: list[list[int]] = np.broadcast_to(
            offsets, (len(self._sources), offsets.shape[1])
        ).tolist()
        return window

    def _name(self, relative: jsonio.Json) -> str:
        """Return what statistics are kept under: it says what they are of, and by which rules."""
        sources = [_identity(source) for source in self._sources]
        return hashlib.sha256(
            jsonio.canonical([VERSION, sources, list(self._shares), relative])
        ).hexdigest()


@dataclass(frozen=True)
class StatisticsOf:
    """The statistics of some datasets of a loader, as their metadata has them."""

    measured: MeasuredStatistics
    members: Members

    def stats(self) -> Stats:
        """Return feature key -> statistics."""
        return self.measured.stats(self.members)

    def exact(self) -> Stats:
        """Return the same as `stats`, which are found in the rows."""
        return self.stats()

    def relative(self, action: str, state: str, exclude_joints: Sequence[str]) -> FeatureStats:
        """Return the statistics of relative actions."""
        relative = RelativeActions(action=action, state=state, exclude_joints=tuple(exclude_joints))
        return self.measured.relative(self.members, relative)


@dataclass(frozen=True)
class DeclaredStatistics:
    """The statistics of a dataset as its source has them, with what these lack: found in all rows,
    if need be.
    """

    job: LoadJob

    def stats(self) -> Stats:
        """Return feature key -> statistics."""
        manifest = self.job.meta.manifest
        declared = declared_stats(manifest)
        keys = number_keys(manifest.features)
        lacking = {key for key in keys if not declared.get(key, {}).keys() >= set(NAMES)}
        if not lacking:
            return declared
        measured = self._of_rows(lacking).stats()
        return declared | {
            key: own | declared.get(key, {}) for key, own in measured.items() if key in lacking
        }

    def exact(self) -> Stats:
        """Return statistics of all rows, whatever the source says."""
        return self._of_rows(self.job.sources[0].features).stats()

    def relative(self, action: str, state: str, exclude_joints: Sequence[str]) -> FeatureStats:
        """Return the statistics of relative actions, of all rows."""
        return self._of_rows({action, state}).relative(action, state, exclude_joints)

    def _of_rows(self, keys: Collection[str]) -> StatisticsOf:
        (source,) = self.job.sources
        features = {key: spec for key, spec in source.features.items() if key in keys}
        everything = select(source.dataset, SelectionConfig(), 0)
        whole = replace(source, episodes=everything, features=features)
        return StatisticsOf(MeasuredStatistics(replace(self.job, sources=(whole,))), (0,))


class Metas(tuple[DatasetMeta, ...]):
    """Metadata of the datasets of a loader, by `dataset_index`."""

    by_robot_type: dict[str | None, DatasetMeta]
    """Type of robot, as the sources name it -> metadata of the datasets that were recorded with it,
    together.
    """

    @classmethod
    def of(
        cls, own: Sequence[DatasetMeta], features: Features, measured: MeasuredStatistics
    ) -> "Metas":
        """Return metadata of datasets, with statistics of what is loaded of each.

        Args:
            own: metadata of each dataset.
            features: features of samples.
            measured: statistics of the datasets.
        """
        metas = cls(
            replace(meta, _statistics=measured.of((number,))) for number, meta in enumerate(own)
        )
        metas.by_robot_type = {}
        for robot, members in measured.robots.items():
            those = [metas[number] for number in members]
            meta = those[0]
            if len(those) > 1:
                meta = MixtureMeta(merged_manifest(those, features), those)
            metas.by_robot_type[robot] = replace(meta, _statistics=measured.of(members))
        return metas


def _identity(source: Source) -> list[Any]:
    """Return what a dataset's statistics depend on: which one, where it lies, what of it is chosen,
    and how it is loaded.
    """
    dataset = source.dataset
    place = storage.identity(dataset.root)
    if storage.is_local(dataset.root):
        place = str(storage.local_path(dataset.root).resolve())
    member = source.membership
    features = {
        key: [spec.get("dtype"), spec.get("info"), *_changes(member, key)]
        for key, spec in source.features.items()
    }
    return [
        place,
        dataset.manifest.fingerprint,
        selection_digest(source.episodes),
        features,
    ]


def _changes(member: Membership, key: str) -> list[Any]:
    """Return what samples have of a feature that is not as its dataset has it: another key, more
    numbers.
    """
    own, width = member.own_keys.get(key), member.pad_to.get(key)
    return [] if own is None and width is None else [own, width]


def _together(parts: Sequence[tuple[Collected, float]], keys: Iterable[str]) -> Stats:
    """Return the statistics of several datasets, of those of the features that any of them has."""
    numbers = [part.numbers_at(factor) for part, factor in parts]
    found: Stats = {}
    for key in keys:
        own = _of_one_shape([those[key] for those in numbers if key in those])
        others = [
            (part.others[key], factor * part.num_samples)
            for part, factor in parts
            if key in part.others
        ]
        if own:
            found[key] = statistics_of(own)
        elif others:
            found[key] = mixed(others) if len(others) > 1 else others[0][0]
    return found


def _of_one_shape(numbers: Sequence[Numbers]) -> list[Numbers]:
    return [own for own in numbers if own.shape == numbers[0].shape]


def _scope_name(members: Members) -> str:
    return ",".join(map(str, members))


def _of_members(found: dict[str, jsonio.Json], members: Members) -> dict[str, Any]:
    of_members: dict[str, Any] = found[_scope_name(members)]
    return of_members


def _feature_stats(found: dict[str, jsonio.Json]) -> FeatureStats:
    return {
        name: np.asarray(values, dtype=np.int64 if name == "count" else np.float64)
        for name, values in found.items()
    }

"""A search for statistics: choose as a loader would, find them in the rows, hold the source's
beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roboshard.common import interrupts
from roboshard.common.errors import OptionError
from roboshard.common.selection import parse_episodes
from roboshard.shards.statistics import NAMES, FeatureStats, Stats, usable
from roboshard.tools.stats.config import StatsConfig

DIFFERS = 0.01
"""Share of a number's standard deviation by which a statistic of the source may differ, and is
still right.
"""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A statistic that the source has otherwise."""

    feature: str
    name: str
    """Name of the statistic that differs most: "q50"."""
    deviations: float
    """How far the source's statistic is from the one that was found, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class StatsReport:
    """What a search for statistics found."""

    stats: Stats
    """Feature key -> name of the statistic -> array."""
    episodes: int
    """How many episodes were chosen."""
    rows: int
    """How many rows of the chosen episodes are samples."""
    differences: list[Difference]
    """What the source says otherwise; nothing where only some of the dataset was chosen."""


@interrupts.interruptible
def find_stats(config: StatsConfig) -> StatsReport:
    """Find the statistics of what a loader would train on.

    Args:
        config: the dataset, and what of it.

    Returns:
        What was found. Where all is chosen, also what the source's own statistics say otherwise.

    Raises:
        OptionError: a choice that the dataset does not have.
        MissingError, FormatError, VersionError, DamageError, StorageError: as opening and reading
            the dataset does.

    Example:
        >>> report = find_stats(StatsConfig(url="my_dataset_shards", episodes="0:10"))
        >>> sorted(report.stats["action"])
        ['count', 'max', 'mean', 'min', 'q01', 'q10', 'q50', 'q90', 'q99', 'std']
    """
    from roboshard.loader import make_loader, open_dataset  # noqa: PLC0415 - brings torch

    fps = open_dataset(config.url, cameras=[]).meta.fps
    window = [step / fps for step in range(config.relative_actions or 1)]
    loader = make_loader(
        config.url,
        batch_size=1,
        cameras=[],
        episodes=_indices(config.episodes),
        exclude_episodes=_indices(config.exclude_episodes),
        tasks=config.tasks or None,
        split=config.split,
        keep_ranges=config.keep_ranges,
        delta_timestamps=None if config.relative_actions is None else {"action": window},
        on_missing="fill",
    )
    meta = loader.meta
    stats = exact = meta.exact_stats
    if config.relative_actions is not None:
        stats = exact | {"action": meta.relative_stats(config.exclude_joints)["action"]}
    unknown = [key for key in config.feature if key not in stats]
    if unknown:
        raise OptionError(f"feature: there are no statistics of {unknown[0]!r}, but of {[*stats]}")
    chosen = {key: stats[key] for key in config.feature or stats}
    chooses = (config.episodes, config.exclude_episodes, config.split, config.keep_ranges)
    is_whole = not config.tasks and all(option is None for option in chooses)
    declared = meta.manifest.stats or {}
    return StatsReport(
        stats=chosen,
        episodes=loader.num_episodes,
        rows=max((int(own["count"][0]) for own in exact.values()), default=0),
        differences=_differences(exact, declared, [*chosen]) if is_whole else [],
    )


def _indices(text: str | None) -> Sequence[int] | None:
    """Return the indices of "0:100,205"."""
    return None if text is None else [index for part in parse_episodes(text) for index in part]


def _differences(
    found: Stats, declared: dict[str, object], keys: Sequence[str]
) -> list[Difference]:
    """Return the largest difference of each feature, if it is one."""
    differences = []
    for key in keys:
        source = declared.get(key)
        own = usable(source) if isinstance(source, dict) else None
        if own is None or own["mean"].shape != found[key]["mean"].shape:
            continue
        apart = {
            name: _apart(found[key], own, name) for name in NAMES if name in own and name != "count"
        }
        name = max(apart, key=lambda each: apart[each])
        if apart[name] > DIFFERS:
            differences.append(Difference(feature=key, name=name, deviations=apart[name]))
    return differences


def _apart(found: FeatureStats, source: FeatureStats, name: str) -> float:
    """Return how far apart a statistic is at the most, in standard deviations; what does not vary
    is as it is.
    """
    unit: NDArray[np.float64] = np.where(found["std"] > 0, found["std"], 1.0)
    apart = np.abs(found.get(name, source[name]) - source[name]) / unit
    return float(np.nan_to_num(apart).max(initial=0.0))

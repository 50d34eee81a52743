"""What a dataset says of itself, under the names that LeRobot policies and trainers use."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from roboshard.common.errors import FormatError, OptionError
from roboshard.common.jsonio import Json
from roboshard.loader.episode_table import EpisodeTable
from roboshard.loader.mixtures.padding import padded_features, padded_stats
from roboshard.shards.features import Features, depth_factor, is_depth, keys_of
from roboshard.shards.schema import DatasetManifest
from roboshard.shards.statistics import FeatureStats, Stats

MAX_FPS = 1e9


class Statistics(Protocol):
    """Statistics that are found when they are first asked for."""

    def stats(self) -> Stats:
        """Return feature key -> statistics, in the units of samples."""

    def exact(self) -> Stats:
        """Return feature key -> statistics of the rows, whatever the source says of its numbers."""

    def relative(self, action: str, state: str, exclude_joints: Sequence[str]) -> FeatureStats:
        """Return the statistics of relative actions."""


@dataclass(frozen=True)
class DatasetMeta:
    """Metadata of a dataset, under the names that LeRobot's policies and trainers use."""

    manifest: DatasetManifest
    _: KW_ONLY
    _statistics: Statistics | None = field(default=None, repr=False, compare=False)
    """What finds `stats`; None: they are those that the manifest has."""

    @property
    def fps(self) -> int | float:
        """Frames per second, as the source's info.json has it."""
        fps = self.manifest.info.get("fps")
        if isinstance(fps, int | float) and 0 < fps < MAX_FPS:
            return fps
        return self.manifest.fps

    @cached_property
    def features(self) -> dict[str, dict[str, Json]]:
        """Feature key -> dtype, shape, names, as in the source's info.json; a shape is a tuple, as
        in LeRobot.
        """
        return {
            key: spec | {"shape": tuple(spec["shape"])}
            if isinstance(spec.get("shape"), list)
            else spec
            for key, spec in self.manifest.features.items()
        }

    @cached_property
    def stats(self) -> Stats:
        """Feature key -> min, max, mean, std, count and quantiles (q01, q10, q50, q90, q99) as
        arrays.

        Of a loader those of its samples: exact ones of numbers, from the rows, and for pictures
        what the source says. They are found when they are first asked for, and kept. Where all of
        one dataset is loaded, and of an `open_dataset`, they are those of the source, as in
        LeRobot, and what these lack. Of depth cameras in millimetres.

        Raises:
            DamageError, FormatError, MissingError, StorageError: rows that cannot be read.
        """
        return (
            declared_stats(self.manifest) if self._statistics is None else self._statistics.stats()
        )

    @cached_property
    def exact_stats(self) -> Stats:
        """`stats` with all those of numbers found in the rows, also where the source has statistics
        of its own.

        Raises:
            DamageError, FormatError, MissingError, StorageError: rows that cannot be read.
        """
        return (
            declared_stats(self.manifest) if self._statistics is None else self._statistics.exact()
        )

    def relative_stats(
        self,
        exclude_joints: Sequence[str] = (),
        *,
        action: str = "action",
        state: str = "observation.state",
    ) -> Stats:
        """Return `stats` for a policy of relative actions, in which the state is taken from each
        action of a window.

        Windows are those of the loader's `delta_timestamps`; what they have outside of the episode
        is left out.

        Args:
            exclude_joints: numbers of the action that stay as they are: those whose name has one of
                these in it, as LeRobot's `relative_exclude_joints`.
            action: the feature that becomes relative.
            state: the feature that is taken away.

        Returns:
            `stats`, with those of relative actions in the place of the action's.

        Raises:
            OptionError: there are no such features, or the state has fewer numbers than the action.
            DamageError, FormatError, MissingError, StorageError: rows that cannot be read.
        """
        if self._statistics is None:
            raise OptionError(
                "relative actions have statistics in the `meta` of a loader or an open_dataset"
            )
        return self.stats | {action: self._statistics.relative(action, state, exclude_joints)}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task texts by position: a row's task is tasks[task_index]."""
        return tuple(self.manifest.tasks)

    @cached_property
    def video_keys(self) -> tuple[str, ...]:
        """Keys of cameras stored as video."""
        return keys_of(self.features, "video")

    @cached_property
    def image_keys(self) -> tuple[str, ...]:
        """Keys of cameras stored as images in the rows."""
        return keys_of(self.features, "image")

    @cached_property
    def camera_keys(self) -> tuple[str, ...]:
        """Keys of all cameras, stored as video or as images."""
        return tuple(key for key in self.features if key in (*self.video_keys, *self.image_keys))

    @cached_property
    def depth_keys(self) -> tuple[str, ...]:
        """Keys of the cameras that show distances, stored as video or as images."""
        return tuple(key for key, spec in self.features.items() if is_depth(spec))

    @property
    def has_language_columns(self) -> bool:
        """Whether rows have messages. LeRobot's trainer asks for it."""
        return bool(keys_of(self.features, "language"))

    @property
    def total_episodes(self) -> int:
        """How many episodes the dataset has."""
        return self.manifest.total_episodes

    @property
    def total_frames(self) -> int:
        """How many frames the dataset has."""
        return self.manifest.total_frames

    @property
    def total_tasks(self) -> int:
        """How many tasks the dataset has."""
        return len(self.tasks)

    @property
    def robot_type(self) -> str | None:
        """Type of robot, as the source's info.json names it; None: it names none."""
        robot: str | None = self.manifest.info.get("robot_type")
        return robot

    @property
    def info(self) -> dict[str, Json]:
        """The source's info.json, verbatim."""
        return self.manifest.info


@dataclass(frozen=True)
class MapMeta(DatasetMeta):
    """Metadata of a dataset whose samples have numbers."""

    episodes: EpisodeTable
    """Where each episode's samples lie among those of the `MapDataset`."""


@dataclass(frozen=True)
class MixtureMeta(DatasetMeta):
    """Metadata of a mixture: the features of its samples, all tasks, episodes and frames.

    `stats` are those of the mixture's samples, in which each dataset has its weight.
    """

    metas: Sequence[DatasetMeta]

    @property
    def fps(self) -> int | float:
        """Frames per second of all datasets. Raises OptionError where they differ."""
        rates = {meta.fps for meta in self.metas}
        if len(rates) > 1:
            raise OptionError(
                f"the datasets of this mixture have {sorted(rates)} fps: see loader.metas"
            )
        return rates.pop()


def meta_of(manifest: DatasetManifest, features: Features) -> DatasetMeta:
    """Return the metadata of a dataset of which only some features are loaded."""
    if features.keys() == manifest.features.keys():
        return DatasetMeta(manifest)
    stats = manifest.stats and {
        key: value for key, value in manifest.stats.items() if key in features
    }
    loaded = {
        "features": dict(features),
        "info": manifest.info | {"features": dict(features)},
        "stats": stats,
    }
    return DatasetMeta(manifest.model_copy(update=loaded))


def manifest_of_samples(
    manifest: DatasetManifest, keys: Mapping[str, str], pad_to: Mapping[str, int], where: str = ""
) -> DatasetManifest:
    """Return a dataset's manifest with features and statistics as its samples have them.

    Args:
        manifest: the dataset's.
        keys: own key -> key in samples, of all features but those that are left out.
        pad_to: feature key in samples -> numbers that its vectors are padded to.
        where: goes before messages.

    Raises:
        OptionError: a feature that cannot be padded to what is asked for.
    """
    stored = {keys[own]: spec for own, spec in manifest.features.items() if own in keys}
    features = padded_features(stored, pad_to, where)
    if features == manifest.features:
        return manifest
    stats = {keys.get(own, own): values for own, values in (manifest.stats or {}).items()}
    known = {key: values for key, values in stats.items() if key in features}
    loaded = {
        "features": dict(features),
        "info": manifest.info | {"features": dict(features)},
        "stats": manifest.stats and padded_stats(known, stored, pad_to),
    }
    return manifest.model_copy(update=loaded)


def declared_stats(manifest: DatasetManifest) -> Stats:
    """Return the statistics that the source has, of depth cameras in millimetres.

    Raises:
        FormatError: what are no arrays.
    """
    stats: Stats = {}
    for key, values in (manifest.stats or {}).items():
        if not isinstance(values, dict):
            raise FormatError(f"stats of {key!r:.200} are {values!r:.60}, not an object")
        factor = depth_factor(manifest.features.get(key, {}))
        try:
            arrays = {name: np.asarray(value) for name, value in values.items()}
        except (ValueError, OverflowError) as error:
            raise FormatError(f"stats of {key!r:.200} are not arrays: {error}") from None
        if factor != 1.0:  # of integers it would make floats
            arrays = {
                name: value if name == "count" else value * factor for name, value in arrays.items()
            }
        stats[key] = arrays
    return stats


def merged_manifest(metas: Sequence[DatasetMeta], features: Features) -> DatasetManifest:
    """Return the first dataset's manifest with what is true of a mixture."""
    episodes, frames = (
        sum(meta.total_episodes for meta in metas),
        sum(meta.total_frames for meta in metas),
    )
    tasks = list(dict.fromkeys(task for meta in metas for task in meta.tasks))
    totals = {
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": len(tasks),
        "features": features,
    }
    return metas[0].manifest.model_copy(
        update={
            "features": dict(features),
            "tasks": tasks,
            "stats": None,  # they are found when they are asked for
            "info": metas[0].info | totals,
            "total_episodes": episodes,
            "total_frames": frames,
        }
    )

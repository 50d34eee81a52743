"""What a dataset says of itself, under the names that LeRobot policies and trainers use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import FormatError, OptionError
from roboshard.common.jsonio import Json
from roboshard.loader.episode_table import EpisodeTable
from roboshard.shards.features import Features, depth_factor, is_depth, keys_of
from roboshard.shards.schema import DatasetManifest

MAX_FPS = 1e9


@dataclass(frozen=True)
class DatasetMeta:
    """Metadata of a dataset."""

    manifest: DatasetManifest

    @property
    def fps(self) -> int | float:
        """Frames per second, as the source's info.json has it."""
        fps = self.manifest.info.get("fps")
        if isinstance(fps, int | float) and 0 < fps < MAX_FPS:
            return fps
        return self.manifest.fps

    @cached_property
    def features(self) -> dict[str, dict[str, Json]]:
        """Feature key -> dtype, shape, names, as in the source's info.json; a shape is a tuple, as in LeRobot."""
        return {
            key: spec | {"shape": tuple(spec["shape"])}
            if isinstance(spec.get("shape"), list)
            else spec
            for key, spec in self.manifest.features.items()
        }

    @cached_property
    def stats(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Feature key -> min, max, mean, std, count, … as arrays; empty where the source has none.

        Of depth cameras in millimetres, as samples are.
        """
        stats = _arrays(self.manifest)
        factors = {key: depth_factor(self.features[key]) for key in self.depth_keys if key in stats}
        return stats | {
            key: {
                name: value if name == "count" else value * factor
                for name, value in stats[key].items()
            }
            for key, factor in factors.items()
            if factor != 1.0  # of integers it would make floats
        }

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
        """Keys of all cameras."""
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
        """Episodes in the dataset."""
        return self.manifest.total_episodes

    @property
    def total_frames(self) -> int:
        """Frames in the dataset."""
        return self.manifest.total_frames

    @property
    def total_tasks(self) -> int:
        """Tasks of the dataset."""
        return len(self.tasks)

    @property
    def robot_type(self) -> str | None:
        """As in the source's info.json."""
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

    `stats` are those of the mixture's samples: min and max over all datasets, mean and std by weight. Quantiles of
    a mixture do not follow from those of its datasets, and are left out.
    """

    metas: Sequence[DatasetMeta]

    @cached_property
    def stats(self) -> dict[str, dict[str, NDArray[Any]]]:
        """See above."""
        return _arrays(self.manifest)

    @property
    def fps(self) -> int | float:
        """That of all datasets. Raises OptionError where they differ."""
        rates = {meta.fps for meta in self.metas}
        if len(rates) > 1:
            raise OptionError(
                f"the datasets of this mixture have {sorted(rates)} fps: see loader.metas"
            )
        return rates.pop()


def meta_of(manifest: DatasetManifest, features: Features) -> DatasetMeta:
    """Metadata of a dataset of which only some features are loaded."""
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


def _arrays(manifest: DatasetManifest) -> dict[str, dict[str, NDArray[Any]]]:
    """The statistics as arrays. Raises FormatError for what is none."""
    arrays: dict[str, dict[str, NDArray[Any]]] = {}
    for key, values in (manifest.stats or {}).items():
        if not isinstance(values, dict):
            raise FormatError(f"stats of {key!r:.200} are {values!r:.60}, not an object")
        try:
            arrays[key] = {name: np.asarray(value) for name, value in values.items()}
        except (ValueError, OverflowError) as error:
            raise FormatError(f"stats of {key!r:.200} are not arrays: {error}") from None
    return arrays


def merged_manifest(
    metas: Sequence[DatasetMeta], features: Features, parts: Sequence[int]
) -> DatasetManifest:
    """The first dataset's manifest with what is true of a mixture in these parts."""
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
            "stats": {
                key: _merged([meta.stats.get(key, {}) for meta in metas], parts) for key in features
            },
            "info": metas[0].info | totals,
            "total_episodes": episodes,
            "total_frames": frames,
        }
    )


def _merged(
    stats: Sequence[Mapping[str, NDArray[Any]]], parts: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """Statistics of a feature over the datasets that have them; {} where none has."""
    known = [
        (own, part)
        for own, part in zip(stats, parts, strict=True)
        if {"min", "max", "mean", "std"} <= own.keys()
    ]
    if not known:
        return {}
    shares = [part / sum(part for _, part in known) for _, part in known]
    mean = sum(share * own["mean"] for (own, _), share in zip(known, shares, strict=True))
    square = sum(
        share * (own["std"] ** 2 + (own["mean"] - mean) ** 2)
        for (own, _), share in zip(known, shares, strict=True)
    )
    merged = {
        "min": np.minimum.reduce([own["min"] for own, _ in known]),
        "max": np.maximum.reduce([own["max"] for own, _ in known]),
        "mean": np.asarray(mean),
        "std": np.sqrt(square),
    }
    if all("count" in own for own, _ in known):
        merged["count"] = np.sum([own["count"] for own, _ in known], axis=0)
    return merged

"""What a dataset says of itself, under the names that LeRobot policies and trainers use."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.shards.jsonio import Json
from roboshard.shards.schema import DatasetManifest


@dataclass(frozen=True)
class DatasetMeta:
    """Metadata of a dataset."""

    manifest: DatasetManifest

    @property
    def fps(self) -> int | float:
        """Frames per second, as the source's info.json has it."""
        fps: int | float = self.manifest.info.get("fps", self.manifest.fps)
        return fps

    @property
    def features(self) -> dict[str, dict[str, Json]]:
        """Feature key -> dtype, shape, names, as in the source's info.json."""
        return self.manifest.features

    @cached_property
    def stats(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Feature key -> min, max, mean, std, count, … as arrays; empty where the source has none."""
        return {
            key: {name: np.asarray(value) for name, value in values.items()}
            for key, values in (self.manifest.stats or {}).items()
        }

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task texts by position: a row's task is tasks[task_index]."""
        return tuple(self.manifest.tasks)

    @cached_property
    def video_keys(self) -> tuple[str, ...]:
        """Keys of cameras stored as video."""
        return self._keys("video")

    @cached_property
    def image_keys(self) -> tuple[str, ...]:
        """Keys of cameras stored as images in the rows."""
        return self._keys("image")

    @cached_property
    def camera_keys(self) -> tuple[str, ...]:
        """Keys of all cameras."""
        return tuple(key for key in self.features if key in (*self.video_keys, *self.image_keys))

    @property
    def total_episodes(self) -> int:
        """Episodes in the dataset."""
        return self.manifest.total_episodes

    @property
    def total_frames(self) -> int:
        """Frames in the dataset."""
        return self.manifest.total_frames

    @property
    def robot_type(self) -> str | None:
        """As in the source's info.json."""
        robot: str | None = self.manifest.info.get("robot_type")
        return robot

    @property
    def info(self) -> dict[str, Json]:
        """The source's info.json, verbatim."""
        return self.manifest.info

    def _keys(self, dtype: str) -> tuple[str, ...]:
        return tuple(key for key, spec in self.features.items() if spec.get("dtype") == dtype)

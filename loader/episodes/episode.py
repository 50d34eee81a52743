"""An episode in memory: its rows as arrays, its cameras as videos."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.loader.decoding.pictures import Picture, resized
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.episodes.columns import (
    Column,
    ImageFiles,
    empty_column,
    make_column,
    make_images,
)
from roboshard.loader.episodes.video import Video
from roboshard.shards.errors import FormatError
from roboshard.shards.features import (
    ROW_DTYPES,
    Features,
    Spec,
    depth_factor,
    depth_scale,
    is_depth,
)
from roboshard.shards.reader import EpisodeData
from roboshard.shards.rows import decode_rows


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What an episode must know of the mixture that it is part of."""

    dataset: int | None = None
    """Which of the mixture's datasets it is of; None: there is but one dataset."""
    missing: Features = field(default_factory=dict)
    """Features of the mixture that its dataset lacks, and that are filled with zeros."""
    optional: tuple[str, ...] = ()
    """Features that any dataset of the mixture lacks."""


PLAIN = Membership()


class Episode:
    """Rows and video of one episode, ready to make samples from."""

    def __init__(
        self,
        data: EpisodeData,
        features: Features,
        tasks: Sequence[str],
        settings: PictureSettings,
        membership: Membership = PLAIN,
    ) -> None:
        """Parse the rows of a fetched episode. Raises FormatError naming shard, episode and feature."""
        self.length = data.record.length
        self.position = -1
        """Among the episodes of all datasets; set by who reads it."""
        self.num_bytes = data.num_bytes
        self.membership = membership
        self._where = data.where
        dtypes = {
            key: str(spec.get("dtype"))
            for key, spec in features.items()
            if spec.get("dtype") in ROW_DTYPES
        }
        table = decode_rows(data.rows, data.where, data.record.length, list(dtypes))
        missing = [key for key in dtypes if key not in table.column_names]
        if missing:
            raise FormatError(
                f"{data.where}: its rows have no column {', '.join(map(repr, missing))}"
            )
        self.columns: dict[str, Column] = {}
        self._images: dict[str, ImageFiles] = {}
        for key, dtype in dtypes.items():
            where = f"{data.where}, feature {key!r}"
            if dtype == "image":
                self._images[key] = make_images(
                    table.column(key), where, _depth_factor(features[key])
                )
            else:
                self.columns[key] = make_column(table.column(key), dtype, where)
        self._blanks: dict[str, Picture] = {}
        for key, spec in membership.missing.items():
            if spec["dtype"] in ("image", "video"):
                self._blanks[key] = _blank(spec, settings)
            elif key != "task":
                self.columns[key] = empty_column(str(spec["dtype"]), spec["shape"], self.length)
        if membership.dataset is not None:  # datasets list their features in orders of their own
            self.columns = dict(sorted(self.columns.items()))
        self._tasks = tasks
        self._settings = settings
        self._videos = {
            camera.key: Video(
                data.videos[camera.key],
                camera,
                settings,
                f"{data.where}, camera {camera.key!r}",
                depth_scale(features[camera.key]),
            )
            for camera in data.record.cameras
            if camera.key in data.videos
        }

    def tasks(self, rows: NDArray[np.int64]) -> list[str] | None:
        """The tasks of rows (n,): LeRobot looks them up by position. None for a dataset without tasks."""
        column = self.columns.get("task_index")
        if "task" in self.membership.missing:
            return [""] * len(rows)
        if column is None or not self._tasks:
            return None
        indices = np.asarray(column.take(rows)).tolist()
        for row, index in zip(rows.tolist(), indices, strict=True):
            if not 0 <= index < len(self._tasks):
                raise FormatError(
                    f"{self._where}: row {row} has task_index {index} of {len(self._tasks)} tasks"
                )
        return [self._tasks[index] for index in indices]

    def is_video(self, key: str) -> bool:
        """Whether a key is a camera stored as video, not an image feature of the rows."""
        return key in self._videos

    def frames_of_rows(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which frames of the camera's slice these rows show; of an image feature, the rows themselves."""
        video = self._videos.get(key)
        return rows if video is None else video.frames_of_rows(rows)

    def gop(self, key: str, frame: int) -> int:
        """Which GOP of its slice a frame is in; an image of the rows stands alone."""
        video = self._videos.get(key)
        return frame if video is None else video.gop(frame)

    def ways(self, key: str, frames: Sequence[int]) -> tuple[Sequence[int], ...]:
        """Ascending frames in the order that costs least, as ascending parts."""
        video = self._videos.get(key)
        return (frames,) if video is None else video.ways(frames)

    def num_decoded(self, key: str) -> int:
        """Frames decoded so far for a camera; none for an image feature."""
        video = self._videos.get(key)
        return 0 if video is None else video.num_decoded

    def pictures(self, key: str, frames: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """Ascending frames of a camera or image feature with their pictures (H, W, C).

        Each is to be used before the next one. Not for two threads at once per key. Raises FormatError naming shard,
        episode and camera.
        """
        if key in self._videos:
            return self._videos[key].pictures(frames)
        if key in self._blanks:
            return ((frame, self._blanks[key]) for frame in frames)
        images, size = self._images[key], self._settings.image_size
        return ((row, resized(images.pixels(row), size)) for row in frames)


def _depth_factor(spec: Spec) -> float | None:
    return depth_factor(spec) if is_depth(spec) else None


def _blank(spec: Spec, settings: PictureSettings) -> Picture:
    """A picture of zeros of a feature, as large as its others and of their kind."""
    height, width, channels = picture_shape(spec)
    size = (height, width) if settings.image_size is None else settings.image_size
    zeros = torch.zeros((*size, channels), dtype=torch.float32 if is_depth(spec) else torch.uint8)
    return zeros.numpy() if settings.device == "cpu" else zeros.to(settings.device)


def picture_shape(spec: Spec) -> tuple[int, int, int]:
    """(height, width, channels) of a camera, whichever way round its dataset says them."""
    first, second, third = (int(size) for size in spec["shape"])
    names = spec.get("names")
    is_channel_first = (
        str(names[0]).startswith("channel")
        if isinstance(names, list) and names
        else first in (1, 3)
    )
    return (second, third, first) if is_channel_first else (first, second, third)

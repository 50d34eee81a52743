"""An episode in memory: its rows as arrays, its cameras as videos."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.common.errors import FormatError
from roboshard.loader.decoding.pictures import Picture, resized
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import SliceBytes
from roboshard.loader.episodes.columns import empty_column
from roboshard.loader.episodes.parsed import PLAIN, Membership, ParsedEpisode
from roboshard.loader.episodes.spill import SpillStore
from roboshard.loader.episodes.video import Video
from roboshard.shards.features import (
    Features,
    Spec,
    depth_scale,
    is_depth,
    picture_shape,
    shape_of,
)
from roboshard.shards.missing import Mask

SliceOpener = Callable[[str], SliceBytes]
"""The dataset's key of a camera -> the bytes of its slice."""

EPISODE_BYTES = 6 << 10
"""About the bytes of an episode's objects, however short it is. Of episodes of a few rows that is
most of their memory.
"""


class Episode:
    """Rows and video of one episode, ready to make samples from."""

    def __init__(  # noqa: PLR0913 - keyword-only but for what every episode has
        self,
        parsed: ParsedEpisode,
        features: Features,
        tasks: Sequence[str | None],
        settings: PictureSettings,
        *,
        slices: SliceOpener,
        membership: Membership = PLAIN,
        spill: SpillStore | None = None,
    ) -> None:
        """Make an episode of parsed rows; nothing is decoded yet, and images of the rows go to
        `spill`.
        """
        self.length = parsed.length
        self.position = -1
        """Position among the episodes of all datasets, set by who reads the episode; -1 before."""
        self.membership = membership
        self.table = parsed.table
        """The values of most columns, side by side."""
        self.columns = {
            key: self.table.column(key) if column is None else column
            for key, column in parsed.columns.items()
        }
        self.widths = parsed.widths
        """Feature key -> numbers of a padded vector that are the dataset's own."""
        self._images = parsed.images
        self._blanks: dict[str, Picture] = {}
        for key, spec in membership.missing.items():
            if spec["dtype"] in ("image", "video"):
                self._blanks[key] = _blank(spec, settings)
            elif key != "task":
                self.columns[key] = empty_column(
                    str(spec["dtype"]), shape_of(spec) or (1,), self.length
                )
        if membership.dataset is not None:  # datasets list their features in orders of their own
            self.columns = dict(sorted(self.columns.items()))
        self.task_texts = tasks
        """Task texts of the episode's dataset, by task_index."""
        self._settings = settings
        self._videos = {
            key: Video(
                slices(camera.key),
                camera,
                settings,
                f"{parsed.where}, camera {camera.key!r}",
                depth_scale(features[key]),
            )
            for key, camera in parsed.cameras.items()
        }
        spilled = 0 if spill is None else sum(own.keep_in(spill) for own in self._images.values())
        videos = sum(video.held_bytes for video in self._videos.values())
        self.held_bytes = EPISODE_BYTES + max(0, parsed.num_bytes - spilled) + videos
        """About how many bytes the episode takes in memory, open decoders apart."""

    def missing(self, key: str) -> Mask | None:
        """Return which rows (rows,) have no value of a feature; None: all have one, or the feature
        is not in the rows.
        """
        values = self.columns.get(key) or self._images.get(key)
        return None if values is None else values.missing

    @property
    def keys_missing(self) -> list[str]:
        """Features that some row has no value of."""
        return [key for key in (*self.columns, *self._images) if self.missing(key) is not None]

    def tasks(self, rows: NDArray[np.int64]) -> list[str | None] | None:
        """Return the tasks of rows (n,): LeRobot looks them up by position, negative ones from the
        end.

        None for a dataset without tasks.
        """
        column = self.columns.get("task_index")
        if column is None and "task" not in self.membership.missing:
            return None
        indices = np.zeros(len(rows)) if column is None else np.asarray(column.take(rows))
        tasks = self.texts_of(indices)
        if tasks is None or column is None or column.missing is None:
            return tasks
        gone = column.missing[rows].tolist()
        return ["" if is_gone else task for task, is_gone in zip(tasks, gone, strict=True)]

    def texts_of(self, indices: NDArray[Any]) -> list[str | None] | None:
        """Return the tasks of rows (n,) by their task_index; None for a dataset without tasks."""
        if "task" in self.membership.missing:
            return [""] * len(indices)
        if not self.task_texts:
            return None
        texts = self.task_texts
        return [texts[index] for index in indices.reshape(len(indices)).astype(np.int64).tolist()]

    def check_images(self) -> None:
        """Raise FormatError for an image whose header is not that of one that can be decoded."""
        for images in self._images.values():
            images.check()

    def is_video(self, key: str) -> bool:
        """Whether a key is a camera stored as video, not an image feature of the rows."""
        return key in self._videos

    def frames_of_rows(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which frames of the camera's slice these rows show; of an image feature, the rows
        themselves.
        """
        video = self._videos.get(key)
        return rows if video is None else video.frames_of_rows(rows)

    def first_frame(self, key: str) -> int | None:
        """Return which frame of the camera's slice the first row shows, where each further row
        shows the next frame.

        None: `frames_of_rows` knows. An image feature is as a camera without frames to skip.
        """
        video = self._videos.get(key)
        return 0 if video is None else video.first_frame

    def rows_of_frame(self, key: str, frame: int) -> NDArray[np.int64]:
        """Return the rows that show a frame of the camera's slice; of an image feature, the row
        itself.
        """
        video = self._videos.get(key)
        return np.asarray([frame]) if video is None else video.rows_of_frame(frame)

    def passed(self, key: str, frames: Sequence[int]) -> Sequence[int]:
        """Return ascending frames with those that are decoded on the way to them."""
        video = self._videos.get(key)
        return frames if video is None else video.passed(frames)

    def gops(self, key: str, frames: Iterable[int]) -> Sequence[int]:
        """Return which GOP of its slice each frame is in; an image of the rows stands alone."""
        video = self._videos.get(key)
        return list(frames) if video is None else video.gops(frames)

    def decode_runs(self, key: str, frames: Sequence[int]) -> tuple[Sequence[int], ...]:
        """Return ascending frames in the order that costs least, as ascending parts."""
        video = self._videos.get(key)
        return (frames,) if video is None else video.decode_runs(frames)

    def num_decoded(self, key: str) -> int:
        """Frames decoded so far for a camera; none for an image feature."""
        video = self._videos.get(key)
        return 0 if video is None else video.num_decoded

    def pictures(self, key: str, frames: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """Yield ascending frames of a camera or image feature with their pictures (H, W, C).

        Each is to be used before the next one. Not for two threads at once per key. Raises
        FormatError naming shard, episode and camera.
        """
        if key in self._videos:
            return self._videos[key].pictures(frames)
        if key in self._blanks:
            return ((frame, self._blanks[key]) for frame in frames)
        images, size = self._images[key], self._settings.image_size
        return ((row, resized(images.pixels(row), size)) for row in frames)


def _blank(spec: Spec, settings: PictureSettings) -> Picture:
    """Return a picture of zeros for a feature, as large as its others and of their kind."""
    shape = picture_shape(spec)
    if shape is None:
        raise FormatError(f"a picture of shape {spec.get('shape')} has no size")
    height, width, channels = shape
    size = (height, width) if settings.image_size is None else settings.image_size
    zeros = torch.zeros((*size, channels), dtype=torch.float32 if is_depth(spec) else torch.uint8)
    return zeros.numpy() if settings.device == "cpu" else zeros.to(settings.device)

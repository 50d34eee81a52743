"""An episode in memory: its rows as arrays, its cameras as videos."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from roboshard.common.errors import FormatError
from roboshard.loader.decoding.pictures import Picture, resized
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import InMemory, SliceBytes
from roboshard.loader.episodes.columns import Column, TensorColumn, empty_column, make_column
from roboshard.loader.episodes.images import ImageFiles, make_images
from roboshard.loader.episodes.spill import SpillStore
from roboshard.loader.episodes.video import Video
from roboshard.shards.features import (
    ROW_DTYPES,
    ROW_NUMBERS,
    Features,
    Spec,
    depth_scale,
    is_depth,
    picture_shape,
    shape_of,
)
from roboshard.shards.missing import Mask
from roboshard.shards.reader import EpisodeData
from roboshard.shards.rows import decode_rows
from roboshard.storage.stored import StoredRange


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What an episode must know of what it is loaded with: other datasets, values that rows may lack."""

    dataset: int | None = None
    """Which of the mixture's datasets it is of; None: there is but one dataset."""
    missing: Features = field(default_factory=dict)
    """Features of the mixture that its dataset lacks, and that are filled with zeros."""
    optional: tuple[str, ...] = ()
    """Features with a mask `<key>_is_missing`: some dataset of the mixture lacks them, or some row."""
    nullable: tuple[str, ...] = ()
    """Those of them whose values single rows may lack: masks of windows say it of each row."""
    is_lenient: bool = False
    """Rows may lack any value; one that does makes its feature a nullable one of the step."""


PLAIN = Membership()

SliceOpener = Callable[[str, StoredRange, str], SliceBytes]
"""(camera, where its slice lies, its name in errors) -> its bytes, read when they are wanted."""


class Episode:
    """Rows and video of one episode, ready to make samples from."""

    def __init__(  # noqa: PLR0913 - keyword-only but for what every episode has
        self,
        data: EpisodeData,
        features: Features,
        tasks: Sequence[str | None],
        settings: PictureSettings,
        *,
        membership: Membership = PLAIN,
        slices: SliceOpener | None = None,
        spill: SpillStore | None = None,
    ) -> None:
        """Parse the rows of a fetched episode, of which nothing else is kept but what lies in no file.

        `slices` opens those that lie in a file; images of the rows go to `spill`. Raises FormatError naming
        shard, episode and feature.
        """
        self.length = data.record.length
        self.position = -1
        """Among the episodes of all datasets; set by who reads it."""
        self.last_row = data.record.length - 1
        """The last row that is used as a sample; set by who reads it."""
        self.membership = membership
        self._where = data.where
        dtypes = {
            key: str(spec.get("dtype"))
            for key, spec in features.items()
            if spec.get("dtype") in ROW_DTYPES
        }
        table = decode_rows(data.rows, data.where, data.record.length, list(dtypes))
        stored = dict(zip(table.column_names, table.columns, strict=True))
        self.columns: dict[str, Column] = {}
        self._images: dict[str, ImageFiles] = {}
        for key, dtype in dtypes.items():
            where, spec = f"{data.where}, feature {key!r}", features[key]
            shape = shape_of(spec) or (1,)
            is_stored = key in stored
            values = stored[key] if is_stored else pa.chunked_array([pa.nulls(self.length)])
            if dtype == "image":
                self._images[key] = make_images(values, spec, where)
            else:
                self.columns[key] = make_column(values, dtype, where, shape)
            self._check_missing(key, where, is_stored=is_stored)
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
        self._tasks = tasks
        self._check_numbers()
        self._check_tasks()
        self._settings = settings
        unknown = [key for key in data.videos if key not in features]
        if unknown:
            raise FormatError(
                f"{data.where}: has a camera that dataset.json does not know: {unknown[0]!r}"
            )
        self._videos = {
            camera.key: Video(
                self._slice(data, camera.key, slices),
                camera,
                settings,
                f"{data.where}, camera {camera.key!r}",
                depth_scale(features[camera.key]),
            )
            for camera in data.record.cameras
            if camera.key in data.videos
        }
        spilled = 0 if spill is None else sum(own.keep_in(spill) for own in self._images.values())
        videos = sum(video.held_bytes for video in self._videos.values())
        self.held_bytes = max(0, table.nbytes - spilled) + videos
        """About the memory that it takes, open decoders apart."""

    def _slice(self, data: EpisodeData, key: str, slices: SliceOpener | None) -> SliceBytes:
        stored = data.stored.get(key)
        if stored is None or slices is None:
            return InMemory(data.videos[key])
        return slices(key, stored, f"{data.where}, camera {key!r}")

    def missing(self, key: str) -> Mask | None:
        """Return which rows (rows,) have no value of a feature; None: none, or it is not in the rows."""
        values = self.columns.get(key) or self._images.get(key)
        return None if values is None else values.missing

    @property
    def keys_missing(self) -> list[str]:
        """Features that some row has no value of."""
        return [key for key in (*self.columns, *self._images) if self.missing(key) is not None]

    def tasks(self, rows: NDArray[np.int64]) -> list[str | None] | None:
        """The tasks of rows (n,): LeRobot looks them up by position, negative ones from the end.

        None for a dataset without tasks.
        """
        column = self.columns.get("task_index")
        if "task" in self.membership.missing:
            return [""] * len(rows)
        if column is None or not self._tasks:
            return None
        indices = np.asarray(column.take(rows)).reshape(len(rows)).astype(np.int64).tolist()
        if column.missing is None:
            return [self._tasks[index] for index in indices]
        gone = column.missing[rows].tolist()
        return [
            "" if is_gone else self._tasks[index]
            for index, is_gone in zip(indices, gone, strict=True)
        ]

    def _check_numbers(self) -> None:
        """Raise FormatError where a column that says which row it is does not hold one number in each."""
        for key in ROW_NUMBERS:
            column = self.columns.get(key)
            if column is not None and not (
                isinstance(column, TensorColumn) and math.prod(column.shape[1:]) == 1
            ):
                raise FormatError(
                    f"{self._where}, feature {key!r}: its rows do not hold one number each"
                )

    def _check_tasks(self) -> None:
        """Raise FormatError for a row whose task is none of the dataset's."""
        column = self.columns.get("task_index")
        if column is None or not self._tasks:
            return
        indices = np.asarray(column.take(np.arange(self.length))).reshape(self.length)
        if indices.dtype.kind == "f":
            whole = indices.astype(np.int64)
            indices = whole if np.array_equal(whole, indices) else indices
        if indices.dtype.kind != "i":
            raise FormatError(f"{self._where}: task_index is not a whole number in each row")
        number = len(self._tasks)
        wrong = np.flatnonzero((indices < -number) | (indices >= number))
        if wrong.size:
            row = int(wrong[0])
            raise FormatError(
                f"{self._where}: row {row} has task_index {indices[row]} of {number} tasks"
            )

    def check_images(self) -> None:
        """Raise FormatError for an image whose header is not that of one that can be decoded."""
        for images in self._images.values():
            images.check()

    def _check_missing(self, key: str, where: str, *, is_stored: bool) -> None:
        """Raise FormatError for values that are missing where nothing said that they would be."""
        missing = self.missing(key)
        if missing is None or self.membership.is_lenient or key in self.membership.nullable:
            return
        what = f"{int(missing.sum())} rows have no value"
        if not is_stored:
            what = f"its rows have no column {key!r}"
        raise FormatError(
            f"{where}: {what}, which dataset.json does not say: `roboshard rebuild` writes it there, "
            "and then on_missing= says what becomes of it"
        )

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


def _blank(spec: Spec, settings: PictureSettings) -> Picture:
    """A picture of zeros of a feature, as large as its others and of their kind."""
    shape = picture_shape(spec)
    if shape is None:
        raise FormatError(f"a picture of shape {spec.get('shape')} has no size")
    height, width, channels = shape
    size = (height, width) if settings.image_size is None else settings.image_size
    zeros = torch.zeros((*size, channels), dtype=torch.float32 if is_depth(spec) else torch.uint8)
    return zeros.numpy() if settings.device == "cpu" else zeros.to(settings.device)

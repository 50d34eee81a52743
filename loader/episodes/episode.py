"""An episode in memory: its rows as arrays, its slices as open decoders."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.loader.episodes.columns import Column, ImageFiles, empty_column, make_column, make_images
from roboshard.loader.episodes.decode import FrameDecoder, PictureSettings, decode_frames, open_decoder
from roboshard.loader.episodes.pictures import Picture, Pictures
from roboshard.loader.episodes.recent import RecentPictures
from roboshard.shards.errors import FormatError
from roboshard.shards.features import ROW_DTYPES, Features, Spec, depth_factor, depth_scale, is_depth
from roboshard.shards.gop import decode_cost, mean_random_cost
from roboshard.shards.reader import EpisodeData
from roboshard.shards.rows import decode_rows
from roboshard.shards.schema import CameraRecord

CHEAP_TO_GO_BACK = 4
"""Frames decoded for one picked at random, up to which pictures that are needed again are decoded again."""


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
        self.num_bytes = data.num_bytes
        self.membership = membership
        self._where = data.where
        dtypes = {key: str(spec.get("dtype")) for key, spec in features.items() if spec.get("dtype") in ROW_DTYPES}
        table = decode_rows(data.rows, data.where, data.record.length, list(dtypes))
        missing = [key for key in dtypes if key not in table.column_names]
        if missing:
            raise FormatError(f"{data.where}: its rows have no column {', '.join(map(repr, missing))}")
        self.columns: dict[str, Column] = {}
        self._images: dict[str, ImageFiles] = {}
        for key, dtype in dtypes.items():
            where = f"{data.where}, feature {key!r}"
            if dtype == "image":
                self._images[key] = make_images(table.column(key), where, _depth_factor(features[key]))
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
        self._cameras = {camera.key: camera for camera in data.record.cameras if camera.key in data.videos}
        self._frame_of_row = {
            key: np.concatenate([np.arange(frame, frame + count) for _, frame, count in camera.rows])
            for key, camera in self._cameras.items()
        }
        self._depth = {key: depth_scale(features[key]) for key in self._cameras}
        self._videos = data.videos
        self._decoders: dict[str, FrameDecoder] = {}
        self._last_frame: dict[str, int] = {}
        self._recent: dict[str, RecentPictures | None] = {}

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
                raise FormatError(f"{self._where}: row {row} has task_index {index} of {len(self._tasks)} tasks")
        return [self._tasks[index] for index in indices]

    def is_video(self, key: str) -> bool:
        """Whether a key is a camera stored as video, not an image feature of the rows."""
        return key in self._cameras

    def frames_of_rows(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which frames of the camera's slice these rows show; of an image feature, the rows themselves."""
        found = self._frame_of_row.get(key)
        return rows if found is None else found[rows]

    def gop(self, key: str, frame: int) -> int:
        """Which GOP of its slice a frame is in; an image of the rows stands alone."""
        camera = self._cameras.get(key)
        return frame if camera is None else bisect_right(camera.keyframes, frame)

    def ways(self, key: str, frames: Sequence[int]) -> tuple[Sequence[int], ...]:
        """Ascending frames in the order that costs least, as ascending parts.

        First those that are kept, which decoding further would displace; then forward from where the decoder stands.
        """
        recent = self._recent.get(key)
        kept = set() if recent is None else recent.kept(frames)
        others = [frame for frame in frames if frame not in kept]
        after = bisect_right(others, self._last_frame.get(key, -1))
        return sorted(kept), others[after:], others[:after]

    def decode(self, key: str, frames: Sequence[int]) -> tuple[Pictures, int]:
        """Pictures (H, W, C) of a camera or image feature by ascending frame, and how many were decoded.

        Not for two threads at once per key. Raises FormatError naming shard, episode and camera.
        """
        if key in self._blanks:
            return [self._blanks[key]] * len(frames), 0
        if key in self._images:
            return [self._images[key].pixels(row, self._settings.image_size) for row in frames], 0
        camera = self._cameras[key]
        where = f"{self._where}, camera {key!r}"
        if key not in self._decoders:
            self._decoders[key] = open_decoder(self._videos[key], camera, self._settings, where, self._depth[key])
            self._recent[key] = self._memory_for(camera)
        recent = self._recent[key]
        pictures: dict[int, Picture] = {} if recent is None else dict(recent.find(frames))
        missing = [frame for frame in frames if frame not in pictures]
        if not missing:
            return [pictures[frame] for frame in frames], 0
        missing = missing if recent is None else recent.with_gaps(missing)
        decoded = decode_frames(self._decoders[key], camera, missing, self._settings, where)
        cost = decode_cost(missing, camera.keyframes, self._last_frame.get(key))
        self._last_frame[key] = missing[-1]
        if recent is None:
            return decoded, cost
        pictures |= zip(missing, decoded, strict=True)
        recent.keep(missing, pictures)
        return [pictures[frame] for frame in frames], cost

    def _memory_for(self, camera: CameraRecord) -> RecentPictures | None:
        """Only where going back is dear: where keyframes are near, memory is worth more than a few frames."""
        look_back = self._settings.look_back.get(camera.key, 0)
        dear = mean_random_cost(camera.keyframes, camera.num_frames) > CHEAP_TO_GO_BACK
        return RecentPictures(look_back) if look_back and dear and self._settings.device == "cpu" else None


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
    is_channel_first = str(names[0]).startswith("channel") if isinstance(names, list) and names else first in (1, 3)
    return (second, third, first) if is_channel_first else (first, second, third)

"""An episode in memory: its rows as arrays, its slices as open decoders."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from roboshard.loader.columns import SCALAR_DTYPES, Column, ImageFiles, make_column, make_images
from roboshard.loader.decode import FrameDecoder, Picture, PictureSettings, decode_frames, open_decoder
from roboshard.shards.errors import FormatError
from roboshard.shards.gop import decode_cost
from roboshard.shards.jsonio import Json
from roboshard.shards.reader import EpisodeData
from roboshard.shards.rows import decode_rows

ROW_DTYPES = (*SCALAR_DTYPES, "string", "image")


class Episode:
    """Rows and video of one episode, ready to make samples from."""

    def __init__(
        self,
        data: EpisodeData,
        features: Mapping[str, Mapping[str, Json]],
        tasks: Sequence[str],
        settings: PictureSettings,
    ) -> None:
        """Parse the rows of a fetched episode. Raises FormatError naming shard, episode and feature."""
        self.length = data.record.length
        self.num_bytes = data.num_bytes
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
                self._images[key] = make_images(table.column(key), where)
            else:
                self.columns[key] = make_column(table.column(key), dtype, where)
        self._tasks = tasks
        self._settings = settings
        self._cameras = {camera.key: camera for camera in data.record.cameras if camera.key in data.videos}
        self._frame_of_row = {
            key: np.concatenate([np.arange(frame, frame + count) for _, frame, count in camera.rows])
            for key, camera in self._cameras.items()
        }
        self._videos = data.videos
        self._decoders: dict[str, FrameDecoder] = {}
        self._last_frame: dict[str, int] = {}

    def tasks(self, rows: NDArray[np.int64]) -> list[str] | None:
        """The tasks of rows (n,): LeRobot looks them up by position. None for a dataset without tasks."""
        column = self.columns.get("task_index")
        if column is None or not self._tasks:
            return None
        indices = np.asarray(column.take(rows)).tolist()
        for row, index in zip(rows.tolist(), indices, strict=True):
            if not 0 <= index < len(self._tasks):
                raise FormatError(f"{self._where}: row {row} has task_index {index} of {len(self._tasks)} tasks")
        return [self._tasks[index] for index in indices]

    def frames_of_rows(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which frames of the camera's slice these rows show; of an image feature, the rows themselves."""
        found = self._frame_of_row.get(key)
        return rows if found is None else found[rows]

    def ways(self, key: str, frames: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Ascending frames in the order that costs least: forward from where the decoder stands, then the others."""
        after = bisect_right(frames, self._last_frame.get(key, -1))
        return frames[after:], frames[:after]

    def decode(self, key: str, frames: Sequence[int]) -> tuple[Sequence[Picture], int]:
        """Pictures (H, W, C) uint8 of a camera or image feature by ascending frame, and how many were decoded.

        Not for two threads at once per key. Raises FormatError naming shard, episode and camera.
        """
        if key in self._images:
            pictures = [self._images[key].pixels(row, self._settings.image_size) for row in frames]
            return pictures, 0
        camera = self._cameras[key]
        where = f"{self._where}, camera {key!r}"
        if key not in self._decoders:
            self._decoders[key] = open_decoder(self._videos[key], camera, self._settings, where)
        found = decode_frames(self._decoders[key], camera, frames, self._settings, where)
        cost = decode_cost(frames, camera.keyframes, self._last_frame.get(key))
        self._last_frame[key] = frames[-1]
        return found, cost

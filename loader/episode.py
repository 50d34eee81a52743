"""An episode in memory: its rows as tensors, its slices as open decoders."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from roboshard.loader.columns import SCALAR_DTYPES, Column, make_column
from roboshard.loader.decode import FrameDecoder, decode_frames, open_decoder
from roboshard.shards.errors import FormatError
from roboshard.shards.jsonio import Json
from roboshard.shards.reader import EpisodeData
from roboshard.shards.rows import decode_rows

ROW_DTYPES = (*SCALAR_DTYPES, "string", "image")


class Episode:
    """Rows and video of one episode, ready to make samples from."""

    def __init__(self, data: EpisodeData, features: Mapping[str, Mapping[str, Json]], tasks: Sequence[str]) -> None:
        """Parse the rows of a fetched episode. Raises FormatError naming shard, episode and feature."""
        self.length = data.record.length
        self._where = data.where
        dtypes = {key: str(spec.get("dtype")) for key, spec in features.items() if spec.get("dtype") in ROW_DTYPES}
        table = decode_rows(data.rows, data.where, data.record.length, list(dtypes))
        missing = [key for key in dtypes if key not in table.column_names]
        if missing:
            raise FormatError(f"{data.where}: its rows have no column {', '.join(map(repr, missing))}")
        self.columns: dict[str, Column] = {
            key: make_column(table.column(key), dtype, f"{data.where}, feature {key!r}")
            for key, dtype in dtypes.items()
        }
        self._tasks = tasks
        self._cameras = {camera.key: camera for camera in data.record.cameras if camera.key in data.videos}
        self._frame_of_row = {
            key: np.concatenate([np.arange(frame, frame + count) for _, frame, count in camera.rows])
            for key, camera in self._cameras.items()
        }
        self._videos = data.videos
        self._decoders: dict[str, FrameDecoder] = {}

    def task(self, row: int) -> str | None:
        """The task of a row: LeRobot looks it up by position."""
        column = self.columns.get("task_index")
        if column is None or not self._tasks:
            return None
        index = int(column.at(row))
        if not 0 <= index < len(self._tasks):
            raise FormatError(f"{self._where}: row {row} has task_index {index} of {len(self._tasks)} tasks")
        return self._tasks[index]

    def frames_of_rows(self, camera: str, rows: Sequence[int]) -> list[int]:
        """Which frames of the camera's slice these rows show."""
        return [int(frame) for frame in self._frame_of_row[camera][list(rows)]]

    def decode(self, camera: str, frames: Sequence[int]) -> torch.Tensor:
        """Frames of a slice by ascending index: (n, H, W, 3) uint8. Not for two threads at once per camera."""
        where = f"{self._where}, camera {camera!r}"
        if camera not in self._decoders:
            self._decoders[camera] = open_decoder(self._videos[camera], self._cameras[camera], where)
        return decode_frames(self._decoders[camera], self._cameras[camera], frames, where)

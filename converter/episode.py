"""One episode of the source, assembled as a sample of a shard: record, rows and video slices."""

from collections import OrderedDict
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roboshard.converter.alignment import RowTimes
from roboshard.converter.encoding import Encoding
from roboshard.converter.images import with_images
from roboshard.converter.reencode import reencode
from roboshard.converter.rows import RowReader, timestamps_of
from roboshard.converter.slice_file import VideoSlice
from roboshard.converter.source import Episode, SourceMeta
from roboshard.converter.video import VideoFile
from roboshard.shards.errors import RoboshardError, SourceError
from roboshard.shards.missing import missing_values
from roboshard.shards.names import camera_suffixes
from roboshard.shards.rows import encode_rows
from roboshard.shards.schema import EpisodeRecord, Provenance, version_of


class EpisodeReader:
    """Reads episodes; keeps the files of the last one open, which the next one mostly needs. A context manager."""

    def __init__(
        self, source: SourceMeta, tolerance_s: float, encoding: Encoding | None = None
    ) -> None:
        """Read episodes of `source`; without an encoding, video is copied."""
        self._source = source
        self._encoding = encoding
        self._tolerance_s = tolerance_s
        self._held = source.files.held(self._close_file)
        self._rows = RowReader(source.files, self._held)
        self._members = camera_suffixes(source.camera_keys)
        self._videos: OrderedDict[str, VideoFile] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for path in list(self._videos):
            self._videos.pop(path).close()
        self._rows.close()
        self._held.close()

    def read(
        self, episode: Episode, provenance: Provenance | None
    ) -> tuple[EpisodeRecord, bytes, dict[str, bytes]]:
        """(record, parquet file, member suffix -> video file); `provenance` travels in the parquet file.

        Raises:
            SourceError, MissingError: naming episode, camera and file.
            StorageError: a file of it cannot be had from a remote source, which is not its fault.
        """
        self._held.only({episode.rows_path, *(span.path for span in episode.videos.values())})
        rows = with_images(
            self._rows.rows(episode), episode, self._source.features, self._source.files, self._held
        )
        self._check_tasks(rows, episode)
        timestamps = timestamps_of(rows)
        slices = [self._cut(episode, key, timestamps) for key in self._source.camera_keys]
        record = EpisodeRecord(
            version=version_of(video.camera.member for video in slices),
            episode_index=episode.index,
            length=episode.length,
            fps=self._source.fps,
            tasks=list(episode.tasks),
            cameras=[video.camera for video in slices],
            missing=missing_values(rows, self._source.features),
        )
        try:
            table = encode_rows(rows, self._rows.metadata_row(episode), provenance)
        except (TypeError, ValueError) as error:  # bytes, dates; text that is not UTF-8
            where = f"{self._source.files.where(episode.metadata_path)}, episode {episode.index}"
            raise SourceError(f"{where}: its row cannot be kept as JSON: {error}") from error
        return record, table, {video.camera.member: video.data for video in slices}

    def _cut(self, episode: Episode, key: str, timestamps: NDArray[np.float32]) -> VideoSlice:
        span = episode.videos[key]
        times = RowTimes(
            from_s=span.from_s,
            to_s=span.to_s,
            timestamps=timestamps,
            fps=self._source.fps,
            tolerance_s=self._tolerance_s,
        )
        try:
            video, member = self._video(span.path), self._members[key]
            if self._encoding is not None and key in self._encoding.cameras:
                return reencode(video, times, self._encoding, key=key, member=member)
            return video.cut(times, key=key, member=member)
        except RoboshardError as error:
            raise type(error)(
                f"episode {episode.index}, camera {key!r}, {self._source.files.where(span.path)}: {error}"
            ) from error

    def _video(self, path: str) -> VideoFile:
        if path in self._videos:
            self._videos.move_to_end(path)
        else:
            self._videos[path] = VideoFile(self._held.path(path))
            if len(self._videos) > 2 * max(1, len(self._source.camera_keys)):
                self._videos.popitem(last=False)[1].close()
        return self._videos[path]

    def _close_file(self, path: str) -> None:
        video = self._videos.pop(path, None)
        if video is not None:
            video.close()
        self._rows.close_file(path)

    def _check_tasks(self, rows: pa.Table, episode: Episode) -> None:
        if "task_index" not in rows.column_names:
            return
        indices = np.unique(rows.column("task_index").to_numpy())
        if indices.size and not (indices[0] >= 0 and indices[-1] < len(self._source.tasks)):
            raise SourceError(
                f"{self._source.files.where(episode.rows_path)}, episode {episode.index}: task_index {indices[-1]} "
                f"is outside {self._source.tasks_path}, which has {len(self._source.tasks)} tasks"
            )

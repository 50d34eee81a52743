"""One episode of the source, assembled as a sample of a shard: record, rows and video slices."""

from collections import OrderedDict
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import RoboshardError, SourceError
from roboshard.common.jsonio import Json
from roboshard.converter.episode.images import with_images
from roboshard.converter.episode.row_findings import check_columns, examine, tasks_of, timestamps_of
from roboshard.converter.episode.rows import EpisodeRows, RowReader
from roboshard.converter.reencoding.reencode import reencode
from roboshard.converter.reencoding.settings import Encoding
from roboshard.converter.source.api import Episode, SourceMeta, VideoSpan
from roboshard.converter.source.files import HeldFiles, refuse_pointer
from roboshard.converter.source.findings import bounded, finding
from roboshard.converter.video.alignment import RowTimes
from roboshard.converter.video.slice_file import VideoSlice
from roboshard.converter.video.video_file import VideoFile
from roboshard.shards.documents import Finding
from roboshard.shards.missing import missing_values
from roboshard.shards.names import camera_suffixes
from roboshard.shards.rows import encode_rows
from roboshard.shards.schema import EpisodeRecord, Provenance
from roboshard.shards.versions import version_of


class EpisodeReader:
    """Reads episodes; keeps the files of the last one open, which the next one mostly needs.

    A context manager.
    """

    def __init__(
        self, source: SourceMeta, tolerance_s: float, encoding: Encoding | None = None
    ) -> None:
        """Read episodes of `source`; without an encoding, video is copied."""
        self._source = source
        self._encoding = encoding
        self._tolerance_s = tolerance_s
        self._held = source.files.held(self._close_file)
        self._rows = RowReader(source.files, self._held, source.data_depth)
        self._members = camera_suffixes(source.camera_keys)
        self._videos: OrderedDict[str, VideoFile] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files and let go of them."""
        for path in list(self._videos):
            self._videos.pop(path).close()
        self._rows.close()
        self._held.close()

    def path(self, path: str) -> Path:
        """The local file behind a file of the episode that was read last."""
        return self._held.path(path)

    def metadata_row(self, episode: Episode) -> dict[str, Json]:
        """The episode's row of meta/episodes as a shard keeps it."""
        return self._rows.metadata_row(episode)[0]

    def read(
        self, episode: Episode, provenance: Provenance | None
    ) -> tuple[EpisodeRecord, bytes, dict[str, bytes]]:
        """(record, parquet file, member suffix -> video file); `provenance` travels in the parquet
        file.

        Raises:
            SourceError, MissingError: naming episode, camera and file.
            StorageError: a file of it cannot be had from a remote source, which is not its fault.
        """
        rows, tasks, findings = self.rows(episode)
        slices, odd_spans = self.slices(episode, rows, self._source.camera_keys)
        findings += odd_spans
        record = self.record(episode, rows, tasks, slices, findings)
        row = self.metadata_row(episode)
        try:
            table = encode_rows(rows.table, row, provenance)
        except (TypeError, ValueError) as error:  # text that is not UTF-8
            where = f"{self._source.files.where(episode.metadata_path)}, episode {episode.index}"
            raise SourceError(
                f"{where}: its row cannot be kept as JSON: {error}; correct it"
            ) from error
        return record, table, {video.camera.member: video.data for video in slices}

    def record(
        self,
        episode: Episode,
        rows: EpisodeRows,
        tasks: Sequence[str],
        slices: Sequence[VideoSlice],
        findings: Sequence[Finding],
    ) -> EpisodeRecord:
        """The record of an episode, of what `rows` and `slices` returned of it."""
        texts = self._rows.metadata_row(episode)[1]
        place = f"{episode.metadata_path}, episode {episode.index}"
        odd = [finding("metadata-as-text", place, f"JSON has no type for {', '.join(texts)}")]
        return EpisodeRecord(
            version=version_of(video.camera.member for video in slices),
            episode_index=episode.index,
            length=rows.table.num_rows,
            fps=self._source.fps,
            tasks=list(tasks),
            cameras=[video.camera for video in slices],
            missing=missing_values(rows.table, self._source.features),
            findings=bounded([*findings, *(odd if texts else ())]),
        )

    def rows(self, episode: Episode) -> tuple[EpisodeRows, tuple[str, ...], list[Finding]]:
        """(rows of an episode, its tasks, what is odd in them), without its videos. Raises as
        `read` does.
        """
        videos = {span.path for span in episode.videos.values()}
        hold = _Hold(self._held, videos)
        rows = self._rows.read(episode, hold)
        check_columns(rows, need_timestamp=bool(self._source.camera_keys))
        table = with_images(rows.table, episode.index, rows.where, self._source, hold)
        if table is not rows.table:
            odd = finding("image-by-path", rows.place, "its rows point to files of images")
            rows = replace(rows, table=table, findings=(*rows.findings, odd))
        tasks, unnamed = tasks_of(rows, episode, self._source.tasks)
        return rows, tasks, [*rows.findings, *unnamed, *examine(rows, episode, self._source)]

    def slices(
        self, episode: Episode, rows: EpisodeRows, cameras: Sequence[str]
    ) -> tuple[list[VideoSlice], list[Finding]]:
        """(a slice of each of these cameras, what is odd in them), where the episode has these
        `rows`.

        Raises as `read` does.
        """
        times = timestamps_of(rows.table) if self._source.camera_keys else np.zeros(0, np.float32)
        slices: list[VideoSlice] = []
        findings: list[Finding] = []
        for key in cameras:
            span, odd = span_of(
                episode.videos[key], times, self._source.fps, f"{rows.place}, camera {key!r}"
            )
            slices.append(self._cut(episode.index, key, span, times))
            findings += odd
        return slices, findings

    def _cut(
        self, episode: int, key: str, span: VideoSpan, timestamps: NDArray[np.float32]
    ) -> VideoSlice:
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
                f"episode {episode}, camera {key!r}, {self._source.files.where(span.path)}: {error}"
            ) from error

    def _video(self, path: str) -> VideoFile:
        if path in self._videos:
            self._videos.move_to_end(path)
        else:
            refuse_pointer(self._held.path(path), path)
            self._videos[path] = VideoFile(self._held.path(path))
            if len(self._videos) > 2 * max(1, len(self._source.camera_keys)):
                self._videos.popitem(last=False)[1].close()
        return self._videos[path]

    def _close_file(self, path: str) -> None:
        video = self._videos.pop(path, None)
        if video is not None:
            video.close()
        self._rows.close_file(path)


class _Hold:
    """Keeps the files of an episode at hand: its videos, and those that its rows turn out to
    need.
    """

    def __init__(self, held: HeldFiles, videos: Set[str]) -> None:
        self._held, self._files = held, set(videos)

    def __call__(self, paths: Set[str]) -> None:
        """Hold these files beside those that are held already."""
        self._files |= paths
        self._held.hold(self._files)

    def path(self, path: str) -> Path:
        """Return the local file behind a file that is held."""
        return self._held.path(path)


def span_of(
    span: VideoSpan, timestamps: NDArray[np.float32], fps: float, place: str
) -> tuple[VideoSpan, list[Finding]]:
    """(where the frames of rows at these times can be, what is odd in it): LeRobot does not ask for
    an end.
    """
    last = span.from_s + float(timestamps.max())
    if last < span.to_s + 0.5 / fps or span.to_s >= span.limit_s:
        return span, []
    what = f"its rows need frames up to {last:.3f} s, to_timestamp is {span.to_s:.3f} s"
    return replace(span, to_s=span.limit_s), [finding("to-timestamp-differs", place, what)]

"""Comparing with the source: every row, every video packet, or the pictures of what was encoded
again.

What is compared is read anew, not converted again. Imported where a source is given: it brings the
converter.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roboshard.common import jsonio
from roboshard.common.errors import RoboshardError
from roboshard.common.selection import some
from roboshard.converter import ConvertConfig, make_plan
from roboshard.converter.episode.reader import EpisodeReader, span_of
from roboshard.converter.episode.row_findings import timestamps_of
from roboshard.converter.reencoding.settings import Encoding, encoded_features
from roboshard.converter.source.api import Episode, Source, VideoSpan
from roboshard.converter.video.alignment import RowTimes, match_frames
from roboshard.converter.video.opening import open_video
from roboshard.converter.video.video_file import VideoFile
from roboshard.shards.names import sample_key
from roboshard.shards.rows import read_episode_row
from roboshard.shards.schema import CameraRecord, DatasetManifest, EpisodeRecord
from roboshard.shards.slices import CODEC_PARAMETERS, open_container
from roboshard.tools.verify.episode import SourceReader, tolerance_of
from roboshard.tools.verify.packets import (
    Clock,
    SourcePackets,
    compare_parameters,
    compare_payloads,
    parameters_of,
)
from roboshard.tools.verify.problems import CONVERT_AGAIN, Place
from roboshard.tools.verify.reencoded import Original, compare_pictures
from roboshard.tools.verify.tables import compare_tables


class SourceComparison:
    """A LeRobot dataset that shards are compared with."""

    def __init__(self, source: str, manifest: DatasetManifest) -> None:
        """Open the source. Raises MissingError, SourceError, StorageError as a conversion would."""
        self._plan = make_plan(ConvertConfig(source=source, destination="verify", dry_run=True))
        self._manifest = manifest
        self._encoding = self._encoding_of(manifest)
        self.is_local = self._plan.source.meta.files.folder is not None
        self._indices = frozenset(self._plan.source.episode_indices.tolist())

    def close(self) -> None:
        """Remove what was downloaded."""
        self._plan.source.meta.files.close()

    def check_dataset(self, place: Place) -> None:
        """Compare features, tasks, stats and info of dataset.json with the source's metadata."""
        meta, manifest = self._plan.source.meta, self._manifest
        features = (
            meta.features
            if self._encoding is None
            else encoded_features(meta.features, self._encoding)
        )
        if self._encoding is None and "video" in manifest.conversion.options:
            place.report(
                "conversion.options.video says nothing that this release knows of the source",
                CONVERT_AGAIN,
            )
        pairs = {
            "fps": (meta.fps, manifest.fps),
            "features": (features, manifest.features),
            "tasks": (list(meta.tasks.texts), manifest.task_texts),
            "stats": (meta.stats, manifest.stats),
            "info": (meta.info, manifest.info),
        }
        for name, (there, here) in pairs.items():
            if jsonio.canonical(there) != jsonio.canonical(here):
                place.report(f"{name} differ from the source's", CONVERT_AGAIN)

    def _encoding_of(self, manifest: DatasetManifest) -> Encoding | None:
        """Return how cameras were encoded again; None: none was, or that cannot be told."""
        try:
            encoding = Encoding.of_json(manifest.conversion.options.get("video"))
        except ValueError:
            return None
        known = encoding is not None and set(encoding.cameras) <= set(
            self._plan.source.meta.camera_keys
        )
        return encoding if known else None

    def missing(self, episodes: set[int]) -> list[int]:
        """Return the episodes of the source that are not among these."""
        return sorted(self._indices - episodes)

    @contextmanager
    def reader(self) -> Iterator[SourceReader]:
        """Open a reader of the source, for one thread."""
        reader = _Reader(self._plan.source, self._manifest, self._encoding, self._indices)
        try:
            yield reader
        finally:
            reader.close()


class _Reader:
    def __init__(
        self,
        source: Source,
        manifest: DatasetManifest,
        encoding: Encoding | None,
        indices: frozenset[int],
    ) -> None:
        self._source, self._manifest, self._indices = source, manifest, indices
        self._encodings = {} if encoding is None else dict.fromkeys(encoding.cameras, encoding)
        self._episodes = EpisodeReader(source.meta, tolerance_s=tolerance_of(manifest))

    def close(self) -> None:
        self._episodes.close()

    def check(
        self,
        record: EpisodeRecord,
        rows_file: memoryview | None,
        rows: pa.Table | None,
        videos: Mapping[str, memoryview],
        place: Place,
    ) -> None:
        if record.episode_index not in self._indices:
            place.report("the source has no such episode", CONVERT_AGAIN)
            return
        try:
            episode = self._source.episodes([record.episode_index])[0]
            found, tasks, findings = self._episodes.rows(episode)
            if list(tasks) != record.tasks:
                place.report(
                    f"tasks are {record.tasks}, {list(tasks)} in the source", CONVERT_AGAIN
                )
            lost = {odd.code for odd in findings} - {odd.code for odd in record.findings}
            if lost:
                place.report(f"its record does not say {some(sorted(lost))}", CONVERT_AGAIN)
            if rows is not None and rows_file is not None:
                for difference in compare_tables(rows, found.table):
                    place.at(member=f"{sample_key(record.episode_index)}.parquet").report(
                        difference, CONVERT_AGAIN
                    )
                self._check_row_of_metadata(episode, rows_file, place)
            times = timestamps_of(found.table) if record.cameras else np.zeros(0, np.float32)
        except RoboshardError as error:
            place.report(f"the source cannot be read: {error}", "look at the source")
            return
        for camera in record.cameras:
            if camera.key in videos and camera.key in episode.videos:
                inner = place.at(member=f"{sample_key(record.episode_index)}.{camera.member}")
                self._check_video(
                    camera, bytes(videos[camera.key]), episode.videos[camera.key], times, inner
                )

    def _check_row_of_metadata(self, episode: Episode, rows_file: memoryview, place: Place) -> None:
        there = jsonio.load(jsonio.dump(self._episodes.metadata_row(episode)), "metadata", 1 << 30)
        here = read_episode_row(rows_file, "rows")
        if jsonio.canonical(there) != jsonio.canonical(here):
            fields = [
                name
                for name in there
                if jsonio.canonical([there[name]]) != jsonio.canonical([here.get(name)])
            ]
            place.report(
                f"its row of meta/episodes differs from the source's in {some(fields)}",
                CONVERT_AGAIN,
            )

    def _check_video(
        self,
        camera: CameraRecord,
        data: bytes,
        span: VideoSpan,
        times: NDArray[np.float32],
        place: Place,
    ) -> None:
        span, _ = span_of(span, times, self._manifest.fps, span.path)
        rows = RowTimes(
            from_s=span.from_s,
            to_s=span.to_s,
            timestamps=times,
            fps=self._manifest.fps,
            tolerance_s=tolerance_of(self._manifest),
        )
        ticks, frames = camera.ticks(), camera.frames()
        lead = float(ticks[frames.min()] - ticks[0]) * camera.time_base[0] / camera.time_base[1]
        try:
            video = open_video(self._episodes.path(span.path))
            packets = SourcePackets(video, rows.in_file, lead, 1 / rows.fps)
            seconds = np.asarray(packets.shown * float(packets.time_base), dtype=np.float64)
            shown = packets.shown[match_frames(seconds, rows)]
        except (RoboshardError, av.FFmpegError, IndexError) as error:
            place.report(
                f"{span.path} of the source cannot be compared: {error}", "look at the source"
            )
            return
        scale = Fraction(*camera.time_base) / packets.time_base
        mapped = ticks[frames]
        expected = (shown - shown[0]).astype(np.float64)
        here = (mapped - mapped[0]).astype(np.float64) * float(scale)
        wrong = (
            np.flatnonzero(np.abs(here - expected) > 0.5)
            if len(here) == len(expected)
            else np.zeros(1, int)
        )
        if wrong.size:
            place.report(
                f"{wrong.size} rows show another frame than in the source, first row {wrong[0]}",
                CONVERT_AGAIN,
            )
        if camera.key not in self._encodings:
            clock = Clock(source_tick=int(shown[0]), slice_tick=int(mapped[0]), scale=scale)
            compare_payloads(camera, data, packets, clock, place)
            compare_parameters(
                camera, data, packets, lambda: self._in_force(camera, span.path, rows), place
            )
        elif len(frames) == len(shown):
            self._check_pictures(camera, data, span.path, rows, place)

    def _in_force(self, camera: CameraRecord, path: str, rows: RowTimes) -> dict[str, Any]:
        """Return the codec parameters that a copy has; none where there can be no copy."""
        try:
            with closing(VideoFile(self._episodes.path(path))) as video:
                copy = video.cut(rows, key=camera.key, member=camera.member)
            with open_container(memoryview(copy.data), copy.camera) as container:
                return parameters_of(container.streams.video[0])
        except (RoboshardError, av.FFmpegError):
            return dict.fromkeys(CODEC_PARAMETERS)

    def _check_pictures(
        self, camera: CameraRecord, data: bytes, path: str, rows: RowTimes, place: Place
    ) -> None:
        try:
            with closing(VideoFile(self._episodes.path(path))) as video:
                original = Original(video=video, rows=rows, encoding=self._encodings[camera.key])
                compare_pictures(camera, data, original, place)
        except (RoboshardError, av.FFmpegError) as error:
            place.report(f"{path} of the source cannot be decoded: {error}", "look at the source")

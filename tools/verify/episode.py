"""What one episode holds: record, rows and slices against each other, the manifest and the
dataset.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from roboshard.common.errors import RoboshardError
from roboshard.common.selection import some
from roboshard.shards.features import keys_of
from roboshard.shards.names import RECORD_SUFFIX, ROWS_SUFFIX
from roboshard.shards.schema import MAX_RECORD_BYTES, DatasetManifest, EpisodeRecord, parse
from roboshard.tools.verify.checksums import payload
from roboshard.tools.verify.frames import check_frames, choose_rows
from roboshard.tools.verify.layout import Sample
from roboshard.tools.verify.problems import CONVERT_AGAIN, Place
from roboshard.tools.verify.rows import check_metadata, check_rows, numbers
from roboshard.tools.verify.slices import check_slice
from roboshard.tools.verify.values import check_values

DEFAULT_TOLERANCE_S = 1e-4


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the dataset says of all its episodes; of one that has grown, of those that came
    together.
    """

    manifest: DatasetManifest
    conversion: str
    """Id of the conversion that wrote these episodes' shards."""
    provenance: dict[str, bytes] | None
    """What shards repeat of dataset.json, field by field; None: it cannot be read, which is
    reported.
    """
    frames: int
    """How many frames to decode per camera and episode."""
    seed: int

    @property
    def camera_keys(self) -> list[str]:
        """Keys of the cameras that are stored as video."""
        return list(keys_of(self.manifest.features, "video"))

    @property
    def tolerance_s(self) -> float:
        """The tolerance in seconds that the conversion was made with."""
        return tolerance_of(self.manifest)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """One sample of a shard, as it was read."""

    sample: Sample
    data: memoryview
    damaged: Collection[str]
    """Names of members that are not what was written."""
    is_first: bool
    """Whether the sample is the first one of its shard."""


class SourceReader(Protocol):
    """Compares episodes with the source; for one thread."""

    def check(
        self,
        record: EpisodeRecord,
        rows_file: memoryview | None,
        rows: pa.Table | None,
        videos: Mapping[str, memoryview],
        place: Place,
    ) -> None:
        """Report at `place` what differs from the source."""


def tolerance_of(manifest: DatasetManifest) -> float:
    """Return the tolerance in seconds that the conversion was made with."""
    value = manifest.conversion.options.get("tolerance_s")
    return float(value) if isinstance(value, int | float) else DEFAULT_TOLERANCE_S


def check_episode(
    contents: Contents, expected: Expected, source: SourceReader | None, place: Place
) -> None:
    """Check the members of an episode that are not damaged. Everything wrong is reported at
    `place`.
    """
    sample = contents.sample
    found = {member.suffix: member for member in sample.members}
    for suffix in (RECORD_SUFFIX, ROWS_SUFFIX):
        if suffix not in found:
            place.report(f"has no member {suffix}", CONVERT_AGAIN)
    sound = {
        suffix: payload(sample, member, contents.data)
        for suffix, member in found.items()
        if member.name not in contents.damaged
    }
    if RECORD_SUFFIX not in sound:
        return
    record_place = place.at(member=found[RECORD_SUFFIX].name)
    try:
        record = parse(EpisodeRecord, sound[RECORD_SUFFIX], "the record", MAX_RECORD_BYTES)
    except RoboshardError as error:
        record_place.report_error(error, CONVERT_AGAIN)
        return
    _check_record(record, sample, expected, record_place)
    rows = None
    if ROWS_SUFFIX in sound:
        rows_place = place.at(member=found[ROWS_SUFFIX].name)
        rows = check_rows(record, sound[ROWS_SUFFIX], len(expected.manifest.tasks), rows_place)
        check_metadata(
            record,
            sound[ROWS_SUFFIX],
            expected.provenance,
            is_first=contents.is_first,
            place=rows_place,
        )
    if rows is not None:
        seed = f"{expected.seed} {sample.episode}"
        decoded = choose_rows(record.length, expected.frames, seed) if expected.frames else []
        features = expected.manifest.features
        check_values(rows, features, sample.missing, decoded, rows_place)
    times = None if rows is None else numbers(rows, "timestamp")
    timestamps = np.zeros(0, dtype=np.float32) if times is None else times.astype(np.float32)
    videos: dict[str, memoryview] = {}
    for camera in record.cameras:
        if camera.member in sound:
            video_place = place.at(member=found[camera.member].name)
            if check_slice(
                camera, bytes(sound[camera.member]), timestamps, expected.tolerance_s, video_place
            ):
                videos[camera.key] = sound[camera.member]
                if expected.frames:
                    seed = f"{expected.seed} {sample.episode} {camera.key}"
                    chosen = choose_rows(camera.num_rows, expected.frames, seed)
                    spec = expected.manifest.features.get(camera.key, {})
                    check_frames(camera, spec, sound[camera.member], chosen, video_place)
    if source is not None:
        source.check(record, sound.get(ROWS_SUFFIX), rows, videos, place)


def _check_record(record: EpisodeRecord, sample: Sample, expected: Expected, place: Place) -> None:
    stated: dict[str, object] = {
        "episode_index": sample.episode,
        "length": sample.length,
        "tasks": sample.tasks,
    }
    stated["fps"] = expected.manifest.fps
    for name, value in stated.items():
        if value is not None and getattr(record, name) != value:
            place.report(
                f"{name} is {getattr(record, name)}, {value} in the manifest", CONVERT_AGAIN
            )
    names = [RECORD_SUFFIX, ROWS_SUFFIX, *(camera.member for camera in record.cameras)]
    listed = [member.suffix for member in sample.members]
    if listed != names:
        place.report(
            f"the sample has members {some(listed, 8)} where its record asks for {some(names, 8)}",
            CONVERT_AGAIN,
        )
    keys = [camera.key for camera in record.cameras]
    if keys != expected.camera_keys:
        place.report(
            f"cameras are {some(keys, 8)}, {some(expected.camera_keys, 8)} in dataset.json",
            CONVERT_AGAIN,
        )

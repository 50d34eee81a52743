"""A video slice against its record: frames, times, keyframes, codec."""

from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import FormatError
from roboshard.common.selection import some
from roboshard.shards.gop import lowest_later
from roboshard.shards.mp4 import SampleTables, read_sample_tables
from roboshard.shards.names import is_matroska
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import open_container, read_slice
from roboshard.tools.verify.problems import CONVERT_AGAIN, Place


def check_slice(
    camera: CameraRecord, data: bytes, times: NDArray[np.float32], tolerance_s: float, place: Place
) -> bool:
    """Check a slice against its record, and return whether it can be read at all.

    `times` are the rows' timestamps, empty where those are unreadable.
    """
    if camera.num_frames > len(data):  # a claim to be refused before arrays of that length are made
        place.report(f"{camera.num_frames} frames cannot lie in {len(data)} bytes", CONVERT_AGAIN)
        return False
    if not _check_tables(camera, data, place):
        return False
    _check_row_times(camera, times, tolerance_s, place)
    return _check_stream(camera, data, place)


def _check_tables(camera: CameraRecord, data: bytes, place: Place) -> bool:
    if is_matroska(camera.member):
        return _check_matroska(camera, data, place)
    try:
        tables = read_sample_tables(data)
    except ValueError as error:
        place.report(f"not an MP4 slice as the format has it: {error}", CONVERT_AGAIN)
        return False
    if len(tables.sizes) != camera.num_frames:
        place.report(
            f"{len(tables.sizes)} frames in the slice where the record counts "
            f"{camera.num_frames}: a frame was dropped or added",
            CONVERT_AGAIN,
        )
        return True
    if not tables.lie_within(data):
        place.report("its sample tables point outside the file", CONVERT_AGAIN)
    if tuple(camera.time_base) != (1, tables.timescale):
        place.report(
            f"{tables.timescale} ticks a second, {camera.time_base} in the record", CONVERT_AGAIN
        )
    order = tables.as_shown
    wrong = np.flatnonzero(tables.pts[order] != camera.ticks())
    if wrong.size:
        place.report(
            f"{wrong.size} frames are shown at other times than the record says, first frame "
            f"{wrong[0]}",
            CONVERT_AGAIN,
        )
    _check_keyframes(camera, tables, place)
    return True


def _check_matroska(camera: CameraRecord, data: bytes, place: Place) -> bool:
    try:
        tables = read_slice(memoryview(data), camera).tables
    except FormatError as error:
        place.report(str(error), CONVERT_AGAIN)
        return False
    _check_keyframes(camera, tables, place)
    return True


def _check_keyframes(camera: CameraRecord, tables: SampleTables, place: Place) -> None:
    safe = (tables.is_sync & (tables.pts < lowest_later(tables.pts)))[tables.as_shown]
    unsafe = sorted(set(camera.keyframes) - set(np.flatnonzero(safe).tolist()))
    if unsafe:
        place.report(
            f"decoding cannot start at frame {some(unsafe)}, which the record says", CONVERT_AGAIN
        )


def _check_stream(camera: CameraRecord, data: bytes, place: Place) -> bool:
    try:
        with open_container(memoryview(data), camera) as container:
            context: Any = container.streams.video[0].codec_context
            found = {
                "width": context.width,
                "height": context.height,
                "pix_fmt": context.pix_fmt or "unknown",
            }
    except FormatError as error:
        place.report(str(error), CONVERT_AGAIN)
        return False
    except (av.FFmpegError, AttributeError, ValueError) as error:
        place.report(f"cannot be opened as video: {error}", CONVERT_AGAIN)
        return False
    for name, value in found.items():
        if value != getattr(camera, name):
            place.report(
                f"its {name} is {value}, {getattr(camera, name)} in the record", CONVERT_AGAIN
            )
    return True


def _check_row_times(
    camera: CameraRecord, times: NDArray[np.float32], tolerance_s: float, place: Place
) -> None:
    """Check that rows and their frames are the same time apart, twice the tolerance and float32's
    steps aside.
    """
    if len(times) != camera.num_rows:
        return
    numerator, denominator = camera.time_base
    apart = camera.ticks()[camera.frames()] * (numerator / denominator) - times.astype(np.float64)
    apart -= np.median(apart)
    allowed = (
        2 * tolerance_s + np.spacing(np.abs(times)).astype(np.float64) + numerator / denominator
    )
    wrong = np.flatnonzero(np.abs(apart) > allowed)
    if wrong.size:
        row = int(wrong[0])
        place.report(
            f"{wrong.size} rows show a frame of another time, first row {row}, "
            f"{abs(apart[row]):.6f} s away: a frame is missing, or rows are mapped to others",
            CONVERT_AGAIN,
        )

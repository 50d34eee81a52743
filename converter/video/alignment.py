"""Matching rows with frames: arithmetic on timestamps, apart from any video library.

LeRobot shows for a row the frame nearest to `from_timestamp + timestamp`, and refuses one that is
further away than the tolerance. It does so for every row by itself: rows may show the same frame,
and need not ascend. The same rule here, among the episode's own frames alone (those between
from_timestamp and to_timestamp): rows that have no frame would otherwise be shown the next
episode's. Two corrections keep right frames from being refused: timestamps are stored as float32,
so half of their spacing is added to the tolerance; and from_timestamp is a float sum that drifts,
so an offset that all rows of the episode share is taken out, up to a quarter of a frame.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import SourceError

MAX_DRIFT_FRAMES = 0.25
MAX_SECONDS = 1e6
"""Largest time in seconds: eleven days. Times beyond are those of a clock, in which float32 has no
seconds any more.
"""


@dataclass(frozen=True, kw_only=True)
class RowTimes:
    """When an episode's rows are shown in a video file."""

    from_s: float
    """The episode's from_timestamp: seconds in the file."""
    to_s: float
    """The episode's to_timestamp: where, in the file, the next episode's frames begin."""
    timestamps: NDArray[np.float32]
    """(rows,) the episode's timestamp column: seconds since its start, in any order; some may be
    the same.
    """
    fps: float
    tolerance_s: float

    @property
    def in_file(self) -> NDArray[np.float64]:
        """(rows,) seconds in the file."""
        return self.from_s + self.timestamps.astype(np.float64)


def check_times(rows: RowTimes) -> None:
    """Raise SourceError where rows are at no time, or far from where the episode's frames can
    be.
    """
    finite = np.isfinite(rows.timestamps)
    if not np.all(finite):
        row = int(np.argmin(finite))
        raise SourceError(
            f"row {row} has the timestamp {rows.timestamps[row]}: with video, each row needs its "
            "time in seconds since the episode's start, by which its frame is found"
        )
    if not math.isfinite(rows.from_s):
        raise SourceError(f"from_timestamp is {rows.from_s}: its frames are nowhere")
    times = rows.in_file
    far = np.minimum(np.abs(times), np.abs(rows.timestamps)) > MAX_SECONDS
    if np.any(far):
        row = int(np.argmax(far))
        raise SourceError(
            f"row {row} has the timestamp {rows.timestamps[row]:.3f}, and no frame is there: "
            f"LeRobot looks for it at from_timestamp + timestamp, {times[row]:.3f} s. Timestamps "
            "must be seconds since the episode's start, not Unix times: subtract the first one of "
            "the episode from each"
        )


def match_frames(frame_times: NDArray[np.float64], rows: RowTimes) -> NDArray[np.int64]:
    """The frame shown for each row.

    Args:
        frame_times: (num_frames,) presentation times in seconds, ascending.
        rows: the episode's rows.

    Returns:
        (rows,) positions in frame_times.

    Raises:
        SourceError: a row whose nearest frame is too far away, with row and times.
    """
    half = 0.5 / rows.fps
    first, end = np.searchsorted(frame_times, [rows.from_s - half, rows.to_s - half])
    if end <= first:
        raise SourceError(f"no frame between {rows.from_s:.6f} s and {rows.to_s:.6f} s")
    return int(first) + _match_own(frame_times[first:end], rows)


def _match_own(frame_times: NDArray[np.float64], rows: RowTimes) -> NDArray[np.int64]:
    """`match_frames` among the frames that are the episode's own."""
    times = rows.in_file
    tolerance = rows.tolerance_s + np.spacing(np.abs(rows.timestamps)).astype(np.float64) / 2
    frames = nearest(frame_times, times)
    errors = frame_times[frames] - times
    if np.all(np.abs(errors) <= tolerance):
        return frames
    drift = float(np.median(errors))
    if abs(drift) <= MAX_DRIFT_FRAMES / rows.fps:
        shifted = nearest(frame_times, times + drift)
        if np.all(np.abs(frame_times[shifted] - times - drift) <= tolerance):
            return shifted
    row = int(np.argmax(np.abs(errors) > tolerance))
    far = int(np.sum(np.abs(errors) > tolerance))
    raise SourceError(
        f"row {row} is at {times[row]:.6f} s in the file, its nearest frame at "
        f"{frame_times[frames[row]]:.6f} s: {abs(errors[row]):.6f} s apart, more than "
        f"{tolerance[row]:.6f} s ({far} of {len(times)} rows). The video has fewer frames than the "
        "rows, or from_timestamp is wrong; --tolerance-s accepts a larger distance"
    )


def nearest(sorted_values: NDArray[np.float64], queries: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each query the position of the nearest value; of two equally near the first."""
    if len(sorted_values) == 1:
        return np.zeros(len(queries), dtype=np.int64)
    right = np.searchsorted(sorted_values, queries).clip(1, len(sorted_values) - 1)
    left = right - 1
    closer = sorted_values[right] - queries < queries - sorted_values[left]
    return np.where(closer, right, left).astype(np.int64)


def row_runs(frames: Sequence[int]) -> list[tuple[int, int, int]]:
    """Row -> frame as runs [first row, first frame, count] in which both rise by one."""
    runs: list[tuple[int, int, int]] = []
    for row, frame in enumerate(frames):
        if runs and frame == runs[-1][1] + runs[-1][2]:
            first_row, first_frame, count = runs[-1]
            runs[-1] = (first_row, first_frame, count + 1)
        else:
            runs.append((row, int(frame), 1))
    return runs


def pts_runs(pts: Sequence[int]) -> list[tuple[int, int, int]]:
    """Ascending ticks as runs [first tick, step, count]; the step of a run of one is zero."""
    runs: list[tuple[int, int, int]] = []
    for tick in pts:
        if runs:
            first, step, count = runs[-1]
            if count == 1:
                runs[-1] = (first, tick - first, 2)
                continue
            if tick == first + step * count:
                runs[-1] = (first, step, count + 1)
                continue
        runs.append((tick, 0, 1))
    return runs

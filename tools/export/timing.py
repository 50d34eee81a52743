"""When frames are shown in a file of several episodes: arithmetic, apart from any video library.

LeRobot shows for a row the frame nearest to `from_timestamp + timestamp`; its fastest reader
(torchcodec) takes the frame whose number is that time multiplied by the file's mean frame rate.
Both are right where a file's frames follow each other evenly, all frames counted, those before an
episode's first one included. So episodes share a file only where that is so; others have one of
their own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import SourceError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

MAX_UNEVEN = 0.25
"""Share of a frame's duration: how far frames may be from even spacing, and from their rows, to
share a file.
"""
SMALL_S = 5e-5
"""Seconds of rounding of timestamps, which says nothing about where an episode begins."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """When an episode's rows are shown in a file, in seconds."""

    from_s: float
    to_s: float


def seconds(ticks: IntArray, tick: float) -> FloatArray:
    """Return ticks as seconds, float64; `tick` is the duration of one."""
    return np.asarray(ticks * tick, dtype=np.float64)


def period_of(pts: IntArray, nominal: float) -> float:
    """Return the ticks from one frame to the next: the nominal number where frames follow it, or
    else their mean.
    """
    if len(pts) == 1 or is_even(pts, nominal):
        return nominal
    return float(pts[-1] - pts[0]) / (len(pts) - 1)


def is_even(pts: IntArray, period: float) -> bool:
    """Return whether frames, ascending, follow each other in about this many ticks."""
    expected = pts[0] + np.arange(len(pts)) * period
    return bool(np.max(np.abs(pts - expected)) <= MAX_UNEVEN * period)


def evenly_spaced(shown: IntArray, first: int, last: int, period: float) -> IntArray:
    """Return the times of all frames, those before `first` and after `last`, which no row shows, at
    even distances.

    They are there because others are decoded with their help; with frames missing among them, for
    want of which the file's mean frame rate would not be that of its rows.
    """
    numbers = np.arange(len(shown))
    before = shown[first] + np.rint((numbers - first) * period).astype(np.int64)
    after = shown[last] + np.rint((numbers - last) * period).astype(np.int64)
    return np.where(numbers < first, before, np.where(numbers > last, after, shown))


def start_of(
    frame_times: FloatArray, frames: IntArray, timestamps: FloatArray, fps: float
) -> tuple[float, float]:
    """Return (from_timestamp, the largest distance in seconds that it leaves between a row and its
    frame).
    """
    distances = frame_times[frames] - timestamps
    start = float(distances[0])
    if np.max(np.abs(distances - start)) > SMALL_S:
        start = float(distances.min() + distances.max()) / 2
    if np.max(np.abs(distances - start)) > MAX_UNEVEN / fps:  # some rows have no frame of their own
        start = float(np.median(distances))
    return start, float(np.max(np.abs(distances - start)))


def span_of(frame_times: FloatArray, frames: IntArray, timestamps: FloatArray, fps: float) -> Span:
    """Return the times that make every row show its frame.

    Args:
        frame_times: (num_frames,) when the slice's frames are shown in the file, ascending.
        frames: (rows,) which of them each row shows.
        timestamps: (rows,) the rows' times since the episode's start.
        fps: rows per second.

    Raises:
        SourceError: there are none, because frames are shown at other times than their rows.
    """
    start, _ = start_of(frame_times, frames, timestamps, fps)
    to_next = np.append(np.diff(frame_times), np.inf)
    to_last = np.append(np.inf, np.diff(frame_times))
    late = start + timestamps - frame_times[frames]
    wrong = np.flatnonzero((late > to_next[frames] / 2) | (-late >= to_last[frames] / 2))
    if wrong.size:
        row = int(wrong[0])
        raise SourceError(
            f"row {row} shows frame {frames[row]}, to which another one is nearer: LeRobot goes by "
            f"time alone ({wrong.size} of {len(frames)} rows)"
        )
    return Span(from_s=start, to_s=float(frame_times[frames.max()]) + 1 / fps)

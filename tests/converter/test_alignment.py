"""Rows find their frames, or an error is raised: never another frame."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from roboshard.converter.video.alignment import (
    MAX_DRIFT_FRAMES,
    RowTimes,
    match_frames,
    nearest,
    pts_runs,
    row_runs,
)
from roboshard.shards import SourceError

FPS = st.sampled_from([1.0, 5.0, 10.0, 24.0, 29.97, 30.0, 50.0, 60.0, 100.0])
EIGHTHS = st.integers(-(10**6), 10**6).map(
    lambda n: n / 8
)  # whose distances have no rounding error
TOLERANCE_S = 1e-4


def row_times(
    length: int,
    fps: float,
    *,
    from_s: float = 0.0,
    to_s: float | None = None,
    tolerance_s: float = TOLERANCE_S,
) -> RowTimes:
    """Rows as the recorder writes them: frame_index / fps, as float32."""
    timestamps = (np.arange(length) / fps).astype(np.float32)
    end = from_s + length / fps if to_s is None else to_s
    return RowTimes(
        from_s=from_s, to_s=end, timestamps=timestamps, fps=fps, tolerance_s=tolerance_s
    )


def noise(seed: int, size: int, largest: float) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-largest, largest, size)


# -- nearest ---------------------------------------------------------------------------------------


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=EIGHTHS), st.lists(EIGHTHS, max_size=40))
def test_nearest_is_what_looking_at_every_value_finds(
    values: NDArray[np.float64], queries: list[float]
) -> None:
    ordered = np.unique(values)
    found = nearest(ordered, np.array(queries, dtype=np.float64))
    assert found.dtype == np.int64
    assert found.tolist() == [
        int(np.argmin(np.abs(ordered - query))) for query in queries
    ]  # argmin: the first


# -- match_frames ----------------------------------------------------------------------------------


@given(
    fps=FPS,
    before=st.integers(0, 60),
    length=st.integers(1, 80),
    after=st.integers(0, 60),
    start=st.floats(0, 100),
    seed=st.integers(0, 10_000),
)
def test_jitter_within_the_tolerance_never_moves_a_frame(
    fps: float, before: int, length: int, after: int, start: float, seed: int
) -> None:
    count = before + length + after
    frames = start + np.arange(count) / fps + noise(seed, count, 0.99 * TOLERANCE_S)
    rows = row_times(length, fps, from_s=start + before / fps)
    assert match_frames(frames, rows).tolist() == list(range(before, before + length))


@given(
    fps=FPS,
    before=st.integers(0, 20),
    length=st.integers(1, 60),
    drift=st.floats(-0.95 * MAX_DRIFT_FRAMES, 0.95 * MAX_DRIFT_FRAMES),
    seed=st.integers(0, 10_000),
)
def test_an_offset_that_all_rows_share_is_taken_out(
    fps: float, before: int, length: int, drift: float, seed: int
) -> None:
    count = before + length + 20
    frames = np.arange(count) / fps + noise(seed, count, 0.4 * TOLERANCE_S)
    rows = row_times(length, fps, from_s=(before + drift) / fps)
    assert match_frames(frames, rows).tolist() == list(range(before, before + length))


@given(
    fps=FPS, length=st.integers(2, 60), drift=st.floats(0.26, 0.45), sign=st.sampled_from([-1, 1])
)
def test_a_larger_offset_is_refused(fps: float, length: int, drift: float, sign: int) -> None:
    frames = np.arange(length + 20) / fps
    rows = row_times(length, fps, from_s=(10 + sign * drift) / fps)
    with pytest.raises(SourceError, match="from_timestamp is wrong"):
        match_frames(frames, rows)


@given(
    fps=FPS,
    length=st.integers(2, 60),
    missing=st.sets(st.integers(0, 59), min_size=1, max_size=20),
    other=st.integers(0, 30),
    drift=st.floats(-0.2, 0.2),
)
@example(fps=10.0, length=12, missing={10, 11}, other=9, drift=0.0)
@example(fps=10.0, length=2, missing={0}, other=9, drift=0.0)
def test_a_row_without_its_frame_is_refused_whatever_frames_others_have(
    fps: float, length: int, missing: set[int], other: int, drift: float
) -> None:
    own = [frame for frame in range(length) if frame not in missing]
    frames = np.array([*own, *range(length, length + other)]) / fps
    rows = row_times(length, fps, from_s=drift / fps)
    if len(own) == length:
        assert match_frames(frames, rows).tolist() == own
        return
    with pytest.raises(SourceError, match=r"apart, more than|no frame between"):
        match_frames(frames, rows)


@given(
    fps=FPS,
    before=st.integers(0, 10),
    length=st.integers(1, 40),
    missing=st.integers(1, 39),
    after=st.integers(0, 40),
    tolerance=st.floats(1, 9.9),
)
def test_with_any_tolerance_only_own_frames_are_shown(
    fps: float, before: int, length: int, missing: int, after: int, tolerance: float
) -> None:
    """The last frames are missing, and the next episode's follow at once."""
    kept = max(1, length - missing)
    frames = np.arange(before + kept + after) / fps
    rows = row_times(
        length, fps, from_s=before / fps, to_s=(before + kept) / fps, tolerance_s=tolerance
    )
    if (length - kept) / fps > tolerance:
        with pytest.raises(SourceError, match="fewer frames than the rows"):
            match_frames(frames, rows)
        return
    shown = match_frames(frames, rows) - before
    assert shown.tolist() == np.minimum(np.arange(length), kept - 1).tolist()


@given(
    frames=hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(0, 10), unique=True),
    length=st.integers(1, 20),
    from_s=st.floats(0, 8),
    tolerance=st.floats(0, 0.3),
)
def test_what_is_matched_is_near_enough_own_and_in_order(
    frames: NDArray[np.float64], length: int, from_s: float, tolerance: float
) -> None:
    """Frames at any times at all."""
    ordered = np.sort(frames)
    rows = row_times(length, 10.0, from_s=from_s, tolerance_s=tolerance)
    try:
        matched = match_frames(ordered, rows)
    except SourceError:
        return
    errors = ordered[matched] - rows.in_file
    slack, drift = tolerance + 1e-6, MAX_DRIFT_FRAMES / 10
    least, most = (
        errors.max() - slack,
        errors.min() + slack,
    )  # the offsets with which all are near enough
    assert max(least, -drift) <= min(most, drift)
    assert np.all(np.diff(matched) >= 0)
    assert np.all(ordered[matched] >= rows.from_s - 0.05)
    assert np.all(ordered[matched] < rows.to_s - 0.05)


@pytest.mark.parametrize("fps", [10.0, 30.0, 50.0])
@pytest.mark.parametrize("hours", [1024.5 / 3600, 3.0, 9.0])
def test_float32_timestamps_stay_exact_in_long_episodes(fps: float, hours: float) -> None:
    """From 1024 s on, float32 timestamps are further apart than the tolerance; at 9 h, 2 ms."""
    length = round(hours * 3600 * fps)
    rows = row_times(length, fps, from_s=7.0)
    assert np.abs(rows.in_file - 7.0 - np.arange(length) / fps).max() > TOLERANCE_S / 4
    frames = 7.0 + np.arange(-5, length + 5) / fps
    assert np.array_equal(match_frames(frames, rows), np.arange(5, length + 5))
    with pytest.raises(SourceError, match=f"row {length - 1} is at"):
        match_frames(np.delete(frames, length + 4), rows)


def test_an_episode_beyond_the_end_of_the_file_is_refused() -> None:
    with pytest.raises(SourceError, match=r"no frame between 5.000000 s and 6.000000 s"):
        match_frames(np.arange(10) / 10, row_times(10, 10.0, from_s=5.0))


# -- Runs ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 12)).map(sorted) | st.lists(st.integers(0, 2**40)))
@example(list(range(1000)))
@example([7] * 20)
def test_row_runs_say_the_frame_of_every_row(frames: list[int]) -> None:
    runs = row_runs(frames)
    assert [frame + i for _, frame, count in runs for i in range(count)] == frames
    assert [row + i for row, _, count in runs for i in range(count)] == list(range(len(frames)))
    assert all(a[1] + a[2] != b[1] for a, b in pairwise(runs))  # none could be one with the next


@given(st.sets(st.integers(0, 60)).map(sorted) | st.sets(st.integers(0, 2**50)).map(sorted))
@example([100 * i for i in range(1000)])
@example([0])
def test_pts_runs_say_every_tick(ticks: list[int]) -> None:
    runs = pts_runs(ticks)
    assert [first + step * i for first, step, count in runs for i in range(count)] == ticks
    assert all(step == 0 for _, step, count in runs if count == 1)


def test_regular_times_are_one_run() -> None:
    assert pts_runs([512 * i + 1024 for i in range(500)]) == [(1024, 512, 500)]
    assert row_runs(range(3, 503)) == [(0, 3, 500)]

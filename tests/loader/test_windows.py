"""Delta windows are LeRobot's arithmetic: whole frames, clamped to the episode, padding marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.common.errors import OptionError
from roboshard.loader.samples.windows import MAX_OFFSET_S, frame_offsets, window

FPS = (5, 10, 15, 24, 29.97, 30, 50, 60, 1000 / 33)
frame_rates = st.sampled_from(FPS)


def lerobot_indices(deltas: list[float], fps: float, tolerance_s: float) -> list[int] | None:
    """LeRobot's check_delta_timestamps and get_delta_indices; None where it refuses."""
    if not all(abs(delta * fps - round(delta * fps)) / fps <= tolerance_s for delta in deltas):
        return None
    return [round(delta * fps) for delta in deltas]


@given(frame_rates, st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=20))
def test_multiples_of_the_frame_time_are_whole_frames(fps: float, frames: list[int]) -> None:
    found = frame_offsets({"action": [frame / fps for frame in frames]}, fps, 1e-6)
    assert found["action"].tolist() == frames
    assert found["action"].dtype == np.int64


@given(
    frame_rates,
    st.lists(st.floats(-100, 100), min_size=1, max_size=5),
    st.sampled_from([0, 1e-4, 1e-2, 1]),
)
def test_any_offsets_are_taken_or_refused_as_lerobot_does(
    fps: float, deltas: list[float], tolerance_s: float
) -> None:
    expected = lerobot_indices(deltas, fps, tolerance_s)
    if expected is None:
        with pytest.raises(OptionError, match="whole number of frames"):
            frame_offsets({"action": deltas}, fps, tolerance_s)
    else:
        assert frame_offsets({"action": deltas}, fps, tolerance_s)["action"].tolist() == expected


@given(
    st.integers(1, 30).flatmap(
        lambda length: st.tuples(st.integers(0, length - 1), st.just(length))
    ),
    st.lists(st.integers(-40, 40), min_size=1, max_size=10),
)
def test_windows_repeat_the_boundary_rows_and_mark_them(
    place: tuple[int, int], offsets: list[int]
) -> None:
    row, length = place
    rows, is_pad = (
        found[0] for found in window(np.array([row]), np.array(offsets), np.array([length]))
    )
    assert rows.tolist() == [max(0, min(length - 1, row + offset)) for offset in offsets]
    assert is_pad.tolist() == [not 0 <= row + offset < length for offset in offsets]
    assert is_pad.dtype == np.bool_


def test_each_feature_has_its_own_window() -> None:
    found = frame_offsets({"action": [0, 0.1, 0.2], "observation.state": [-0.1]}, 10, 1e-4)
    assert {key: offsets.tolist() for key, offsets in found.items()} == {
        "action": [0, 1, 2],
        "observation.state": [-1],
    }


def test_an_offset_between_frames_is_refused_with_the_remedy() -> None:
    message = r"delta_timestamps\['action'\]: 0\.12, -0\.05 s is not a whole .* at 10 fps .*=0\.0001; .* of 1/10"
    with pytest.raises(OptionError, match=message):
        frame_offsets({"observation.state": [0.1], "action": [0.1, 0.12, -0.05]}, 10, 1e-4)


def test_the_tolerance_is_in_seconds() -> None:
    assert frame_offsets({"action": [0.1009]}, 10, 1e-3)["action"].tolist() == [1]
    with pytest.raises(OptionError, match=r"tolerance_s=0\.001"):
        frame_offsets({"action": [0.1011]}, 10, 1e-3)


@pytest.mark.parametrize(
    "deltas",
    [
        [],
        0.1,
        [[0.1, 0.2]],
        [float("nan")],
        [0, float("inf")],
        [10 * MAX_OFFSET_S],
        ["soon"],
        "0.1",
        [None],
        {},
    ],
)
def test_what_is_no_list_of_seconds_is_refused(deltas: Any) -> None:
    with pytest.raises(
        OptionError, match=r"delta_timestamps\['action'\] must be a list of at least one number"
    ):
        frame_offsets({"action": deltas}, 10, 1e-4)

"""Choosing what of an episode is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.common.selection import spread
from roboshard.tools.preview.content import Content, dimension_names, make_content
from roboshard.tools.preview.layout import LEFT, STRIP_WIDTH, WIDTH, make_layout, panel_height
from roboshard.tools.preview.thumbnails import as_picture, depth_range, depth_steps

SPEC = {"dtype": "float32", "shape": [2], "names": ["x", "y"]}


def content(rows: dict[str, Any], features: dict[str, Any]) -> Content:
    return make_content(
        {"frame_index": np.arange(3)} | rows, features, dataset="org/arm", episode_index=7, fps=10
    )


def test_state_and_action_come_first_and_what_has_no_curve_says_why() -> None:
    rows = {
        "reward": np.zeros(3, np.float32),
        "action": np.ones((3, 2), np.float32),
        "observation.state": np.arange(6).reshape(3, 2),
        "done": np.arange(3) == 2,
        "note": ["a", "b", "c"],
        "matrix": np.zeros((3, 3, 2)),
        "embedding": np.zeros((3, 768)),
        "nothing": np.zeros((3, 0)),
    }
    features = {key: {"dtype": "float32", "shape": [1], "names": None} for key in rows}
    features |= {
        "action": SPEC,
        "done": {"dtype": "bool"},
        "note": {"dtype": "string"},
        "said": {"dtype": "language"},
    }
    features |= {"camera": {"dtype": "video"}, "index": {"dtype": "int64"}}
    made = content(rows, features)
    assert [curves.key for curves in made.curves] == [
        "observation.state",
        "action",
        "reward",
        "done",
    ]
    state, action, reward, done = made.curves
    assert (state.names, state.named) == (("0", "1"), False)
    assert (action.names, action.named) == (("x", "y"), True)
    assert reward.values.shape == (3, 1)
    assert (done.values.tolist(), done.boolean, reward.boolean) == ([[0], [0], [1]], True, False)
    assert state.values.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert made.not_drawn == {
        "note": "string, not numbers of one shape",
        "matrix": "2 axes",
        "embedding": "768 dimensions",
        "nothing": "0 dimensions",
        "said": "language, not numbers of one shape",
    }


def test_times_are_those_of_the_rows_and_tasks_begin_where_they_change() -> None:
    made = content({"timestamp": np.float32([0, 0.5, 0.7]), "task": ["a", "a", "b"]}, {})
    assert made.seconds.tolist() == pytest.approx([0, 0.5, 0.7])
    assert made.tasks == ((0, "a"), (2, "b"))
    assert content({}, {}).seconds.tolist() == pytest.approx([0, 0.1, 0.2])
    assert content({}, {}).tasks == ()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x", "y"], ("x", "y")),
        ({"motors": ["x", "y"]}, ("x", "y")),
        ([["x", "y"]], ("x", "y")),
        ({"y": 1, "x": 0}, ("x", "y")),
        (["x"], None),
        (["x", "x"], None),
        (["x", ""], None),
        (["x", 1], None),
        ({"a": ["x"], "b": ["y"]}, None),
        ({"x": "1", "y": None}, None),
        (None, None),
        ("xy", None),
    ],
)
def test_names_of_dimensions_as_recorders_write_them(names: Any, expected: Any) -> None:
    assert dimension_names(names, 2) == expected


@given(length=st.integers(1, 2000), count=st.integers(1, 24))
def test_frames_are_spread_evenly_over_the_whole_episode(length: int, count: int) -> None:
    rows = spread(length, count)
    assert len(set(rows)) == len(rows) == min(length, count)
    assert rows[0] == 0
    if len(rows) > 1:
        assert rows[-1] == length - 1
        steps = np.diff(rows)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1


@given(
    columns=st.integers(1, 24),
    shapes=st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 2000)), max_size=5),
    features=st.lists(st.tuples(st.integers(1, 64), st.integers(0, 16)), max_size=5),
)
def test_nothing_on_the_sheet_overlaps(
    columns: int, shapes: list[tuple[int, int]], features: list[tuple[int, int]]
) -> None:
    heights = [panel_height(dimensions, lines) for dimensions, lines in features]
    layout = make_layout(columns=columns, shapes=shapes, panels=heights)
    assert (len(layout.strips), len(layout.panels)) == (len(shapes), len(features))
    bottom = layout.times if shapes else 0.0
    for place in (*layout.strips, *layout.panels):
        assert place.top >= bottom
        assert place.height > 0.5
        assert (place.left, place.width) == (LEFT, STRIP_WIDTH)
        bottom = place.top + place.height
    assert layout.height > bottom
    assert LEFT + STRIP_WIDTH < WIDTH


def test_pictures_of_all_kinds() -> None:
    colours = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    assert np.array_equal(as_picture(colours), colours.transpose(1, 2, 0))
    assert np.array_equal(
        as_picture(np.concatenate([colours, colours[:1]])), colours.transpose(1, 2, 0)
    )
    assert np.array_equal(as_picture(colours[:1]), np.stack([colours[0]] * 3, axis=-1))
    assert np.array_equal(as_picture(np.float32([[[0.5]], [[2]], [[-1]]])), [[[128, 255, 0]]])
    grey = as_picture(np.float32([[[0, 0.2], [0.6, 1]]]))
    assert np.array_equal(grey, np.uint8([[[0] * 3, [51] * 3], [[153] * 3, [255] * 3]]))
    depth = as_picture(np.float32([[[0, 800.4], [np.inf, np.nan], [1200, 70000]]]), is_depth=True)
    assert depth.shape == (3, 2)
    assert depth_steps(depth).tolist() == [[0, 800], [0, 0], [1200, 65535]]
    low, high = depth_range([depth])
    assert 800 < low < high < 70000
    assert depth_range([np.zeros((2, 2), np.float32)]) == (0, 1)
    assert depth_range([np.full((2, 2), 5, np.float32)])[0] == 5

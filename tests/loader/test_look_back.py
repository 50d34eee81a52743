"""Windows that overlap from step to step cost no second decoding where keyframes are far apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lerobot_source import Camera, Source, build
from support.slowly import slowly

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader, resources
from roboshard.loader.episodes.look_back import LookBackFrames

CAMERA = "observation.images.top"
LENGTHS = (60, 45, 60, 50)
WINDOWS = {
    "before": [-0.3, -0.2, -0.1, 0.0],
    "sparse": [-1.0, 0.0],
    "around": [-0.2, 0.0, 0.5],
    "ahead": [0.0, 0.4],
}
Batch = dict[str, Any]


@pytest.fixture(scope="module")
def distant_keyframes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One keyframe an episode, at 10 frames a second."""
    folder = tmp_path_factory.mktemp("recent")
    source = Source(lengths=LENGTHS, cameras=(Camera(key=CAMERA, gop=60, bframes=2),))
    build(folder / "source", source)
    convert(
        ConvertConfig(source=str(folder / "source"), destination=str(folder / "shards"), workers=1)
    )
    return folder / "shards"


def epoch(root: Path, window: list[float], **options: Any) -> tuple[list[Batch], float]:
    """(batches, frames decoded per frame of the dataset)."""
    loader = make_loader(
        str(root),
        **(
            {
                "batch_size": 8,
                "delta_timestamps": {CAMERA: window},
                "frame_order": "sweep",
                "seed": 2,
            }
            | options
        ),
    )
    batches = [
        {key: value.clone() if torch.is_tensor(value) else value for key, value in b.items()}
        for b in loader
    ]
    return batches, loader.stats().frames_decoded / sum(LENGTHS)


@pytest.mark.parametrize(
    "options",
    [{}, slowly({"pool_episodes": 2}), {"shuffle": False}, slowly({"return_uint8": False})],
    ids=str,
)
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_the_same_pictures_for_a_fraction_of_the_decoding(
    distant_keyframes: Path,
    window: list[float],
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, cost = epoch(distant_keyframes, window, **options)
    monkeypatch.setattr(resources, "MAX_LOOK_BACK", 0)
    expected, cost_without = epoch(distant_keyframes, window, **options)
    assert len(kept) == len(expected)
    for one, other in zip(kept, expected, strict=True):
        assert torch.equal(one["index"], other["index"])
        assert torch.equal(one[CAMERA], other[CAMERA])
    assert cost <= 2.1, "going back to the keyframe before the phase and before the first window"
    assert cost < cost_without


def test_nothing_is_kept_where_steps_jump(distant_keyframes: Path) -> None:
    loader = make_loader(str(distant_keyframes), delta_timestamps={CAMERA: WINDOWS["before"]})
    assert resources._look_back(loader._job) == {}
    loader = make_loader(
        str(distant_keyframes),
        delta_timestamps={CAMERA: [-10.0, 0.0], "action": [0.0]},
        frame_order="sweep",
    )
    assert resources._look_back(loader._job) == {}


@settings(max_examples=200)
@given(
    capacity=st.integers(1, 6),
    runs=st.lists(
        st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True).map(sorted), max_size=12
    ),
)
def test_what_is_found_is_what_was_kept_under_that_number(
    capacity: int, runs: list[list[int]]
) -> None:
    recent, newest = LookBackFrames(capacity), dict[int, int]()
    for frames in runs:
        kept = recent.kept(range(31))
        assert kept == set(newest.values())
        assert all(recent.picture(frame)[0, 0, 0] == frame for frame in kept)
        for frame in frames:
            recent.keep(frame, np.full((2, 2, 3), frame, dtype=np.uint8))
            newest[frame % capacity] = frame
            assert recent.picture(frame)[0, 0, 0] == frame
    for frame in set(range(31)) - set(newest.values()):
        with pytest.raises(KeyError):
            recent.picture(frame)

"""`inspect` on the bundled data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from roboshard.cli.main import dispatch
from roboshard.tools.inspect import summarize
from roboshard.tools.inspect.run import histogram


def test_what_the_bundled_data_holds(pusht_shards: Path) -> None:
    summary = summarize(str(pusht_shards))
    assert (summary.episodes, summary.frames, summary.fps) == (14, 644, 10)
    assert summary.tasks == [("Push the T-shaped block onto the T-shaped target.", 14)]
    assert sum(count for _, _, count in summary.lengths) == 14
    assert summary.num_bytes == sum(
        path.stat().st_size for path in pusht_shards.glob("shards/*.tar")
    )
    (camera,) = summary.cameras
    assert (camera.key, camera.codec, camera.size, camera.pix_fmt) == (
        "observation.image",
        "av1",
        "96x96",
        "yuv420p",
    )
    assert camera.gop == pytest.approx(2, abs=0.1)
    assert camera.random_cost == pytest.approx(1.5, abs=0.05)
    assert summary.features["action"] == "float32 [2]"
    assert summary.source["name"] == "pusht_sim"
    assert "pyarrow" in summary.conversion["versions"]


def test_as_text_and_as_json(pusht_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["inspect", str(pusht_shards)]) == 0
    text = capsys.readouterr().out
    for part in (
        "14 episodes, 644 frames, 10 fps",
        "█",
        "av1",
        "96x96",
        "LeRobot v3.0",
        "shard_size 64000",
    ):
        assert part in text
    assert dispatch(["inspect", str(pusht_shards), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 644
    assert dispatch(["inspect", str(pusht_shards.parent)]) == 1


def test_histograms_hold_every_length_once() -> None:
    for lengths in ([5], [5, 5], [1, 100], list(range(37)), [7, 7, 8, 400]):
        bars = histogram(np.array(lengths))
        assert len(bars) <= 10
        for low, high, count in bars:
            assert count == sum(low <= length <= high for length in lengths)
        assert sum(count for _, _, count in bars) == len(lengths)

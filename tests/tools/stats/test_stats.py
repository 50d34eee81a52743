"""`roboshard stats`: what a loader would have, shown or as JSON, and what the source says
otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roboshard.cli.main import dispatch
from roboshard.loader import make_loader
from roboshard.shards import OptionError
from roboshard.tools.stats import StatsConfig, find_stats


def equal(stats: Any, expected: Any) -> bool:
    return as_json(stats) == as_json(expected)


def as_json(stats: Any) -> str:
    found = {
        key: {name: np.asarray(values).tolist() for name, values in own.items()}
        for key, own in stats.items()
    }
    return json.dumps(found)


def test_they_are_those_of_a_loader(pusht_shards: Path) -> None:
    report = find_stats(StatsConfig(url=str(pusht_shards)))
    assert equal(report.stats, make_loader(str(pusht_shards)).meta.exact_stats)
    assert (report.episodes, report.rows) == (14, 644)
    assert "action" in {it.feature for it in report.differences}  # a recorder's means of quantiles
    assert all(it.name.startswith("q") for it in report.differences)


def test_some_are_chosen_as_a_loader_chooses(pusht_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "ranges.json").write_text(json.dumps({"1": [[0, 5]]}))
    report = find_stats(
        StatsConfig(
            url=str(pusht_shards),
            episodes="0:9",
            exclude_episodes="4",
            split=("train", 0.3, 2),
            keep_ranges=str(tmp_path / "ranges.json"),
            feature=("action", "index"),
        )
    )
    loader = make_loader(
        str(pusht_shards),
        episodes=range(9),
        exclude_episodes=[4],
        split=("train", 0.3, 2),
        keep_ranges={1: [(0, 5)]},
    )
    assert equal(report.stats, {key: loader.meta.stats[key] for key in ("action", "index")})
    assert report.episodes == loader.num_episodes
    assert not report.differences


def test_relative_actions(pusht_shards: Path) -> None:
    report = find_stats(
        StatsConfig(
            url=str(pusht_shards), relative_actions=4, exclude_joints=("y",), feature=("action",)
        )
    )
    loader = make_loader(
        str(pusht_shards), delta_timestamps={"action": [step / 10 for step in range(4)]}
    )
    assert equal(report.stats, {"action": loader.meta.relative_stats(["y"])["action"]})


def test_the_command(pusht_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["stats", str(pusht_shards), "--feature", "action"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "mean std min q01 q10 q50 q90 q99 max action 0 260 114" in said
    assert "14 episodes, 644 rows" in said
    assert "differ, in standard deviations: q50 of action by 1.7" in said
    arguments = [
        "stats",
        str(pusht_shards),
        "--episodes",
        "3",
        "--json",
        "--split",
        "train",
        "0.01",
        "5",
    ]
    assert dispatch(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert equal(found, make_loader(str(pusht_shards), episodes=[3]).meta.stats)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"feature": ("no such",)}, "no statistics of 'no such'"),
        ({"feature": "action"}, "feature must be a list"),
        ({"episodes": "1-3"}, "neither an index nor START:STOP"),
        ({"episodes": "20:30"}, "not in the dataset"),
        ({"relative_actions": 0}, "a number of frames from 1 up"),
        ({"split": ("train", 2.0, 0)}, "split must be"),
    ],
    ids=str,
)
def test_what_cannot_be_chosen_is_refused(
    pusht_shards: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        find_stats(StatsConfig(url=str(pusht_shards), **options))

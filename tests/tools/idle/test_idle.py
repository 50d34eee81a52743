"""`roboshard idle`: standstills are found in the rows, shown, and left out of training by the file
that it writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lerobot_source import Source, build

from roboshard.cli.idle import picture
from roboshard.cli.main import dispatch
from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader
from roboshard.shards import OptionError
from roboshard.tools.idle import IdleConfig, IdleEpisode, IdleReport, find_idle
from roboshard.tools.idle.motion import kept_ranges

FPS = 10
# What each episode does, row by row: m(oves), s(tands still).
PLANS = ["mmmmmmmm", "sssssmmmmmm", "mmsssssssmmssm", "ssssssssss", "mmmmmsssss", "m"]
KEPT: dict[int, list[tuple[int, int]]] = {
    1: [(5, 11)],
    2: [(0, 2), (9, 14)],
    3: [],
    4: [(0, 5)],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes whose action moves as PLANS say, between 0 and 1, with a little noise that is no
    motion.
    """
    folder = tmp_path_factory.mktemp("idle")
    source = Source(fps=FPS, lengths=tuple(map(len, PLANS)), cameras=())
    root = build(folder / "source", source).root
    for path in sorted((root / "data").rglob("*.parquet")):
        table = pq.read_table(path)
        kind = table.schema.field("action").type
        width = len(table["action"][0].as_py())
        actions = []
        for episode, row in zip(
            table["episode_index"].to_pylist(), table["frame_index"].to_pylist(), strict=True
        ):
            moves = [step == "m" for step in PLANS[episode][1 : row + 1]]
            place = float(sum(moves) % 2) + 1e-5 * (row % 2)
            actions.append([place] * width)
        column = table.column_names.index("action")
        pq.write_table(table.set_column(column, "action", pa.array(actions, kind)), path)
    stats = json.loads((root / "meta/stats.json").read_text())
    stats["action"] |= {"min": [0.0] * width, "max": [1.0] * width}
    (root / "meta/stats.json").write_text(json.dumps(stats))
    convert(ConvertConfig(source=str(root), destination=str(folder / "shards"), workers=1))
    return folder / "shards"


def search(root: Path, **options: Any) -> IdleReport:
    return find_idle(IdleConfig(**{"url": str(root), "seconds": 0.4, "dry_run": True} | options))


def kept_of(report: IdleReport) -> dict[int, list[tuple[int, int]]]:
    return {episode.episode_index: episode.kept for episode in report.idle}


def test_standstills_are_found(shards: Path) -> None:
    report = search(shards)
    assert kept_of(report) == KEPT
    assert report.features == ("action",)
    assert (report.episodes, report.frames) == (len(PLANS), sum(map(len, PLANS)))
    assert report.dropped == 5 + 7 + 10 + 5
    assert report.output is None


def test_how_long_and_how_still_is_said(shards: Path) -> None:
    assert 2 not in kept_of(search(shards, seconds=0.7))
    assert kept_of(search(shards, seconds=0.1))[2] == [(0, 2), (9, 11), (13, 14)]
    assert kept_of(search(shards, threshold=1e-6)) == {}  # the noise is motion
    assert kept_of(search(shards, threshold=1e-4, absolute=True)) == KEPT
    assert kept_of(search(shards, threshold=2.0, absolute=True)).keys() == {0, 1, 2, 3, 4}
    assert kept_of(search(shards, feature=["action", "timestamp"])) == {}  # time moves
    assert kept_of(search(shards, feature="action")) == KEPT


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_the_file_leaves_them_out_of_training(shards: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"ranges.{suffix}"
    report = search(shards, output=output, dry_run=False)
    assert report.output == output
    loader = make_loader(str(shards), batch_size=5, keep_ranges=output)
    found = sorted(
        pair
        for batch in loader
        for pair in zip(batch["episode_index"].tolist(), batch["frame_index"].tolist(), strict=True)
    )
    assert found == [
        (episode, frame)
        for episode, plan in enumerate(PLANS)
        for first, stop in KEPT.get(episode, [(0, len(plan))])
        for frame in range(first, stop)
    ]


def test_the_command_shows_what_it_would_drop(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ranges.json"
    arguments = ["idle", str(shards), "--seconds", "0.4", "--output", str(output)]
    assert dispatch([*arguments, "--dry-run"]) == 0
    assert not output.exists()
    assert dispatch(arguments) == 0
    said = capsys.readouterr().out
    assert "██·······█████" in said
    assert "nothing moves in 27 of 54 frames (50.0%), in 4 of 6 episodes, 1 of them" in said
    assert "motion is that of action" in said
    assert json.loads(output.read_text()) == {
        str(episode): [list(pair) for pair in kept] for episode, kept in KEPT.items()
    }


def test_a_picture_of_a_long_episode_fits_a_line() -> None:
    line = picture(IdleEpisode(episode_index=0, length=4800, kept=[(0, 2400), (3650, 4800)]))
    assert line == "█" * 24 + "·" * 12 + "▒" + "█" * 11


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"feature": ["no such"]}, "'no such' is not one; there are .*'action'"),
        ({"seconds": -1}, "seconds must be a number from 0 up"),
        ({"threshold": float("nan")}, "threshold must be a number from 0 up"),
        ({"output": "ranges.txt"}, "must end in .json or .parquet"),
    ],
    ids=range(4),
)
def test_what_cannot_be_searched_is_refused(
    shards: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        search(shards, **options)


def test_without_statistics_the_threshold_is_in_the_features_unit(tmp_path: Path) -> None:
    root = build(tmp_path / "source", Source(lengths=(5,), cameras=())).root
    (root / "meta/stats.json").unlink()
    convert(ConvertConfig(source=str(root), destination=str(tmp_path / "shards"), workers=1))
    with pytest.raises(OptionError, match="no range of 'action': give a threshold in its own unit"):
        search(tmp_path / "shards")
    assert search(tmp_path / "shards", absolute=True).episodes == 1


# -- Motion ----------------------------------------------------------------------------------------


def slowly(moves: Sequence[bool], longest: int) -> list[int]:
    """Rows that are kept, by the words of `kept_ranges`, one after the other."""
    still = [
        not moves[1] if len(moves) > 1 and row == 0 else not moves[row] for row in range(len(moves))
    ]
    if len(moves) == 1:
        still = [False]
    kept = []
    for row in range(len(moves)):
        low = high = row
        while low > 0 and still[low - 1]:
            low -= 1
        while high + 1 < len(moves) and still[high + 1]:
            high += 1
        if not still[row] or high - low + 1 <= longest:
            kept.append(row)
    return kept


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 8))
def test_any_motion(moves: list[bool], longest: int) -> None:
    place = np.cumsum([float(moved) for moved in moves])[:, None] * [1.0, 0.0]
    ranges = kept_ranges(place, np.asarray([0.5, 0.5]), longest)
    assert [row for first, stop in ranges for row in range(first, stop)] == slowly(moves, longest)
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


def test_what_is_not_a_number_moves() -> None:
    values = np.asarray([[0.0], [np.nan], [np.nan], [0.0], [0.0], [0.0]])
    assert kept_ranges(values, np.asarray([1.0]), 1) == [(0, 4)]

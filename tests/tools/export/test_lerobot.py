"""LeRobot itself, 0.4.4 and 0.6.1 in environments of their own, reads what was exported: the
source's samples.

So it does for the trouble cases and for what its own tools made; and those that are stored are what
it returns now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.case_checks import FURTHER_ROWS
from support.cases import CASES as TROUBLE_CASES
from support.cases import TOOL_CASES, case_names, read_tool_case, tool_case_names
from support.converting import converted
from support.lerobot_source import HARD_CASES, Camera, Source, build
from support.lerobot_tools import outcomes

from roboshard.common.errors import RoboshardError
from roboshard.converter import ConvertConfig, convert
from roboshard.tools.export import ExportConfig, export

if TYPE_CHECKING:
    from support.lerobot import LeRobot

pytest_plugins = ["support.lerobot"]
pytestmark = pytest.mark.lerobot

CASES = {
    "gaps": HARD_CASES["several_files_with_gaps"],
    "bframes": HARD_CASES["bframes_negative_dts"],
    "mid_gop_starts": HARD_CASES["mid_gop_starts"],
    "av1": HARD_CASES["av1"],
    "all_dtypes": HARD_CASES["all_dtypes"],
    "two_cameras": HARD_CASES["two_cameras_mixed_codecs"],
    "hevc": Source(
        cameras=(Camera(key="observation.images.top", codec="hevc", stream="continuous"),)
    ),
}


SINCE_0_6 = ("annotated", "recorded_depth", "depth_images_to_video")
"""Features that LeRobot 0.4.4 does not know: language columns and depth maps."""
INEXACT = "recorded_with_frames_dropped"
OPEN_GOPS = ("h264_bt2020", "hevc_10bit_g4")
"""Frames after a keyframe that are shown before it: LeRobot misses them, in the sources too, where
it has to seek.
"""
Stored = dict[str, tuple[Path, Path]]


def _readable(
    stored: Stored, lerobot: LeRobot, further: Mapping[str, int] | None = None
) -> list[str]:
    """Arguments for lerobot_samples.py: where samples are stored, the dataset to read, and so many
    more.
    """
    unknown = SINCE_0_6 if lerobot.version == "0.4.4" else ()
    return [
        f"{folder}={root}={(further or {}).get(folder.name, 0)}"
        for folder, root in stored.values()
        if not folder.name.startswith(unknown)
    ]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Name -> where samples are stored, and the dataset; the trouble cases and what LeRobot's tools
    made.
    """
    folder = tmp_path_factory.mktemp("sources")
    found = {name: (TROUBLE_CASES / name, TROUBLE_CASES / name / "src") for name in case_names()}
    for name in tool_case_names():
        found[name] = TOOL_CASES / name, read_tool_case(name, folder / name).source
    return found


@pytest.fixture(scope="module")
def exported(
    sources: Stored, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Stored, dict[str, str]]:
    """The same with what `roboshard export` made of their shards; and names -> why there is
    nothing.
    """
    folder = tmp_path_factory.mktemp("exported")
    found, failures = {}, {}
    for name, (stored, source) in sources.items():
        if INEXACT in name:
            continue
        try:
            shards = converted(source, folder / name / "shards")
            export(ExportConfig(source=shards, destination=str(folder / name / "exported")))
        except RoboshardError as error:
            failures[name] = str(error)
        found[name] = stored, folder / name / "exported"
    return found, failures


def test_lerobot_reads_exported_cases_as_it_read_their_sources(
    lerobot: LeRobot, exported: tuple[Stored, dict[str, str]]
) -> None:
    stored, failures = exported
    made = {name: place for name, place in stored.items() if name not in failures}
    has_open = {name: place for name, place in made.items() if name in OPEN_GOPS}
    closed = {name: place for name, place in made.items() if name not in OPEN_GOPS}
    found = outcomes(lerobot, "compare", *_readable(closed, lerobot, FURTHER_ROWS))
    found |= outcomes(lerobot, "compare_exactly", *_readable(has_open, lerobot))
    assert len(stored) > 70
    assert failures | {name: failure for name, failure in found.items() if failure} == {}


def test_stored_samples_are_those_that_lerobot_returns(lerobot: LeRobot, sources: Stored) -> None:
    is_v3 = {name: place for name, place in sources.items() if _version(place[1]) != "v2.1"}
    found = outcomes(lerobot, "compare", *_readable(is_v3, lerobot))
    assert len(found) > 70
    assert {name: failure for name, failure in found.items() if failure} == {}


def _version(root: Path) -> str:
    return str(json.loads((root / "meta/info.json").read_text())["codebase_version"])


@pytest.mark.parametrize("case", ["pusht_sim", *CASES])
def test_lerobot_returns_equal_samples(
    case: str, lerobot: LeRobot, pusht_source: Path, tmp_path: Path
) -> None:
    source = build(tmp_path / "source", CASES[case]).root if case in CASES else pusht_source
    convert(
        ConvertConfig(
            source=str(source), destination=str(tmp_path / "shards"), shard_size="64KB", workers=1
        )
    )
    export(ExportConfig(source=str(tmp_path / "shards"), destination=str(tmp_path / "exported")))
    program = Path(__file__).parent / "lerobot_program.py"
    assert int(lerobot(program, source, tmp_path / "exported").stdout) > 0

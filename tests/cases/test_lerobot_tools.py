"""What LeRobot's recorder and its dataset tools make is converted and loaded with the values that
LeRobot returns.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.case_checks import check_loads, check_round_trip, check_verifies
from support.cases import check_sample, read_tool_case, tool_case_names
from support.slowly import some_quickly

from roboshard.common.errors import SourceError
from roboshard.converter import ConvertConfig, convert
from roboshard.loader import open_dataset

LESS_FRAMES = "recorded_with_frames_dropped"
EXACT = [name for name in tool_case_names() if LESS_FRAMES not in name]


@pytest.mark.parametrize("name", EXACT)
def test_loads_as_lerobot_does(name: str, tmp_path: Path) -> None:
    check_loads(read_tool_case(name, tmp_path), tmp_path)


@pytest.mark.parametrize("name", EXACT)
def test_verifies_against_its_source(name: str, tmp_path: Path) -> None:
    check_verifies(read_tool_case(name, tmp_path), tmp_path)


@pytest.mark.parametrize("name", some_quickly(EXACT, set(EXACT[::4])))
def test_comes_back_from_a_round_trip(name: str, tmp_path: Path) -> None:
    check_round_trip(read_tool_case(name, tmp_path), tmp_path)


@pytest.mark.parametrize("version", ["0.4.4", "0.6.1"])
def test_an_episode_with_dropped_frames_is_refused_and_can_be_left_out(
    version: str, tmp_path: Path
) -> None:
    """LeRobot gives the next episode's pictures for its last rows; no frame is really theirs."""
    case = read_tool_case(f"{version}/{LESS_FRAMES}", tmp_path)
    config = ConvertConfig(
        source=str(case.source), destination=str(tmp_path / "shards"), on_error="fail", workers=1
    )
    with pytest.raises(SourceError, match=r"episode 0, .*fewer frames than the rows"):
        convert(config)
    convert(replace(config, on_error="skip"))
    dataset = open_dataset(str(tmp_path / "shards"))
    whole = [sample for sample in case.samples if sample["episode_index"] == 1]
    assert len(dataset) == len(whole) == 5
    for number, sample in enumerate(whole):
        check_sample(dataset[number], sample)

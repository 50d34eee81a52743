"""LeRobot 0.4.4 itself, in an environment of its own, opens what was exported and returns the source's samples.

A stand-in for torchvision is there, so that image features and LeRobot's pyav backend are not among the cases.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.lerobot_source import HARD_CASES, Camera, Source, build

from roboshard.converter import ConvertConfig, convert
from roboshard.exporter import ExportConfig, export

if TYPE_CHECKING:
    from support.lerobot import Run

pytest_plugins = ["support.lerobot"]

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


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pusht_sim", *CASES])
def test_lerobot_returns_equal_samples(
    case: str, lerobot: Run, pusht_source: Path, tmp_path: Path
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

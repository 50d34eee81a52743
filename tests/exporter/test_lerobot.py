"""LeRobot 0.4.4 itself, in an environment of its own, opens what was exported and returns the source's samples.

The environment is that of benchmarks/loading.py, `.peers/lerobot`; it is made from the package index if need be.
A stand-in for torchvision is in it, so that image features and LeRobot's pyav backend are not among the cases.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.lerobot_source import HARD_CASES, Camera, Source, build

from roboshard.converter import ConvertConfig, convert
from roboshard.exporter import ExportConfig, export

ROOT = Path(__file__).parents[2]
MAKE = "import sys, pathlib, loading_peers; loading_peers.lerobot_python(pathlib.Path(sys.argv[1]))"
CASES = {
    "gaps": HARD_CASES["several_files_with_gaps"],
    "bframes": HARD_CASES["bframes_negative_dts"],
    "mid_gop_starts": HARD_CASES["mid_gop_starts"],
    "av1": HARD_CASES["av1"],
    "all_dtypes": HARD_CASES["all_dtypes"],
    "two_cameras": HARD_CASES["two_cameras_mixed_codecs"],
    "hevc": Source(cameras=(Camera(key="observation.images.top", codec="hevc", stream="continuous"),)),
}


@pytest.fixture(scope="module")
def lerobot() -> Path:
    peers = ROOT / ".peers"
    command = [sys.executable, "-c", MAKE, str(peers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        pytest.skip(f"an environment with LeRobot 0.4.4 cannot be made here: {done.stderr.strip()[-300:]}")
    return peers / "lerobot/bin/python"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pusht_sim", *CASES])
def test_lerobot_returns_equal_samples(case: str, lerobot: Path, pusht_source: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "source", CASES[case]).root if case in CASES else pusht_source
    convert(ConvertConfig(source=str(source), destination=str(tmp_path / "shards"), shard_size="64KB", workers=1))
    export(ExportConfig(source=str(tmp_path / "shards"), destination=str(tmp_path / "exported")))
    program = Path(__file__).parent / "lerobot_program.py"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "benchmarks/peers/stubs")}
    environment["HF_HOME"] = str(tmp_path / "home")
    command = [str(lerobot), str(program), str(source), str(tmp_path / "exported")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 0

"""The doctor finds in a source what a conversion would list, and refuses what it would refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.cases import CASES

from roboshard.common.errors import OptionError
from roboshard.converter import ConvertConfig, convert
from roboshard.tools.doctor import Diagnosis, DoctorConfig, diagnose


def look(source: Path, **options: int | str) -> Diagnosis:
    return diagnose(DoctorConfig(source=str(source), **options))  # type: ignore[arg-type]


def codes(diagnosis: Diagnosis) -> set[str]:
    return {group.code for group in diagnosis.findings}


def test_a_healthy_source_is_well(pusht_source: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = DoctorConfig(source=str(pusht_source), frames=2)
    diagnosis = diagnose(config, lambda done, total: seen.append((done, total)))
    assert diagnosis.ok
    assert (diagnosis.episodes, diagnosis.rows, diagnosis.findings) == (14, 644, ())
    assert seen == [(number, 14) for number in range(1, 15)]


@pytest.mark.parametrize("case", ["stale_file_index", "tasks_null", "totals_wrong", "null_scalar"])
def test_it_finds_what_a_conversion_lists(case: str, tmp_path: Path) -> None:
    source = CASES / case / "src"
    diagnosis = look(source)
    report = convert(
        ConvertConfig(source=str(source), destination=str(tmp_path / "shards"), workers=1)
    )
    assert diagnosis.ok
    assert diagnosis.findings == report.findings != ()


def test_some_episodes_stand_for_all(pusht_source: Path) -> None:
    diagnosis = look(pusht_source, sample=3)
    assert (diagnosis.total_episodes, diagnosis.episodes) == (14, 3)
    assert look(pusht_source, episodes="2:4").episodes == 2
    with pytest.raises(OptionError, match="--sample 0"):
        look(pusht_source, sample=0)


def test_what_cannot_be_read_is_refused_with_the_remedy() -> None:
    (refusal,) = look(CASES / "lfs_pointer_data/src").refused
    assert refusal.episode_index is None
    assert "git lfs pull" in refusal.reason


@pytest.fixture
def damaged(pusht_source: Path, tmp_path: Path) -> Path:
    """A copy whose last video file has lost its pictures, but for their places."""
    shutil.copytree(pusht_source, root := tmp_path / "damaged")
    video = sorted(root.rglob("*.mp4"))[-1]
    data = bytearray(video.read_bytes())
    start = data.index(b"mdat") + 8
    data[start + 200 : start + 2200] = bytes(2000)
    video.write_bytes(data)
    return root


def test_frames_that_do_not_decode_are_found_where_it_decodes(damaged: Path) -> None:
    assert look(damaged).ok, "packets alone say nothing of it"
    refused = look(damaged, frames=40).refused
    assert refused
    assert all("observation.image" in refusal.reason for refusal in refused)


def test_the_command_prints_and_exits_accordingly(pusht_source: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = "import sys; from roboshard.cli.main import main; main()"
        command = [sys.executable, "-c", program, "doctor", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    well = run(str(pusht_source))
    assert well.returncode == 0, well.stderr
    assert "14 of 14 episodes looked at" in well.stdout
    ill = run(str(CASES / "lfs_pointer_data/src"), "--json")
    assert ill.returncode == 1
    assert json.loads(ill.stdout)["ok"] is False
    assert "it would be refused as a whole" in ill.stderr
    assert list(tmp_path.iterdir()) == []

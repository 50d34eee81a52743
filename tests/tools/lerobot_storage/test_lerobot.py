"""LeRobot's recorder writes into shards, is killed and goes on; LeRobot reads their metadata."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.lerobot import lerobot_of

from roboshard.loader import open_dataset
from roboshard.tools.lerobot_storage import recover, write_meta
from roboshard.tools.verify import VerifyConfig, verify

if TYPE_CHECKING:
    from support.lerobot import LeRobot

pytestmark = pytest.mark.lerobot

PROGRAMS = Path(__file__).parents[2] / "programs"
RECORDING = PROGRAMS / "lerobot_into_shards.py"


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> LeRobot:
    return lerobot_of("0.6.1", tmp_path_factory.mktemp("home"), training=True)


def episodes_of(root: Path) -> int:
    report = verify(VerifyConfig(url=str(root)))
    assert not report.problems
    return open_dataset(root).num_episodes


@pytest.mark.parametrize("how", [(), ("--streaming",)], ids=["files", "streaming"])
def test_what_is_recorded_equals_lerobots_own_recording(
    lerobot: LeRobot, how: tuple[str, ...], tmp_path: Path
) -> None:
    root = tmp_path / "recorded"
    lerobot(RECORDING, "record", root, "--episodes", 3, *how)
    assert episodes_of(root) == 3
    lerobot(RECORDING, "record", root, "--episodes", 2, *how)
    assert episodes_of(root) == 5
    if not how:  # the encoders of streams are given frames otherwise
        done = lerobot(RECORDING, "compare", root, tmp_path / "own", "--episodes", 5)
        assert "are equal" in done.stdout


def test_killed_in_an_episode_it_keeps_those_that_were_saved(
    lerobot: LeRobot, tmp_path: Path
) -> None:
    root = tmp_path / "recorded"
    command = [str(lerobot.python), str(RECORDING), "record", str(root), "--episodes", "4"]
    done = subprocess.run(
        [*command, "--kill-at", "2"],
        env=lerobot.variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert "saved 1" in done.stdout
    assert recover(root) == 2
    assert episodes_of(root) == 2
    lerobot(RECORDING, "record", root, "--episodes", 3)
    assert episodes_of(root) == 5
    done = lerobot(RECORDING, "compare", root, tmp_path / "own", "--episodes", 5)
    assert "are equal" in done.stdout


def test_the_code_of_the_page_records(lerobot: LeRobot, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/lerobot.md").read_text()
    (code,) = re.findall(r"^```python lerobot-recorder\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "page.py").write_text(code)
    lerobot(tmp_path / "page.py", cwd=tmp_path)
    assert episodes_of(tmp_path / "my_recording") == 2


def test_lerobots_metadata_reads_what_is_written_for_it(
    lerobot: LeRobot, pusht_shards: Path, pusht_source: Path, tmp_path: Path
) -> None:
    folder = write_meta(pusht_shards, tmp_path / "meta_of_shards")
    done = lerobot(PROGRAMS / "lerobot_meta.py", folder, pusht_source)
    assert "equal" in done.stdout

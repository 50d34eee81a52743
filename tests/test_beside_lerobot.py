"""roboshard installs into an environment with today's LeRobot: it moves none of its packages, and
works there.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.lerobot import PEERS, ROOT, lerobot_of

if TYPE_CHECKING:
    from support.lerobot import LeRobot

pytestmark = pytest.mark.lerobot

TESTS = ("braceexpand", "hypothesis", "pytest", "psutil")
"""What the tests that run there need besides."""
RUN_THERE = (
    "tests/cases/test_cases.py",
    "tests/loader/test_golden.py",
    "tests/loader/test_colors.py",
    "tests/loader/test_decoders.py",
    "tests/converter/test_parameters.py",
    "tests/converter/test_turned.py",
    "tests/converter/test_open_video.py",
    "tests/converter/test_containers.py",
)
"""What depends on PyAV, torch and torchcodec, of which that LeRobot has older releases."""


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> LeRobot:
    return lerobot_of("0.6.1", tmp_path_factory.mktemp("home"))


def pip(python: Path, *arguments: str) -> str:
    command = [str(python), "-m", "pip", *arguments, "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def versions(python: Path) -> dict[str, str]:
    packages: list[dict[str, Any]] = json.loads(pip(python, "list", "--format", "json"))
    return {package["name"].lower(): package["version"] for package in packages}


@pytest.fixture(scope="module")
def beside(lerobot: LeRobot) -> Path:
    """The interpreter of an environment that sees LeRobot's packages, and has roboshard."""
    folder = PEERS / "beside_lerobot_0.6.1"
    subprocess.run([str(lerobot.python), "-m", "venv", "--clear", str(folder)], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs, ours = (
        subprocess.run([str(python), "-c", where], check=True, capture_output=True, text=True)
        for python in (lerobot.python, folder / "bin/python")
    )
    link = Path(ours.stdout.strip()) / "beside.pth"
    link.write_text(f"import site; site.addsitedir({theirs.stdout.strip()!r})\n")
    return folder / "bin/python"


def test_it_installs_and_moves_no_package(lerobot: LeRobot, beside: Path) -> None:
    before = versions(beside)
    assert before["lerobot"] == "0.6.1"
    pip(beside, "install", "-q", str(ROOT))
    after = versions(beside)
    assert {name: after[name] for name in before} == before
    assert "roboshard" in after
    pip(beside, "check")


def test_what_depends_on_its_libraries_passes_there(beside: Path) -> None:
    pip(beside, "install", "-q", *TESTS, "-e", str(ROOT))
    command = [str(beside), "-m", "pytest", "-q", "-p", "no:cacheprovider", *RUN_THERE]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1500
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "passed" in done.stdout or "100%" in done.stdout

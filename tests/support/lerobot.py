"""LeRobot itself, in environments of its own below `.peers`, made if need be: 0.4.4, 0.6.1, and
0.3.3 for v2.1.

LeRobot 0.4.4 is the one of benchmarks/loading.py. 0.3.3 lies in a folder before its packages. 0.6.1
needs Python 3.12, as `python3.12` or from pyenv or uv, and takes 6 GB.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".peers"
VERSIONS = ("0.4.4", "0.6.1")
V21_PACKAGES = ("lerobot==0.3.3", "datasets==3.6.0")


@dataclass(frozen=True)
class LeRobot:
    """Runs programs with an interpreter that has LeRobot of this version."""

    version: str
    python: Path
    variables: dict[str, str]

    def __call__(
        self, program: Path, *args: object, cwd: Path = ROOT
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, which must be a good one."""
        command = [str(self.python), str(program), *map(str, args)]
        options: dict[str, Any] = {"env": self.variables, "cwd": cwd, "timeout": 600}
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, done.stderr[-3000:]
        return done


def lerobot_of(version: str, home: Path, *, training: bool = False) -> LeRobot:
    """LeRobot of a version; the running test is skipped, with the reason, where there can be none.

    Args:
        version: "0.3.3", "0.4.4" or "0.6.1".
        home: Folder for what LeRobot and the Hub's client write.
        training: Whether policies can be trained, and roboshard is importable too; from 0.4.4 on.
    """
    try:
        python, paths = (_TRAINING if training else _ENVIRONMENTS)[version]()
    except (OSError, LookupError, subprocess.CalledProcessError) as error:
        pytest.skip(f"an environment with LeRobot {version} cannot be made here: {error}")
    paths = [str(ROOT / ".types"), *paths] if training else [*paths, str(ROOT / "tests")]
    variables = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return LeRobot(version, python, variables)


def _peers() -> Any:
    spec = spec_from_file_location("peer_environments", ROOT / "benchmarks/peer_environments.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _environment_0_4() -> tuple[Path, list[str]]:
    peers = _peers()
    return peers.lerobot_python(PEERS, training=True), [str(peers.PROGRAMS / "training")]


def _environment_0_3() -> tuple[Path, list[str]]:
    python, paths = _environment_0_4()
    folder = PEERS / "lerobot_0.3.3"
    ready = folder / ".ready"
    if not ready.exists():
        install = [str(python), "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
        subprocess.run([*install, *V21_PACKAGES], check=True)
        ready.touch()
    return python, [str(folder), *paths]


def _environment_0_6() -> tuple[Path, list[str]]:
    return _peers().lerobot_06_python(PEERS), []


def _training_0_6() -> tuple[Path, list[str]]:
    return _peers().lerobot_06_training_python(PEERS), []


_ENVIRONMENTS = {"0.3.3": _environment_0_3, "0.4.4": _environment_0_4, "0.6.1": _environment_0_6}
_TRAINING = {"0.4.4": _environment_0_4, "0.6.1": _training_0_6}


@pytest.fixture(scope="session", params=VERSIONS)
def lerobot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LeRobot:
    """Runs a program with LeRobot's datasets, once with each version."""
    return lerobot_of(request.param, tmp_path_factory.mktemp("lerobot"))


@pytest.fixture(scope="session")
def lerobot_v21(tmp_path_factory: pytest.TempPathFactory) -> LeRobot:
    """Runs a program with the datasets of LeRobot 0.3.3, which writes v2.1."""
    return lerobot_of("0.3.3", tmp_path_factory.mktemp("lerobot"))


@pytest.fixture(scope="session")
def lerobot_training(tmp_path_factory: pytest.TempPathFactory) -> LeRobot:
    """Runs a program with LeRobot 0.4.4, its policies, its trainer and roboshard."""
    return lerobot_of("0.4.4", tmp_path_factory.mktemp("lerobot"), training=True)

"""LeRobot 0.4.4 itself, in the environment of benchmarks/loading.py: `.peers/lerobot`, made if need be."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def _peers() -> Any:
    spec = spec_from_file_location("loading_peers", ROOT / "benchmarks/loading_peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _runner(home: Path, *, training: bool) -> Run:
    peers = _peers()
    try:
        python = peers.lerobot_python(ROOT / ".peers", training=training)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"an environment with LeRobot 0.4.4 cannot be made here: {error}")
    environment = peers.lerobot_environment(training=training) | {
        "HF_HOME": str(home),
        "OMP_NUM_THREADS": "1",
    }

    def run(program: Path, *args: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        command = [str(python), str(program), *map(str, args)]
        options: dict[str, Any] = {"env": environment, "cwd": cwd, "timeout": 600}
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope="session")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program there, with LeRobot's datasets."""
    return _runner(tmp_path_factory.mktemp("lerobot"), training=False)


@pytest.fixture(scope="session")
def lerobot_training(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with its policies, its trainer and roboshard."""
    return _runner(tmp_path_factory.mktemp("lerobot"), training=True)

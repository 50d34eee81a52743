"""What the other contenders need, made when first used: LeRobot's environment, shards of JPEGs."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent / "peers"
PEERS = PROGRAMS.parents[1] / ".peers"


def lerobot_python(peers: Path, *, training: bool = False) -> Path:
    """The interpreter of an environment with LeRobot, below `peers`; for training, with all that policies need."""
    environment = peers / "lerobot"
    _install(environment, "lerobot_requirements.txt", ".ready")
    if training:
        _install(
            environment,
            "lerobot_training_requirements.txt",
            ".ready_training",
            "-e",
            str(PEERS.parent),
        )
    return environment / "bin" / "python"


def _install(environment: Path, requirements: str, ready: str, *more: str) -> None:
    wanted = (PROGRAMS / requirements).read_text()
    if (environment / ready).exists() and (environment / ready).read_text() == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    install = [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run(
        [*install, "-r", str(PROGRAMS / requirements), *more], check=True, stdout=sys.stderr
    )
    (environment / ready).write_text(wanted)


def lerobot_environment(*, training: bool = False) -> dict[str, str]:
    """Variables for it: nothing is asked of the Hub; a stand-in for torchvision, or for parts of it."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(PROGRAMS / ("training" if training else "stubs")),
    }


def jpeg_shards(peers: Path, shards: Path) -> Path:
    """The dataset as shards of JPEGs, below `peers`; kept under the dataset's name."""
    folder = peers / "jpeg" / shards.resolve().name
    if not folder.exists():
        program = PROGRAMS / "make_jpeg_shards.py"
        command = [
            sys.executable,
            str(program),
            "--shards",
            str(shards),
            "--destination",
            str(folder),
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder

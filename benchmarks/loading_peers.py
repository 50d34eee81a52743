"""What the other contenders need, made when first used: LeRobot's variables, shards of JPEGs."""

import subprocess
import sys
from pathlib import Path

from peer_environments import PROGRAMS, offline


def lerobot_environment(*, training: bool = False) -> dict[str, str]:
    """Variables for LeRobot 0.4.4: a stand-in for torchvision, or for parts of it."""
    return offline(PYTHONPATH=str(PROGRAMS / ("training" if training else "stubs")))


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

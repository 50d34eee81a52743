"""What the other contenders need, made when first used: LeRobot's environment, shards of JPEGs."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent / "peers"


def lerobot_python(peers: Path) -> Path:
    """The interpreter of an environment with LeRobot, below `peers`."""
    environment = peers / "lerobot"
    python, ready = environment / "bin" / "python", environment / ".ready"
    wanted = (PROGRAMS / "lerobot_requirements.txt").read_text()
    if not ready.exists() or ready.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*install, "-r", str(PROGRAMS / "lerobot_requirements.txt")], check=True, stdout=sys.stderr)
        ready.write_text(wanted)
    return python


def lerobot_environment() -> dict[str, str]:
    """Variables for it: nothing is asked of the Hub, and a stand-in for torchvision."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROGRAMS / "stubs")}


def jpeg_shards(peers: Path, shards: Path) -> Path:
    """The dataset as shards of JPEGs, below `peers`; kept under the dataset's name."""
    folder = peers / "jpeg" / shards.resolve().name
    if not folder.exists():
        program = PROGRAMS / "make_jpeg_shards.py"
        command = [sys.executable, str(program), "--shards", str(shards), "--destination", str(folder)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder

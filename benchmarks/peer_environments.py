"""Environments of other contenders and of the recorder, below .peers/, made when first used."""

import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.environments import add, interpreter, make

PROJECT = Path(__file__).resolve().parent.parent
PROGRAMS = PROJECT / "benchmarks" / "peers"
PEERS = PROJECT / ".peers"
LEROBOT_06 = PROJECT / "tests" / "lerobot_0.6_requirements.txt"
ENERGON = PROJECT / "tests" / "shards" / "energon_requirements.txt"
RECORDER = PROJECT / "benchmarks" / "recording" / "requirements.txt"


def lerobot_python(peers: Path, *, training: bool = False) -> Path:
    """The interpreter with LeRobot 0.4.4, below `peers`; for training, with all of its policies."""
    listed, further = (
        PROGRAMS / f"lerobot_{name}.txt" for name in ("requirements", "training_requirements")
    )
    python = make(peers / "lerobot", listed.read_text(), ["-r", str(listed), "--no-deps"])
    if training:
        words = ["-r", str(further), "--no-deps", "-e", str(PROJECT)]
        add(peers / "lerobot", further.read_text(), words, mark=".ready_training")
    return python


def lerobot_06_python(peers: Path) -> Path:
    """The interpreter with LeRobot 0.6.1, of six gigabytes; LookupError without Python 3.12."""
    words = ["-r", str(LEROBOT_06)]
    python = partial(interpreter, "3.12")
    return make(peers / "lerobot_0.6.1", LEROBOT_06.read_text(), words, python=python)


def lerobot_06_training_python(peers: Path) -> Path:
    """The interpreter with LeRobot 0.6.1's trainer, its policies and roboshard.

    Beside the environment of its datasets: that with which roboshard's installation is tried stays
    without.
    """
    words = ["lerobot[training]==0.6.1", "-e", str(PROJECT)]
    made_of = " ".join(words) + LEROBOT_06.read_text()
    return _beside(peers / "lerobot_0.6.1_training", made_of, words, lerobot_06_python(peers))


def recorder_python(peers: Path) -> Path:
    """The interpreter with the simulators, which sees LeRobot 0.6.1."""
    return beside(peers / "recorder", RECORDER, lerobot_06_python(peers))


def beside(environment: Path, requirements: Path, python: Path) -> Path:
    """An environment's interpreter, which sees another one's packages and has some of its own."""
    words = ["-r", str(requirements), "--no-deps"]
    return _beside(environment, requirements.read_text(), words, python)


def _beside(environment: Path, made_of: str, words: list[str], python: Path) -> Path:
    return make(environment, made_of, words, python=lambda: str(python), sees=python)


def offline(**variables: str) -> dict[str, str]:
    """Variables of this process and these, with which nothing is asked of the Hub."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", **variables}

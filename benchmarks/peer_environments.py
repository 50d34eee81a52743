"""Environments of other contenders and of the recorder, below .peers/, made when first used."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.interpreters import interpreter

PROJECT = Path(__file__).resolve().parent.parent
PROGRAMS = PROJECT / "benchmarks" / "peers"
PEERS = PROJECT / ".peers"
LEROBOT_06 = PROJECT / "tests" / "lerobot_0.6_requirements.txt"
ENERGON = PROJECT / "tests" / "shards" / "energon_requirements.txt"
RECORDER = PROJECT / "benchmarks" / "recording" / "requirements.txt"


def lerobot_python(peers: Path, *, training: bool = False) -> Path:
    """The interpreter with LeRobot 0.4.4, below `peers`; for training, with all of its policies."""
    environment = peers / "lerobot"
    install = ["--no-deps"]
    _make(environment, sys.executable, PROGRAMS / "lerobot_requirements.txt", install)
    if training:
        _make(
            environment,
            sys.executable,
            PROGRAMS / "lerobot_training_requirements.txt",
            [*install, "-e", str(PROJECT)],
            ready=".ready_training",
        )
    return environment / "bin" / "python"


def lerobot_06_python(peers: Path) -> Path:
    """The interpreter with LeRobot 0.6.1, of six gigabytes; LookupError without Python 3.12."""
    environment = peers / "lerobot_0.6.1"
    _make(environment, None, LEROBOT_06, [])
    return environment / "bin" / "python"


def lerobot_06_training_python(peers: Path) -> Path:
    """The interpreter with LeRobot 0.6.1's trainer, its policies and roboshard.

    Beside the environment of its datasets: that with which roboshard's installation is tried stays
    without.
    """
    datasets, environment = lerobot_06_python(peers), peers / "lerobot_0.6.1_training"
    ready, wanted = environment / ".ready", ["lerobot[training]==0.6.1", "-e", str(PROJECT)]
    state = " ".join(wanted) + LEROBOT_06.read_text()
    if not ready.exists() or ready.read_text() != state:
        _sees(environment, datasets)
        _pip(environment, wanted)
        ready.write_text(state)
    return environment / "bin" / "python"


def recorder_python(peers: Path) -> Path:
    """The interpreter with the simulators, which sees LeRobot 0.6.1."""
    return beside(peers / "recorder", RECORDER, lerobot_06_python(peers))


def beside(environment: Path, requirements: Path, python: Path) -> Path:
    """An environment's interpreter, which sees another one's packages and has some of its own."""
    if not _is_ready(environment / ".ready", requirements):
        _sees(environment, python)
        _pip(environment, ["-r", str(requirements), "--no-deps"])
        (environment / ".ready").write_text(requirements.read_text())
    return environment / "bin" / "python"


def _make(
    environment: Path,
    python: str | None,
    requirements: Path,
    options: Sequence[str],
    ready: str = ".ready",
) -> None:
    """Make an environment with these requirements unless it is there; None: by any Python 3.12."""
    if _is_ready(environment / ready, requirements):
        return
    subprocess.run([python or interpreter("3.12"), "-m", "venv", str(environment)], check=True)
    _pip(environment, ["-r", str(requirements), *options])
    (environment / ready).write_text(requirements.read_text())


def _is_ready(ready: Path, requirements: Path) -> bool:
    return ready.exists() and ready.read_text() == requirements.read_text()


def _sees(environment: Path, python: Path) -> None:
    """Make an environment anew that sees the packages of another one."""
    subprocess.run([str(python), "-m", "venv", "--clear", str(environment)], check=True)
    own, theirs = _packages(environment / "bin" / "python"), _packages(python)
    (own / "beside.pth").write_text(f"import site; site.addsitedir({str(theirs)!r})\n")


def _pip(environment: Path, words: Sequence[str]) -> None:
    command = [str(environment / "bin" / "python"), "-m", "pip", "install", "-q"]
    command += ["--disable-pip-version-check", *words]
    subprocess.run(command, check=True, stdout=sys.stderr)


def _packages(python: Path) -> Path:
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())


def offline(**variables: str) -> dict[str, str]:
    """Variables of this process and these, with which nothing is asked of the Hub."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", **variables}

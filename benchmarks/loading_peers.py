"""What the other contenders need, made when first used: environments, and the dataset in their
formats.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from loading_cases import Case
from peer_environments import (
    ENERGON,
    PROGRAMS,
    beside,
    lerobot_06_python,
    lerobot_python,
    offline,
)


def peer(
    case: Case, peers: Path, source: Path | None, shards: Path
) -> tuple[Path, dict[str, str] | None, dict[str, Any]]:
    """(interpreter, variables, what else its program is given) of a contender in an environment of
    its own.
    """
    if case.contender in ("lerobot", "lerobot_0.6"):
        if source is None:
            raise SystemExit(f"{case.name}: needs --source or --long-gop-source")
        given = {"source": str(source.resolve()), "return_uint8": case.contender == "lerobot_0.6"}
        if case.contender == "lerobot":
            return lerobot_python(peers), lerobot_environment(), given
        return lerobot_06_python(peers), offline(HF_HOME=str(peers / "hf_home")), given
    given = {"shards": str(shards.resolve()), "threads": case.threads}
    ours = Path(sys.executable)
    if case.contender == "spdl":
        return beside(peers / "spdl", PROGRAMS / "spdl_requirements.txt", ours), None, given
    if case.contender == "energon":
        python = beside(peers / "energon", ENERGON, ours)
        return python, None, given | {"energon": str(energon_shards(peers, shards, python))}
    python = beside(peers / "litdata", PROGRAMS / "litdata_requirements.txt", ours)
    return python, None, given | {"litdata": str(litdata_chunks(peers, shards, python))}


def energon_shards(peers: Path, shards: Path, python: Path) -> Path:
    """The dataset with what `energon prepare` adds to it, below `peers`."""
    folder = peers / "energon_data" / shards.resolve().name
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(shards.resolve(), unfinished)
        command = [str(python.with_name("energon")), "prepare", str(unfinished)]
        command += ["--non-interactive", "--split-ratio", "1,0,0"]
        command += ["--sample-type", "CrudeWebdataset"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        unfinished.rename(folder)
    return folder


def litdata_chunks(peers: Path, shards: Path, python: Path) -> Path:
    """The dataset as litData's chunks, below `peers`."""
    folder = peers / "litdata_data" / shards.resolve().name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [str(python), str(PROGRAMS / "make_litdata.py")]
        command += [str(shards.resolve()), str(folder)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder


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

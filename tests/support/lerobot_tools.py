"""Datasets that LeRobot's recorder and tools make, with what LeRobot returns of them;
tests/data/lerobot_tools.

PYTHONPATH=tests python -m support.lerobot_tools     # makes all of tests/data/lerobot_tools anew
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .cases import TOOL_CASES

if TYPE_CHECKING:
    from .lerobot import LeRobot

PROGRAMS = Path(__file__).parents[1] / "programs"
MAKE, SAMPLES = PROGRAMS / "lerobot_datasets.py", PROGRAMS / "lerobot_samples.py"


def made_by(lerobot: LeRobot, output: Path, v21: Path | str = "-") -> list[Path]:
    """Have LeRobot make a dataset of each kind below `output`, and store its samples beside each.

    Args:
        lerobot: The version that makes them.
        output: Folder that gets one folder each, with `src`, `expected.npz` and `expected.json`.
        v21: Dataset that LeRobot 0.3.3 recorded, for the converter to v3.0.
    """
    lerobot(MAKE, output, v21)
    folders = sorted(path for path in output.iterdir() if path.is_dir())
    failures = outcomes(lerobot, "record", *folders)
    assert not any(failures.values()), failures
    return folders


def outcomes(lerobot: LeRobot, *arguments: object) -> dict[str, str | None]:
    """What tests/programs/lerobot_samples.py says of each folder: None, or how it failed."""
    said = lerobot(SAMPLES, *arguments).stdout
    return dict(json.loads(line) for line in said.splitlines() if line.startswith('["'))


def pack(folder: Path, destination: Path) -> None:
    """Keep a dataset and its samples: files of metadata are large, and small when compressed."""
    destination.mkdir(parents=True)
    for name in ("expected.npz", "expected.json"):
        shutil.copy(folder / name, destination / name)
    with tarfile.open(destination / "src.tar.xz", "w:xz") as archive:
        archive.add(folder / "src", "src", filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def main() -> None:
    """Replace what is stored of all versions."""
    from .lerobot import VERSIONS, lerobot_of  # noqa: PLC0415 - a plugin: pytest imports it

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = {"0.3.3": made_by(lerobot_of("0.3.3", folder), folder / "0.3.3")}
        v21 = folder / "0.3.3/v21_recorded/src"
        for version in VERSIONS:
            made[version] = made_by(lerobot_of(version, folder), folder / version, v21)
        for version, datasets in made.items():
            shutil.rmtree(TOOL_CASES / version, ignore_errors=True)
            for dataset in datasets:
                pack(dataset, TOOL_CASES / version / dataset.name)


if __name__ == "__main__":
    main()

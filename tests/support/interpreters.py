"""Interpreters of other Pythons than this one, and environments of them.

python -m support.interpreters VERSION FOLDER REQUIREMENTS
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def interpreter(version: str) -> str:
    """A Python of this version, as 3.12, wherever one is usual. Raises LookupError without one."""
    for candidate in _interpreters(version):
        says = [candidate, "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
        done = subprocess.run(says, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    raise LookupError(
        f"no Python {version} as python{version}, nor in pyenv (pyenv install {version}) or uv"
    )


def environment(version: str, folder: Path, requirements: Path) -> Path:
    """The interpreter of an environment with roboshard and just these requirements; made anew where
    they, what roboshard says of itself as a project, or the version have changed.
    """
    ready = folder / ".ready"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = f"{version}\n{requirements.read_text()}{json.dumps(project, indent=1)}\n"
    python = folder / "bin/python"
    if not ready.exists() or ready.read_text() != wanted:
        subprocess.run([interpreter(version), "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, "-r", str(requirements), "-e", str(ROOT)], check=True)
        ready.write_text(wanted)
    return python


def _interpreters(version: str) -> Iterator[str]:
    if found := shutil.which(f"python{version}"):
        yield found
    for command in (["pyenv", "prefix", version], ["uv", "python", "find", version]):
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        place = Path(done.stdout.strip())
        if done.returncode == 0:
            yield str(place / "bin/python" if place.is_dir() else place)


if __name__ == "__main__":
    environment(sys.argv[1], Path(sys.argv[2]).absolute(), Path(sys.argv[3]))

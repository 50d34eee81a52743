"""Environments beside this one: they see its packages, and have other versions of some of them.

python -m support.beside FOLDER REQUIREMENTS
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

COMMANDS = ("convert-to-shards", "roboshard", "upload-shards")


def environment_beside(folder: Path, requirements: Path) -> Path:
    """The folder with an environment's commands; made anew unless it has just these
    requirements.
    """
    ready, wanted = folder / ".ready", requirements.read_text()
    if not ready.exists() or ready.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        python = str(folder / "bin/python")
        where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(
            subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
        )
        ours = sysconfig.get_path("purelib")
        (packages / "beside.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*install, "-r", str(requirements)], check=True)
        for name in COMMANDS:
            _, *lines = (
                (Path(sysconfig.get_path("scripts")) / name).read_text().splitlines(keepends=True)
            )
            command = folder / "bin" / name
            command.write_text("".join([f"#!{python}\n", *lines]))
            command.chmod(0o755)
        ready.write_text(wanted)
    return folder / "bin"


if __name__ == "__main__":
    environment_beside(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))

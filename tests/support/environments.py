"""Environments of other Pythons, releases and programs than this one's, made when first used.

python -m support.environments VERSION FOLDER REQUIREMENTS   of a Python, as 3.13, with roboshard
python -m support.environments beside FOLDER REQUIREMENTS    sees what is installed here
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("convert-to-shards", "roboshard", "upload-shards")


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


def make(
    folder: Path,
    made_of: str,
    words: Sequence[str],
    *,
    python: Callable[[], str] = lambda: sys.executable,
    sees: Path | None = None,
) -> Path:
    """An environment's interpreter; it is made anew unless it was made of the same before.

    Args:
        folder: where it lies.
        made_of: what it is made of, as a text to be compared.
        words: what `pip install` is given.
        python: asked for the Python that makes it, when it is made.
        sees: the interpreter of another environment, whose packages it sees too.
    """
    own = folder / "bin/python"
    if not was_made(folder, made_of):
        subprocess.run([python(), "-m", "venv", "--clear", str(folder)], check=True)
        if sees is not None:
            theirs = f"import site; site.addsitedir({str(_packages(sees))!r})\n"
            (_packages(own) / "beside.pth").write_text(theirs)
        add(folder, made_of, words)
    return own


def add(folder: Path, made_of: str, words: Sequence[str], mark: str = ".ready") -> None:
    """Install what `pip install` is given into an environment, unless its mark says the same."""
    if not was_made(folder, made_of, mark):
        install = [str(folder / "bin/python"), "-m", "pip", "install", "-q"]
        command = [*install, "--disable-pip-version-check", *words]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (folder / mark).write_text(made_of)


def was_made(folder: Path, made_of: str, mark: str = ".ready") -> bool:
    """Whether an environment's mark says that it was made of just this."""
    ready = folder / mark
    return ready.exists() and ready.read_text() == made_of


def environment(version: str, folder: Path, requirements: Path) -> Path:
    """The interpreter of an environment with roboshard and just these requirements; made anew where
    they, what roboshard says of itself as a project, or the version have changed.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    made_of = f"{version}\n{requirements.read_text()}{json.dumps(project, indent=1)}\n"
    words = ["-r", str(requirements), "-e", str(ROOT)]
    return make(folder, made_of, words, python=partial(interpreter, version))


def environment_beside(folder: Path, requirements: Path) -> Path:
    """The folder with the commands of an environment that sees this one's packages, and has other
    versions of some of them.
    """
    words = ["-r", str(requirements), "--no-deps"]
    python = make(folder, requirements.read_text(), words, sees=Path(sys.executable))
    for name in COMMANDS:
        command = folder / "bin" / name
        if not command.exists():
            here = Path(sysconfig.get_path("scripts")) / name
            _, *lines = here.read_text().splitlines(keepends=True)
            command.write_text("".join([f"#!{python}\n", *lines]))
            command.chmod(0o755)
    return folder / "bin"


def _packages(python: Path) -> Path:
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())


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
    kind, folder, requirements = sys.argv[1], Path(sys.argv[2]).absolute(), Path(sys.argv[3])
    if kind == "beside":
        environment_beside(folder, requirements)
    else:
        environment(kind, folder, requirements)

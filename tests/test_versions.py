"""The releases of libraries that are promised are those that are tried."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOOLS = {"mypy", "ruff", "types-pyyaml"}
"""Of lint and types, which run with one release each."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(lines: list[str]) -> dict[str, Requirement]:
    return {canonical(one.name): one for one in map(Requirement, lines)}


def tried(file: str) -> dict[str, Requirement]:
    lines = (ROOT / "tests" / file).read_text(encoding="utf-8").splitlines()
    return named([line.partition("#")[0] for line in lines if line.partition("#")[0].strip()])


def promised() -> dict[str, Requirement]:
    """What the package needs, and what its tests need of extras."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["preview"], *extras["s3"], *extras["test"]]
    found = named(lines)
    return {name: found[name] for name in found.keys() - TOOLS - {"roboshard"}}


def bound(requirement: Requirement, operator: str) -> Version:
    (version,) = (one.version for one in requirement.specifier if one.operator == operator)
    return Version(version)


def test_the_lowest_release_of_every_range_is_tried() -> None:
    oldest = tried("oldest_requirements.txt")
    for name, requirement in promised().items():
        assert bound(oldest[name], "==") == bound(requirement, ">="), name


def test_the_newest_releases_are_in_the_ranges() -> None:
    newest = tried("newest_requirements.txt")
    for name, requirement in promised().items():
        assert requirement.specifier.contains(bound(newest[name], ">=")), name


def test_the_page_names_the_releases_that_are_tried() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    oldest, newest = tried("oldest_requirements.txt"), tried("newest_requirements.txt")
    rows = re.findall(r"^\| ([^|]+) \| ([\d., ]+) \| ([\d., ]+)[^|]* \|$", page, re.MULTILINE)
    assert len(rows) >= 6
    for label, lowest, last in rows:
        names = [canonical("av" if one == "PyAV" else one) for one in label.split(", with its ")]
        assert lowest.split(", ") == [str(bound(oldest[name], "==")) for name in names]
        assert last.strip().split(", ") == [str(bound(newest[name], ">=")) for name in names]

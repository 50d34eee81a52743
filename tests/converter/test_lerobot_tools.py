"""Datasets that LeRobot's own tools make now, 0.4.4 and 0.6.1: recorded, edited, merged, converted
from v2.1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs.lerobot_tools import digest_of
from support.case_checks import check_loads
from support.cases import TOOL_CASES, Case, read_samples
from support.lerobot_tools import made_by

from roboshard.common.errors import RoboshardError
from roboshard.converter import ConvertConfig, convert
from roboshard.loader import open_dataset

if TYPE_CHECKING:
    from support.lerobot import LeRobot

pytest_plugins = ["support.lerobot"]
pytestmark = pytest.mark.lerobot

Made = dict[str, tuple[Path, list[str]]]
PROGRAM = Path(__file__).parents[1] / "programs/lerobot_tools.py"


@pytest.fixture(scope="module")
def made(
    lerobot: LeRobot, pusht_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, list[str]]]:
    """Name -> a dataset's folder, and the digest of each sample that LeRobot returns of it."""
    said = lerobot(PROGRAM, pusht_source, tmp_path_factory.mktemp("tools")).stdout
    return {
        name: (Path(root), digests) for name, root, digests in map(json.loads, said.splitlines())
    }


@pytest.mark.parametrize(
    "name", ["split_train", "split_val", "deleted", "twice", "merged", "aggregated"]
)
def test_samples_are_those_that_lerobot_returns(name: str, made: Made, tmp_path: Path) -> None:
    root, expected = made[name]
    convert(
        ConvertConfig(
            source=str(root), destination=str(tmp_path / "shards"), shard_size="64KB", workers=1
        )
    )
    dataset = open_dataset(str(tmp_path / "shards"))
    assert len(expected) > 80
    assert [digest_of(dataset[i]) for i in range(len(dataset))] == expected


@pytest.fixture(scope="module")
def v21(lerobot_v21: LeRobot, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Datasets of v2.1 that LeRobot 0.3.3 records."""
    return made_by(lerobot_v21, tmp_path_factory.mktemp("v21"))


def check_all_load(made: list[Path], folder: Path) -> None:
    """Each is converted and loaded as LeRobot returned it a moment ago."""
    failures = {}
    for dataset in made:
        case = Case(dataset.name, dataset / "src", read_samples(dataset))
        try:
            check_loads(case, folder / dataset.name)
        except (AssertionError, RoboshardError) as error:
            failures[dataset.name] = str(error)
    assert not failures


def test_recordings_of_v21_load_as_lerobot_reads_them(v21: list[Path], tmp_path: Path) -> None:
    assert [path.name for path in v21] == stored_names("0.3.3")
    check_all_load(v21, tmp_path)


def test_what_every_tool_makes_loads_as_lerobot_reads_it(
    lerobot: LeRobot, v21: list[Path], tmp_path: Path
) -> None:
    source = next(path for path in v21 if path.name == "v21_recorded") / "src"
    made = made_by(lerobot, tmp_path / "made", source)
    assert [path.name for path in made] == stored_names(lerobot.version)
    exact = [path for path in made if path.name != "recorded_with_frames_dropped"]
    check_all_load(exact, tmp_path / "converted")


def stored_names(version: str) -> list[str]:
    """What tests/data/lerobot_tools has of a version."""
    return sorted(path.name for path in (TOOL_CASES / version).iterdir())

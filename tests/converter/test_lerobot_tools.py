"""Datasets that LeRobot's own tools made: episodes deleted, split off, merged and aggregated by LeRobot 0.4.4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs.lerobot_tools import digest_of

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import open_dataset

if TYPE_CHECKING:
    from support.lerobot import Run

pytest_plugins = ["support.lerobot"]
pytestmark = pytest.mark.slow

Made = dict[str, tuple[Path, list[str]]]
PROGRAM = Path(__file__).parents[1] / "programs/lerobot_tools.py"


@pytest.fixture(scope="module")
def made(
    lerobot: Run, pusht_source: Path, tmp_path_factory: pytest.TempPathFactory
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

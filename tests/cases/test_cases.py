"""Datasets of the kinds that people have are converted and loaded with the values that LeRobot returns for them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.cases import CASES, Case, case_names, check_sample, read_case

from roboshard.converter import ConvertConfig, convert
from roboshard.exporter import ExportConfig, export
from roboshard.inspector import VerifyConfig, verify
from roboshard.loader import open_dataset
from roboshard.shards.errors import SourceError


def converted(source: Path, destination: Path) -> str:
    convert(
        ConvertConfig(
            source=str(source), destination=str(destination), shard_size="64KB", workers=1
        )
    )
    return str(destination)


def check_in_order(root: str, case: Case, order: list[int]) -> None:
    """Every sample asked for in this order, of one dataset whose decoders go from sample to sample."""
    dataset = open_dataset(root)
    assert len(dataset) == len(case.samples)
    for number in order:
        check_sample(dataset[number], case.samples[number])


@pytest.mark.parametrize("name", case_names())
def test_loads_as_lerobot_does(name: str, tmp_path: Path) -> None:
    case = read_case(name)
    root = converted(case.source, tmp_path / "shards")
    forwards = list(range(len(case.samples)))
    shuffled = random.Random(0).sample(forwards * 2, 2 * len(forwards))
    for order in (forwards, forwards[::-1], shuffled):
        check_in_order(root, case, order)


@pytest.mark.parametrize("name", case_names())
def test_verifies_against_its_source(name: str, tmp_path: Path) -> None:
    case = read_case(name)
    root = converted(case.source, tmp_path / "shards")
    report = verify(VerifyConfig(url=root, against=str(case.source), frames=2))
    assert report.ok, report.as_json()


@pytest.mark.parametrize("name", case_names())
def test_comes_back_from_a_round_trip(name: str, tmp_path: Path) -> None:
    """LeRobot -> shards -> LeRobot -> shards: the samples are still LeRobot's."""
    case = read_case(name)
    root = converted(case.source, tmp_path / "shards")
    export(ExportConfig(source=root, destination=str(tmp_path / "exported")))
    again = converted(tmp_path / "exported", tmp_path / "again")
    check_in_order(again, case, list(range(len(case.samples))))


def test_git_lfs_pointers_are_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="git lfs pull"):
        converted(CASES / "lfs_pointer_data/src", tmp_path / "shards")

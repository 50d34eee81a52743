"""Datasets of the kinds that people have are converted and loaded with the values that LeRobot
returns for them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.case_checks import check_loads, check_round_trip, check_verifies
from support.cases import CASES, case_names, read_case
from support.converting import converted

from roboshard.common.errors import SourceError


@pytest.mark.parametrize("name", case_names())
def test_loads_as_lerobot_does(name: str, tmp_path: Path) -> None:
    check_loads(read_case(name), tmp_path)


@pytest.mark.parametrize("name", case_names())
def test_verifies_against_its_source(name: str, tmp_path: Path) -> None:
    check_verifies(read_case(name), tmp_path)


@pytest.mark.parametrize("name", case_names())
def test_comes_back_from_a_round_trip(name: str, tmp_path: Path) -> None:
    check_round_trip(read_case(name), tmp_path)


def test_git_lfs_pointers_are_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="git lfs pull"):
        converted(CASES / "lfs_pointer_data/src", tmp_path / "shards")

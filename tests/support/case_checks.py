"""What must hold of every dataset for which LeRobot's samples are known."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from roboshard.loader import open_dataset
from roboshard.loader.decoding.colors import interpolation
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.verify import VerifyConfig, verify

from .cases import Case, check_sample
from .converting import converted

FURTHER_ROWS = {"totals_wrong": 1}
"""Rows past those that LeRobot returns: 0.4.4 believes a total that is too small. The rows are the
truth."""


INTERPOLATED = {
    "h264_bt2020",
    "hevc_10bit_g4",
    "odd_420_svtav1",
    "0.6.1/recorded_hevc_10bit",
}
"""Cases whose colors depend on how torchcodec fills them in."""


def skip_other_colors(case: Case) -> None:
    """LeRobot's samples are those with torchcodec's newer releases; an older one has others, as the
    loader with it has (tests/loader/test_colors.py).
    """
    if case.name in INTERPOLATED and interpolation() != "BICUBIC":
        pytest.skip("this torchcodec fills in other colors than that of LeRobot's samples")


def check_in_order(root: str, case: Case, order: list[int]) -> None:
    """Every sample asked for in this order, of one dataset whose decoders go from sample to
    sample.
    """
    dataset = open_dataset(root)
    assert len(dataset) == len(case.samples) + FURTHER_ROWS.get(case.name, 0)
    for number in order:
        check_sample(dataset[number], case.samples[number])


def check_loads(case: Case, folder: Path) -> None:
    """Converted, samples are LeRobot's: forwards, backwards and shuffled."""
    skip_other_colors(case)
    root = converted(case.source, folder / "shards")
    forwards = list(range(len(case.samples)))
    shuffled = random.Random(0).sample(forwards * 2, 2 * len(forwards))
    for order in (forwards, forwards[::-1], shuffled):
        check_in_order(root, case, order)


def check_verifies(case: Case, folder: Path) -> None:
    """Converted, the shards are found to hold what their source does."""
    root = converted(case.source, folder / "shards")
    report = verify(VerifyConfig(url=root, against=str(case.source), frames=2))
    assert report.ok, report.as_json()


def check_round_trip(case: Case, folder: Path) -> None:
    """LeRobot -> shards -> LeRobot -> shards: the samples are still LeRobot's."""
    skip_other_colors(case)
    root = converted(case.source, folder / "shards")
    export(ExportConfig(source=root, destination=str(folder / "exported")))
    again = converted(folder / "exported", folder / "again")
    check_in_order(again, case, list(range(len(case.samples))))

"""Small LeRobot datasets with what LeRobot returned for every sample: tests/data/cases and
tests/data/lerobot_tools.

It knows nothing of roboshard: LeRobot's own environment reads cases with it too.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

CASES = Path(__file__).parents[1] / "data/cases"
TOOL_CASES = Path(__file__).parents[1] / "data/lerobot_tools"
ROUNDING = 2
"""Levels of 255 by which pictures may differ where a machine's conversion to RGB rounds
differently.
"""


@dataclass(frozen=True)
class Case:
    """One dataset, and LeRobot's samples of it by their number."""

    name: str
    source: Path
    samples: list[dict[str, Any]]

    @property
    def lengths(self) -> list[int]:
        """Rows of each episode, ascending by episode."""
        episodes = [int(sample["episode_index"]) for sample in self.samples]
        return [episodes.count(episode) for episode in sorted(set(episodes))]


def case_names(*, with_samples: bool = True) -> list[str]:
    """Names of the cases that LeRobot reads, or of all."""
    folders = sorted(path for path in CASES.iterdir() if path.is_dir())
    return [path.name for path in folders if (path / "expected.npz").exists() or not with_samples]


def tool_case_names() -> list[str]:
    """Datasets that LeRobot's own tools made: "<version>/<name>"."""
    return sorted(
        path.parent.relative_to(TOOL_CASES).as_posix()
        for path in TOOL_CASES.glob("*/*/expected.npz")
    )


def read_case(name: str) -> Case:
    """A trouble case with LeRobot's samples."""
    return Case(name=name, source=CASES / name / "src", samples=read_samples(CASES / name))


def read_tool_case(name: str, folder: Path) -> Case:
    """A dataset that LeRobot's tools made, unpacked below `folder`, with LeRobot's samples."""
    with tarfile.open(TOOL_CASES / name / "src.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return Case(name=name, source=folder / "src", samples=read_samples(TOOL_CASES / name))


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The samples that are stored in a folder's expected.json and expected.npz."""
    samples: list[dict[str, Any]] = json.loads(
        (folder / "expected.json").read_text(encoding="utf-8")
    )
    with np.load(folder / "expected.npz", allow_pickle=False) as arrays:
        for place in arrays.files:
            number, key = place.split("|", 1)
            samples[int(number)][key] = arrays[place]
    return samples


def check_sample(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Hold a sample against LeRobot's: keys, shapes, dtypes and values; pictures within
    `ROUNDING`.
    """
    assert set(found) == set(expected)
    for key, value in expected.items():
        if not isinstance(value, np.ndarray):
            assert found[key] == value, key
            continue
        assert isinstance(found[key], torch.Tensor), key
        array = found[key].numpy()
        assert array.shape == value.shape, (key, array.shape, value.shape)
        if value.dtype != np.uint8:
            assert array.dtype == value.dtype, (key, array.dtype, value.dtype)
            assert np.array_equal(array, value, equal_nan=value.dtype.kind == "f"), (
                key,
                array,
                value,
            )
            continue
        levels = array if array.dtype == np.uint8 else np.round(array * 255)
        far = int(np.abs(levels.astype(np.int64) - value.astype(np.int64)).max())
        assert far <= ROUNDING, f"{key}: {far} levels apart"

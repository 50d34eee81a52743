"""The trouble cases of tests/data/cases: small LeRobot datasets with what LeRobot returned for every sample."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

CASES = Path(__file__).parents[1] / "data/cases"
ROUNDING = 2
"""Levels of 255 by which pictures may differ where a machine's conversion to RGB rounds differently."""


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


def read_case(name: str) -> Case:
    """A case with LeRobot's samples."""
    folder = CASES / name
    samples: list[dict[str, Any]] = json.loads((folder / "expected.json").read_text())
    with np.load(folder / "expected.npz", allow_pickle=False) as arrays:
        for place in arrays.files:
            number, key = place.split("|", 1)
            samples[int(number)][key] = arrays[place]
    return Case(name=name, source=folder / "src", samples=samples)


def check_sample(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Hold a sample against LeRobot's: keys, shapes, dtypes and values; pictures within `ROUNDING`."""
    assert set(found) == set(expected)
    for key, value in expected.items():
        if value is None or isinstance(value, str):
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

"""Samples equal those that LeRobot itself returned for the same dataset, recorded in
pusht_sim.golden.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.decoders import DECODERS, decode_with

from roboshard.loader import Loader, make_loader

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data/pusht_sim.golden.json").read_text()
)
DELTA_TIMESTAMPS: dict[str, list[float]] = GOLDEN["delta_timestamps"]
# of the golden file's grids, which tell frames apart where RGB conversion rounds differently
PIXEL_STEP = 16
ROUNDING = 2

both_kinds = pytest.mark.parametrize("kind", ["plain", "delta"])


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Decode with this one."""
    name: str = request.param
    decode_with(name, monkeypatch)
    return name


def loader_for(root: Path, kind: str, **options: Any) -> Loader:
    return make_loader(
        str(root), delta_timestamps=DELTA_TIMESTAMPS if kind == "delta" else None, **options
    )


def samples_of(batches: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Batches taken apart again."""
    return [
        {key: values[i] for key, values in batch.items()}
        for batch in batches
        for i in range(len(batch["index"]))
    ]


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def check_sample(sample: dict[str, Any], expected: dict[str, Any]) -> list[bool]:
    """Hold a sample against its golden record; whether each of its cameras is right to the bit."""
    assert set(sample) == set(expected)
    exact = []
    for key, entry in expected.items():
        value = sample[key]
        if "str" in entry:
            assert value == entry["str"], key
            continue
        assert (str(value.dtype), list(value.shape)) == (
            f"torch.{entry['dtype']}",
            entry["shape"],
        ), key
        if "grid16" not in entry:
            assert sha256(value) == entry["sha256"], (key, value, entry["values"])
            continue
        grid = value[..., ::PIXEL_STEP, ::PIXEL_STEP].to(torch.int16)
        difference = (grid - torch.tensor(entry["grid16"], dtype=torch.int16)).abs().max()
        assert difference <= ROUNDING, (key, int(sample["index"]))
        exact.append(sha256(value) == entry["sha256"])
    return exact


def check_all(samples: list[dict[str, Any]], kind: str) -> None:
    """Every golden sample is among `samples`, each frame of the dataset is there once, and all are
    equal.

    A machine may round RGB otherwise than the one that recorded the golden file, but then it does
    so throughout.
    """
    by_index = {int(sample["index"]): sample for sample in samples}
    assert sorted(by_index) == list(range(GOLDEN["num_frames"]))
    assert len(samples) == GOLDEN["num_frames"]
    exact = [
        flag
        for golden in GOLDEN["samples"]
        for flag in check_sample(by_index[golden["index"]], golden[kind])
    ]
    assert len(exact) == len(GOLDEN["samples"])
    assert len(set(exact)) == 1


@both_kinds
def test_single_samples_in_dataset_order(pusht_shards: Path, kind: str, decoder: str) -> None:
    loader = loader_for(pusht_shards, kind, batch_size=None, shuffle=False)
    samples = list(loader)
    assert [int(sample["index"]) for sample in samples] == list(range(GOLDEN["num_frames"]))
    check_all(samples, kind)


@both_kinds
def test_batches_in_random_order(pusht_shards: Path, kind: str, decoder: str) -> None:
    loader = loader_for(pusht_shards, kind, batch_size=8, pool_episodes=4)
    samples = samples_of(loader)
    assert [int(sample["index"]) for sample in samples] != list(range(GOLDEN["num_frames"]))
    check_all(samples, kind)


@pytest.mark.slow
def test_batches_from_worker_processes(pusht_shards: Path) -> None:
    check_all(samples_of(loader_for(pusht_shards, "delta", batch_size=8, num_workers=2)), "delta")


def test_the_decoders_agree_on_every_bit(
    pusht_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in DECODERS:
        decode_with(name, monkeypatch)
        found.append(samples_of(make_loader(str(pusht_shards), batch_size=64, shuffle=False)))
    for samples in zip(*found, strict=True):
        assert len({sha256(sample["observation.image"]) for sample in samples}) == 1


def test_what_the_dataset_says_of_itself(pusht_shards: Path) -> None:
    meta = make_loader(str(pusht_shards)).meta
    assert (meta.fps, meta.total_frames, meta.total_episodes) == tuple(
        GOLDEN[name] for name in ("fps", "num_frames", "num_episodes")
    )

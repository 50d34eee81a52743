"""What the loader's tests share."""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

import pytest
import torch
from support.batches import threads_left
from support.lerobot_source import Camera, Source, build

from roboshard.converter import ConvertConfig, convert


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Pictures of 96 x 64 gain nothing from torch's own threads, which would spin beside the
    decoding ones.
    """
    torch.set_num_threads(1)


@pytest.fixture
def no_threads_before() -> None:
    """For tests that count threads: none is there of loaders that earlier tests had.

    Where such a loader raised an error, a frame of its traceback may keep it until the garbage
    collector comes by.
    """
    for name in ("last_exc", "last_value", "last_traceback"):  # of a test that failed
        if hasattr(sys, name):
            delattr(sys, name)
    if threads_left():
        gc.collect()  # only then: late in a run it takes a second
    until = time.monotonic() + 10
    while threads_left() and time.monotonic() < until:
        time.sleep(0.05)
    assert not threads_left(), "a loader of an earlier test is still there"


@pytest.fixture(scope="session")
def arm_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 episodes of two cameras in 10 shards, each episode larger than all it takes to find it."""
    folder = tmp_path_factory.mktemp("arm")
    cameras = (
        Camera(key="observation.images.top", gop=4),
        Camera(key="observation.images.wrist", gop=2),
    )
    source = build(
        folder / "source", Source(lengths=tuple(8 + i * 5 % 7 for i in range(20)), cameras=cameras)
    )
    convert(
        ConvertConfig(
            source=str(source.root),
            destination=str(folder / "shards"),
            shard_size="64KB",
            workers=1,
        )
    )
    return folder / "shards"

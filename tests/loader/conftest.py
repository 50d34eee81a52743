"""What the loader's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.lerobot_source import Camera, Source, build

from roboshard.converter import ConvertConfig, convert


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Pictures of 96 x 64 gain nothing from torch's own threads, which would spin beside the decoding ones."""
    torch.set_num_threads(1)


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

"""A recording that goes on: the same dataset with more episodes, and a dataset of shards that grows
with it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from roboshard.converter import ConversionReport, ConvertConfig, convert

from .lerobot_source import Built, Camera, Source, build

CAMERA = Camera(key="observation.images.top", gop=4)
MAX_EPISODES = 40
LENGTHS = tuple(4 + i * 5 % 4 for i in range(MAX_EPISODES))


def record(root: Path, episodes: int, **changes: Any) -> Built:
    """The dataset as it is when so many episodes are recorded; each has a task of its own.

    64 KB an episode, most of it statistics: a shard each, of the smallest shards.
    """
    shutil.rmtree(root, ignore_errors=True)
    defaults: dict[str, Any] = {
        "lengths": LENGTHS[:episodes],
        "cameras": (CAMERA,),
        "tasks": tuple(f"task {i}" for i in range(episodes)),
        "state_dim": 160,
    }
    return build(root, Source(**(defaults | changes)))


def append(source: Path, destination: Path | str, **options: Any) -> ConversionReport:
    """`convert-to-shards --append` into the smallest shards there are, in this process."""
    defaults: dict[str, Any] = {"shard_size": "64KB", "workers": 1, "append": True}
    return convert(
        ConvertConfig(source=str(source), destination=str(destination), **defaults | options)
    )

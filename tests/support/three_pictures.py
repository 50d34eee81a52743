"""A small dataset with what is hard about pictures: reordered frames, two codecs, images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from roboshard.loader import Loader, make_loader
from roboshard.loader.episodes.episode import Episode
from support.lerobot_source import Camera, Source

TOP, WRIST, STILL = "observation.images.top", "observation.images.wrist", "observation.images.still"
PICTURES = (TOP, WRIST, STILL)
LENGTHS = (12, 9, 15, 7, 11, 10, 8)
FRAMES = sum(LENGTHS)
SOURCE = Source(
    lengths=LENGTHS,
    cameras=(
        Camera(key=TOP, gop=8, bframes=2),
        Camera(key=WRIST, codec="av1", gop=2, size=(80, 64)),
    ),
    image_keys=(STILL,),
    tasks=("pick", "place"),
)
WINDOWS = {TOP: [-0.3, 0.0, 0.1], STILL: [-0.1, 0.0], "action": [i / 10 for i in range(300)]}
"""The actions of a batch are then too large for a message between processes."""
ORDERS: dict[str, dict[str, Any]] = {
    "dataset order": {"shuffle": False},
    "uniform": {"seed": 4, "pool_episodes": 3},
    "sweep": {"seed": 4, "pool_episodes": 3, "frame_order": "sweep"},
}
TWO_WORKERS_SLOWLY = [0, pytest.param(2, marks=pytest.mark.slow)]
every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
LITTLE_MEMORY = 1 << 16
"""Of episodes, so that few steps are announced and each frame is decoded for itself."""

Decode = Callable[[Episode, str, Sequence[int]], Any]
"""`Episode.pictures`."""


def load(root: Path | str, **options: Any) -> Loader:
    return make_loader(str(root), **({"batch_size": 5} | options))

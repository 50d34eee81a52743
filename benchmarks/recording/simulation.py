"""What record.py asks of a simulated robot."""

from collections.abc import Iterator
from typing import Any, Protocol


class Simulation(Protocol):
    """A robot that moves and is looked at."""

    fps: int
    features: dict[str, dict[str, Any]]
    """Feature key -> its specification, as `LeRobotDataset.create` takes them."""

    def episode(self, seed: int, frames: int) -> Iterator[dict[str, Any]]:
        """Yield frames as `LeRobotDataset.add_frame` takes them; a seed gives the same ones."""


def picture_feature(height: int, width: int) -> dict[str, Any]:
    """Describe the pictures of one camera."""
    return {
        "dtype": "video",
        "shape": (height, width, 3),
        "names": ["height", "width", "channels"],
    }

"""Runs in LeRobot's own environment: the register of what makes datasets there, and the place where
they are made.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from programs.lerobot_recording import VERSION


@dataclass(frozen=True)
class Workshop:
    """Where datasets are made, out of each other and of one that LeRobot 0.3.3 recorded."""

    output: Path
    v21: Path

    def root(self, name: str) -> Path:
        """The folder of a dataset's files, not made yet."""
        folder = self.output / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "src"

    def opened(self, name: str) -> Any:
        """A dataset made before, or now."""
        from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415

        if not self.root(name).exists():
            MAKERS[name](self, name)
        return LeRobotDataset(f"local/{name}", root=self.root(name), video_backend="torchcodec")

    def copied(self, name: str, copy: str) -> Any:
        """The same for a tool that changes a dataset in place: a copy of it."""
        self.opened(name)
        shutil.copytree(self.root(name), self.root(copy), dirs_exist_ok=True)
        return self.opened(copy)


Maker = Callable[[Workshop, str], object]
MAKERS: dict[str, Maker] = {}


def maker(*, since: tuple[int, int] = (0, 4)) -> Any:
    """Register a maker under its function's name, where LeRobot is at least of this version."""

    def register(function: Maker) -> Maker:
        if since <= VERSION:
            MAKERS[function.__name__] = function
        return function

    return register

"""Runs in LeRobot's own environment: small datasets recorded with LeRobot's recorder, 0.3.3 to
0.6.1.

Pictures are flat with a block that moves, so that they are small, and no two frames of a dataset
are alike.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = tuple(map(int, version("lerobot").split(".")[:2]))
FPS = 10
HEIGHT, WIDTH = 64, 96
LENGTHS = (5, 4, 6)
TOP, WRIST = "observation.images.top", "observation.images.wrist"
DEPTH, DEPTH_IN_METRES = "observation.images.depth", "observation.images.depth_in_metres"

Features = dict[str, dict[str, Any]]
STATE: Features = {
    "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
}
EVERY_DTYPE: Features = {
    "observation.wide": {"dtype": "float64", "shape": (3,), "names": None},
    "observation.grid": {"dtype": "float32", "shape": (2, 3), "names": None},
    "observation.count": {"dtype": "int64", "shape": (1,), "names": None},
    "observation.small": {"dtype": "uint8", "shape": (2,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "operator": {"dtype": "string", "shape": (1,), "names": None},
}


def every_dtype() -> Features:
    """A feature of each dtype; before 0.6.1 no single numbers: LeRobot cannot record them with
    numpy 2.4.
    """
    single = {key for key, spec in EVERY_DTYPE.items() if spec["shape"] == (1,)} - {"operator"}
    kept = {
        key: spec for key, spec in EVERY_DTYPE.items() if VERSION >= (0, 6) or key not in single
    }
    return STATE | kept


def camera(dtype: str = "video", *, channels: int = 3) -> dict[str, Any]:
    """The declaration of a camera; of a depth map with one channel."""
    spec: dict[str, Any] = {
        "dtype": dtype,
        "shape": (HEIGHT, WIDTH, channels),
        "names": ["height", "width", "channels"],
    }
    return spec | ({"info": {"is_depth_map": True}} if channels == 1 else {})


def picture(key: str, episode: int, frame: int) -> NDArray[np.uint8]:
    """What a camera sees: a ground that tells episode and frame apart, and a block that moves."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = (30 + 9 * frame, 60 + 40 * episode, 150 if key == TOP else 40)
    left = 8 + (8 * frame + 24 * episode) % (WIDTH - 32)
    image[20:44, left : left + 24] = (230 - 9 * frame, 200 - 30 * episode, 30 + 20 * frame)
    return image


def depth(episode: int, frame: int) -> NDArray[np.uint16]:
    """A depth map in millimetres: a slope with a box before it."""
    slope = np.linspace(500, 4000, WIDTH, dtype=np.uint16)
    image = np.repeat(slope[None], HEIGHT, axis=0)[..., None]
    image[10:40, 10 + 4 * frame : 40 + 4 * frame] = 300 + 10 * episode
    return image


def values(features: Features, episode: int, frame: int) -> dict[str, Any]:
    """One row of the declared features."""
    known: dict[str, Any] = {
        "observation.state": np.array([episode, frame / 7], np.float32),
        "action": np.array([frame / 3, -episode], np.float32),
        "observation.wide": np.array([episode / 3, frame / 3, 1e-9]),
        "observation.grid": (np.arange(6, dtype=np.float32) + 10 * frame + episode).reshape(2, 3),
        "observation.count": np.array([100 * episode + frame], np.int64),
        "observation.small": np.array([episode, 255 - frame], np.uint8),
        "next.done": np.array([frame == 3]),
        "next.reward": np.array([frame / 10], np.float32),
        "operator": f"anna {episode} 抓取",
        DEPTH: depth(episode, frame),
        DEPTH_IN_METRES: (depth(episode, frame) / 1000).astype(np.float32),
    }
    return {
        key: known[key] if key in known else picture(key, episode, frame)
        for key in features
        if key in known or features[key]["dtype"] in ("video", "image")
    }


def task(episode: int, frame: int) -> str:
    """Episode 1 has two tasks."""
    return "place" if episode == 2 or (episode == 1 and frame >= 2) else "pick"


def new_dataset(root: Path, features: Features, **options: Any) -> Any:
    """An empty dataset to record into, as LeRobotDataset.create makes it."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415

    return LeRobotDataset.create(f"local/{root.parent.name}", FPS, features, root=root, **options)


def encoder(codec: str, **settings: Any) -> dict[str, Any]:
    """The option of LeRobotDataset.create that chooses an encoder."""
    if VERSION < (0, 6):
        assert not settings, "LeRobot 0.4 has no settings for it"
        return {"vcodec": codec}
    from lerobot.configs import RGBEncoderConfig  # noqa: PLC0415

    return {"rgb_encoder": RGBEncoderConfig(vcodec=codec, **settings)}


def add_frame(dataset: Any, features: Features, episode: int, frame: int) -> None:
    """Record one frame."""
    row = values(features, episode, frame)
    if VERSION < (0, 4):
        dataset.add_frame(row, task=task(episode, frame))
    else:
        dataset.add_frame({**row, "task": task(episode, frame)})


def add_episode(dataset: Any, features: Features, episode: int, length: int) -> None:
    """Record one episode."""
    for frame in range(length):
        add_frame(dataset, features, episode, frame)
    dataset.save_episode()


def record(
    root: Path, features: Features, *, lengths: Sequence[int] = LENGTHS, **options: Any
) -> Path:
    """Record a dataset of episodes of these lengths below `root`, and return that."""
    dataset = new_dataset(root, features, **options)
    for episode, length in enumerate(lengths):
        add_episode(dataset, features, episode, length)
    if VERSION >= (0, 4):
        dataset.finalize()
    return root

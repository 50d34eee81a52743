"""A double of LeRobot's registry of storage formats: what its datasets ask a format's module for.

It stands in where LeRobot is not installed, and for the releases without the registry (up to
0.6.1). Metadata is read from meta/; an episode is "encoded" by the tests' own builder.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from .lerobot_source import Camera, Source, build

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (4,), "names": None},
    "action": {"dtype": "float32", "shape": (4,), "names": None},
}


class Meta:
    """`LeRobotDatasetMetadata` as far as a storage format uses it."""

    def __init__(self, repo_id: str, root: Path) -> None:
        self.repo_id, self.root, self.revision = repo_id, root, "v3.0"
        self._load_metadata()

    def _load_metadata(self) -> None:
        self.info = SimpleNamespace(**json.loads((self.root / "meta/info.json").read_text()))
        files = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        self.episodes = [row for file in files for row in pq.read_table(file).to_pylist()]

    @property
    def total_episodes(self) -> int:
        return int(self.info.total_episodes)

    @property
    def total_frames(self) -> int:
        return int(self.info.total_frames)

    @property
    def fps(self) -> int:
        return int(self.info.fps)

    @property
    def robot_type(self) -> str | None:
        return str(self.info.robot_type)

    @property
    def features(self) -> dict[str, Any]:
        return dict(self.info.features)


class Registry:
    """`lerobot.datasets.storage`: formats by name, and the two calls that a dataset makes of it."""

    def __init__(self, *, has_writers: bool = True) -> None:
        self.readers: dict[str, str] = {}
        self.writers: dict[str, str] = {}
        self.module: Any = ModuleType("lerobot.datasets.storage")
        self.module.register_dataset_reader = self._registering(self.readers)
        if has_writers:
            self.module.register_dataset_writer = self._registering(self.writers)

    @staticmethod
    def _registering(modules: dict[str, str]) -> Callable[[str, str], None]:
        def register(storage_format: str, module: str) -> None:
            if modules.setdefault(storage_format, module) != module:
                raise ValueError(f"storage_format {storage_format!r} is already registered.")

        return register

    def open(self, root: str | Path, **options: Any) -> Any:
        """What `LeRobotDataset(repo_id, root=root, ...)` reads from."""
        local = Path(root)
        if "://" in str(root):
            (module,) = map(importlib.import_module, self.readers.values())
            local = module.localize_root("me/it", root, None, token=None, force_cache_sync=False)
        return self._reader(Meta("me/it", local), root, options)

    def open_of_meta(self, root: Path, **options: Any) -> Any:
        """What `LeRobotDataset(repo_id)` reads from, whose metadata was found at `root`."""
        return self._reader(Meta("me/it", root), None, options)

    def _reader(self, meta: Meta, root: str | Path | None, options: dict[str, Any]) -> Any:
        asked: dict[str, Any] = {
            "episodes": None,
            "delta_timestamps": None,
            "image_transforms": None,
            "tolerance_s": 1e-4,
            "return_uint8": False,
            "depth_output_unit": "mm",
        }
        module = importlib.import_module(self.readers[meta.info.storage_format])
        return module.DATASET_READER(
            meta=meta, root=root, revision=None, token=None, **asked | options
        )

    def record(self, meta: Meta, root: Path, **options: Any) -> Any:
        """What `LeRobotDataset.resume(repo_id, root)` records with."""
        module = importlib.import_module(self.writers[meta.info.storage_format])
        return module.DATASET_WRITER(
            meta=meta, root=root, initial_frames=meta.total_frames, **options
        )


class OneEpisode:
    """A `LeRobotDataset` that is recorded; its frames are the builder's, as many as were added."""

    def __init__(self, root: Path, features: dict[str, Any]) -> None:
        begin(root, features)
        self.meta = Meta("me/it", root)
        self.root = root
        self.cameras = tuple(
            Camera(key=key, gop=2, size=(48, 64))
            for key, spec in features.items()
            if spec["dtype"] == "video"
        )
        self.tasks: list[str] = []
        self.writer = SimpleNamespace(episode_buffer={"size": 0})

    @classmethod
    def create(cls, *, root: Path, features: dict[str, Any], **_: Any) -> OneEpisode:
        return cls(root, features)

    @classmethod
    def resume(cls, repo_id: str, root: Path) -> SimpleNamespace:
        return SimpleNamespace(meta=Meta(repo_id, root), writer=None)

    def add_frame(self, frame: dict[str, Any]) -> None:
        self.tasks.append(frame["task"])
        self.writer.episode_buffer["size"] += 1

    def clear_episode_buffer(self) -> None:
        self.tasks = []

    def save_episode(self, parallel_encoding: bool = True) -> None:
        shutil.rmtree(self.root)
        record_one(self.root, len(self.tasks), self.tasks[0], self.cameras)

    def finalize(self) -> None:
        pass


def begin(root: Path, features: dict[str, Any]) -> None:
    """What `LeRobotDataset.create` writes: a dataset without an episode."""
    info = {"total_episodes": 0, "total_frames": 0, "fps": 10, "robot_type": "arm"}
    (root / "meta").mkdir(parents=True)
    text = json.dumps(info | {"features": features, "storage_format": "roboshard"})
    (root / "meta/info.json").write_text(text)


def record_one(root: Path, length: int, task: str, cameras: tuple[Camera, ...] = ()) -> Path:
    """The dataset of one recorded episode."""
    source = Source(lengths=(length,), tasks=(task,), cameras=cameras, seed=length)
    return build(root, source).root


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Registry:
    """LeRobot's registry, and what else the format's module takes of it, as if installed."""
    found = Registry()
    modules: dict[str, dict[str, Any]] = {
        "lerobot": {},
        "lerobot.utils": {},
        "lerobot.utils.constants": {"HF_LEROBOT_HOME": tmp_path / "lerobot-home"},
        "lerobot.datasets": {},
        "lerobot.datasets.dataset_reader": {"BaseDatasetReader": type("Base", (), {})},
        "lerobot.datasets.lerobot_dataset": {"LeRobotDataset": OneEpisode},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "lerobot.datasets.storage", found.module)
    monkeypatch.delitem(sys.modules, "roboshard.tools.lerobot_storage.backend", raising=False)
    return found

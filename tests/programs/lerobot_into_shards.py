"""Record with LeRobot, straight into shards and into its own format, and compare what is read back.

lerobot_into_shards.py record ROOT EPISODES [--kill-at N] [--streaming]
lerobot_into_shards.py compare ROOT OWN EPISODES
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from roboshard.loader import open_dataset
from roboshard.tools.lerobot_storage import create, resume

REPO = "me/recorded"
FPS = 30
FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": (4,), "names": None},
    "action": {"dtype": "float32", "shape": (1,), "names": ["x"]},
    "observation.images.top": {
        "dtype": "video",
        "shape": (64, 96, 3),
        "names": ["height", "width", "channels"],
    },
    "observation.images.wrist": {
        "dtype": "image",
        "shape": (32, 48, 3),
        "names": ["height", "width", "channels"],
    },
}
SAME_PICTURE = 2 / 255


def frames(episode: int) -> list[dict[str, Any]]:
    """What is recorded of an episode; the first five rows have a task of their own."""
    random = np.random.default_rng(episode)
    found = []
    for row in range(12 + episode):
        top = np.full((64, 96, 3), (episode * 16 + row) % 256, np.uint8)
        top[:8, :8] = episode % 31 * 8
        found.append(
            {
                "observation.state": random.random(4, np.float32),
                "action": np.array([row], np.float32),
                "observation.images.top": top,
                "observation.images.wrist": random.integers(0, 255, (32, 48, 3), np.uint8),
                "task": "reach" if row < 5 else f"task {episode % 3}",
            }
        )
    return found


def record(dataset: Any, episodes: range, kill_at: int | None = None) -> None:
    """Record episodes; killed in the midst of one, if asked to."""
    for episode in episodes:
        for row, frame in enumerate(frames(episode)):
            if episode == kill_at and row == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            dataset.add_frame(frame)
        dataset.save_episode()
        sys.stdout.write(f"saved {episode}\n")
        sys.stdout.flush()
    dataset.finalize()


def opened(root: Path, streaming: bool) -> Any:
    """The dataset to record into: a new one, or the one that is there."""
    options: dict[str, Any] = {"image_writer_threads": 2, "streaming_encoding": streaming}
    if root.exists():
        return resume(REPO, root, **options)
    return create(REPO, FPS, FEATURES, root, robot_type="arm", **options)


def compare(root: Path, own: Path, episodes: int) -> None:
    """Hold what was recorded into shards against LeRobot's own recording of the same frames."""
    shutil.rmtree(own, ignore_errors=True)
    writes = LeRobotDataset.create(REPO, FPS, FEATURES, root=own, robot_type="arm")
    record(writes, range(episodes))
    expected, found = LeRobotDataset(REPO, root=own), open_dataset(root, return_uint8=False)
    assert len(found) == len(expected)
    for number in range(len(expected)):
        sample, other = found[number], expected[number]
        assert sample.keys() == other.keys()
        for key, value in other.items():
            if key == "task_index":  # LeRobot numbers the tasks of an episode in no certain order
                assert found.meta.tasks[int(sample[key])] == sample["task"]
            elif isinstance(value, torch.Tensor):
                assert (sample[key].dtype, sample[key].shape) == (value.dtype, value.shape), key
                apart = (sample[key].double() - value.double()).abs().max().item()
                assert apart <= (SAME_PICTURE if "top" in key else 0), (key, number, apart)
            else:
                assert sample[key] == value, key
    for key, own_stats in expected.meta.stats.items():
        for name in ("min", "max", "mean", "std", "count"):
            if key != "task_index":
                np.testing.assert_allclose(
                    found.meta.stats[key][name], own_stats[name], rtol=1e-4, atol=1e-6
                )
    info = {key: expected.meta.info.get(key) for key in ("fps", "robot_type", "total_tasks")}
    assert {key: found.meta.info[key] for key in info} == info
    sys.stdout.write(f"{len(found)} samples are equal\n")


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("root", type=Path)
    parser.add_argument("own", type=Path, nargs="?")
    parser.add_argument("--episodes", type=int, required=True)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--streaming", action="store_true")
    options = parser.parse_args()
    if options.what == "compare":
        compare(options.root, options.own, options.episodes)
    else:
        dataset = opened(options.root, options.streaming)
        first = dataset.num_episodes
        record(dataset, range(first, first + options.episodes), options.kill_at)


if __name__ == "__main__":
    main()

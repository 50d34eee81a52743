"""See that LeRobot reads the same of two folders' metadata: lerobot_meta.py ROOT OTHER."""

from __future__ import annotations

import sys

import numpy as np
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

SAME = ("total_episodes", "total_frames", "total_tasks", "fps", "robot_type", "features", "shapes")

one, other = (LeRobotDatasetMetadata("me/it", root) for root in sys.argv[1:3])
for name in SAME:
    assert getattr(one, name) == getattr(other, name), name
assert one.tasks.equals(other.tasks)
for column in ("episode_index", "length", "tasks", "dataset_from_index", "dataset_to_index"):
    assert list(one.episodes[column]) == list(other.episodes[column]), column
for key, stats in other.stats.items():
    for name, values in stats.items():
        assert np.array_equal(one.stats[key][name], values), (key, name)
sys.stdout.write("equal\n")

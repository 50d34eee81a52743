"""Record a simulated robot with LeRobot's own recorder, as a LeRobot v3 dataset.

Runs in an environment of its own (requirements.txt), started by benchmarks/data.py with one JSON
argument, the fields of `Recording`. Videos are encoded as LeRobot does by default: AV1 with every
other frame a keyframe.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lerobot.datasets.lerobot_dataset import LeRobotDataset

from simulation import Simulation


@dataclass(frozen=True)
class Recording:
    """What to record."""

    robot: str
    """Which robot: "aloha" or "pusht"."""
    height: int
    width: int
    episodes: int
    frames: int
    """Frames in each episode."""
    root: str
    """Folder of the dataset; must not exist."""
    video_files_size_in_mb: int = 4
    """Megabytes of a video file: few, so that a small dataset has several, as large ones do."""


def main() -> None:
    """Record all episodes; every one starts from a seed of its own."""
    recording = Recording(**json.loads(sys.argv[1]))
    simulation = simulation_of(recording)
    dataset = LeRobotDataset.create(
        repo_id=f"local/{Path(recording.root).name}",
        fps=simulation.fps,
        features=simulation.features,
        root=recording.root,
        robot_type=recording.robot,
        video_files_size_in_mb=recording.video_files_size_in_mb,
        data_files_size_in_mb=1,
        streaming_encoding=True,
        encoder_queue_maxsize=recording.frames + 1,  # a full queue would drop frames
    )
    started = time.perf_counter()
    for seed in range(recording.episodes):
        for frame in simulation.episode(seed, recording.frames):
            dataset.add_frame(frame)
        dataset.save_episode()
        seconds = time.perf_counter() - started
        print(f"episode {seed + 1} of {recording.episodes}, {seconds:.0f} s", file=sys.stderr)
    dataset.finalize()


def simulation_of(recording: Recording) -> Simulation:
    """Import one simulator only: each has its own way of failing where it cannot draw."""
    if recording.robot == "aloha":
        from aloha import Aloha  # noqa: PLC0415

        return Aloha(recording.height, recording.width)
    from pusht import PushT  # noqa: PLC0415

    return PushT(recording.height, recording.width)


if __name__ == "__main__":
    main()

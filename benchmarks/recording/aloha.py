"""gym-aloha: two arms on a table, three cameras, 50 frames a second, smooth random motion.

MuJoCo draws with OpenGL: set MUJOCO_GL to "egl" or "osmesa" where there is no display.
"""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gym_aloha import constants

from simulation import picture_feature

CAMERAS = ("top", "left_wrist", "right_wrist")
TASKS = {
    "gym_aloha/AlohaTransferCube-v0": "Hand the red cube over to the other arm.",
    "gym_aloha/AlohaInsertion-v0": "Put the peg into the socket.",
}
"""Environment -> task; episodes take turns."""
WITHOUT = {"shadow": False, "reflection": False}
"""What a CPU draws ten times as slowly."""
SWING_RAD = 0.25
"""How far joints move from where they start, at most, for each of three oscillations."""


class Aloha:
    """A simulation of two arms that wave."""

    fps = constants.FPS

    def __init__(self, height: int, width: int) -> None:
        """Draw pictures of this size."""
        self._views = [_View(name, height, width) for name in TASKS]
        joints = {"dtype": "float32", "shape": (14,), "names": list(constants.JOINTS)}
        self.features: dict[str, dict[str, Any]] = {
            "observation.state": joints,
            "action": joints,
            **{f"observation.images.{name}": picture_feature(height, width) for name in CAMERAS},
        }

    def episode(self, seed: int, frames: int) -> Iterator[dict[str, Any]]:
        """Yield the frames of one episode."""
        view, task = self._views[seed % len(TASKS)], list(TASKS.values())[seed % len(TASKS)]
        motion = _motion(np.random.default_rng(seed), frames)
        view.reset(seed)
        for action in motion:
            pictures = {f"observation.images.{name}": view.seen[name] for name in CAMERAS}
            yield {
                "observation.state": view.joints,
                "action": action,
                **pictures,
                "task": task,
            }
            view.step(action)


class _View:
    """An environment that draws three cameras of any size; gym-aloha has one, and draws others."""

    def __init__(self, name: str, height: int, width: int) -> None:
        self._environment = gymnasium.make(name, max_episode_steps=1 << 30)
        self._height, self._width = height, width
        simulator = self._environment.unwrapped._env
        simulator.physics.model.vis.quality.offsamples = 0  # no antialiasing
        simulator.task.get_observation = self._look
        self._joints_of = simulator.task.get_qpos
        self.seen: dict[str, np.ndarray] = {}
        self.joints = np.zeros(14, np.float32)

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self._environment.reset(seed=seed)

    def step(self, action: np.ndarray) -> None:
        """Move the arms for one frame."""
        self._environment.step(action)

    def _look(self, physics: Any) -> dict[str, Any]:
        size = {"height": self._height, "width": self._width}
        self.seen = {
            name: physics.render(camera_id=name, render_flag_overrides=WITHOUT, **size)
            for name in CAMERAS
        }
        self.joints = np.asarray(self._joints_of(physics), np.float32)
        return {"qpos": self.joints, "images": self.seen}


def _motion(random: np.random.Generator, frames: int) -> np.ndarray:
    """(frames, 14) targets: oscillations about the pose in which the arms start, slowly begun."""
    seconds = np.arange(frames)[:, None, None] / constants.FPS
    frequencies = random.uniform(0.1, 0.7, (1, 14, 3))
    phases = random.uniform(0, 2 * np.pi, (1, 14, 3))
    swing = np.sin(2 * np.pi * frequencies * seconds + phases).sum(axis=-1)
    swing *= SWING_RAD * np.minimum(1.0, seconds[..., 0])
    pose = np.array(constants.START_ARM_POSE)
    arms = [
        np.append(pose[first : first + 6], constants.normalize_puppet_gripper_position(pose[grip]))
        for first, grip in ((0, 6), (8, 14))
    ]
    targets = np.concatenate(arms) + swing
    targets[:, [6, 13]] = targets[:, [6, 13]].clip(0, 1)
    return targets.astype(np.float32)

"""gym-pusht: a disc that pushes a T, one camera, 10 frames a second, drawn without a display."""

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import gym_pusht  # noqa: F401 - registers the environment
import gymnasium
import numpy as np

from simulation import picture_feature

TASK = "Push the T-shaped block onto the T-shaped target."
GOAL = np.array([256.0, 256.0])
PUSHES_WITHIN = 0.6
"""Radians about the line from goal to block in which the disc pushes."""
AROUND, STEP, NOISE = 130.0, 60.0, 8.0
"""Pixels of 512: how far from the block the disc goes around it, how far at once, how shakily."""


class PushT:
    """A disc that goes behind the T and pushes it toward the target."""

    fps = 10

    def __init__(self, height: int, width: int) -> None:
        """Draw pictures of this size."""
        self._environment = gymnasium.make(
            "gym_pusht/PushT-v0",
            obs_type="pixels_agent_pos",
            observation_height=height,
            observation_width=width,
            max_episode_steps=1 << 30,
        )
        place = {"dtype": "float32", "shape": (2,), "names": {"motors": ["x", "y"]}}
        self.features: dict[str, dict[str, Any]] = {
            "observation.state": place,
            "action": place,
            "observation.image": picture_feature(height, width),
            "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
            "next.done": {"dtype": "bool", "shape": (1,), "names": None},
            "next.success": {"dtype": "bool", "shape": (1,), "names": None},
        }

    def episode(self, seed: int, frames: int) -> Iterator[dict[str, Any]]:
        """Yield the frames of one episode."""
        random = np.random.default_rng(seed)
        seen, info = self._environment.reset(seed=seed)
        for frame in range(frames):
            action = _push(seen["agent_pos"], np.array(info["block_pose"][:2]), random)
            before = seen
            seen, reward, _, _, info = self._environment.step(action)
            yield {
                "observation.state": before["agent_pos"].astype(np.float32),
                "action": action,
                "observation.image": before["pixels"],
                "next.reward": np.array([reward], np.float32),
                "next.done": np.array([frame == frames - 1]),
                "next.success": np.array([info["is_success"]]),
                "task": TASK,
            }


def _push(disc: np.ndarray, block: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Where to send the disc: around the block until that is before the goal, then through it."""
    away, place = _angle(block - GOAL), _angle(disc - block)
    turn = (away - place + np.pi) % (2 * np.pi) - np.pi
    if abs(turn) < PUSHES_WITHIN:
        target = block
    else:
        angle = place + np.clip(turn, -PUSHES_WITHIN, PUSHES_WITHIN)
        target = block + AROUND * np.array([np.cos(angle), np.sin(angle)])
    step = target - disc
    step *= min(1.0, STEP / (np.linalg.norm(step) + 1e-6))
    return (disc + step + random.normal(0, NOISE, 2)).clip(15, 497).astype(np.float32)


def _angle(vector: np.ndarray) -> float:
    return float(np.arctan2(vector[1], vector[0]))

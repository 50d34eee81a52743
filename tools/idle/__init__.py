"""Frames in which nothing moves: found from the rows, written as ranges to keep in training."""

from roboshard.tools.idle.config import IdleConfig
from roboshard.tools.idle.run import IdleEpisode, IdleReport, find_idle

__all__ = ["IdleConfig", "IdleEpisode", "IdleReport", "find_idle"]

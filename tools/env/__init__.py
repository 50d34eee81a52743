"""What roboshard runs on here: for reports of faults, and to see what a machine lacks."""

from roboshard.tools.env.run import Environment, describe

__all__ = ["Environment", "describe"]

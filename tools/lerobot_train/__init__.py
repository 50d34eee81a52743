"""LeRobot's own trainer, `lerobot-train`, on shards: its options, loop and checkpoints, our batches
and order.
"""

from roboshard.tools.lerobot_train.options import LoaderOptions
from roboshard.tools.lerobot_train.run import train

__all__ = ["LoaderOptions", "train"]

"""Runs in LeRobot's environment: prints which cameras are normalised by ImageNet's statistics.

python lerobot_statistics.py SHARDS
"""

import sys

import torch

from roboshard.loader import open_dataset
from roboshard.tools.lerobot_train.datasets import TrainerMeta, put_imagenet_stats

meta = TrainerMeta(open_dataset(sys.argv[1]).meta, "my_dataset")
put_imagenet_stats(meta)
found = [key for key in meta.camera_keys if torch.is_tensor(meta.stats[key]["mean"])]
sys.stdout.write(f"{found}\n")

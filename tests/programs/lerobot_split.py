"""Runs in LeRobot's environment: which episodes its trainer holds out, and ours, of a dataset and
its shards.

python lerobot_split.py SOURCE SHARDS

Prints how many splits were compared, and "equal".
"""

import sys
from types import SimpleNamespace
from typing import Any

from lerobot.datasets.factory import make_train_eval_datasets
from lerobot.policies.act.configuration_act import ACTConfig

from roboshard.tools.lerobot_train.datasets import split_episodes


def configuration(source: str, episodes: list[int] | None, fraction: float) -> Any:
    """As much of the trainer's configuration as its datasets are made of."""
    dataset = SimpleNamespace(
        repo_id="local/it",
        root=source,
        revision=None,
        repo_type="dataset",
        streaming=False,
        episodes=episodes,
        eval_split=fraction,
        image_transforms=SimpleNamespace(enable=False),
        video_backend="torchcodec",
        depth_output_unit="mm",
        use_imagenet_stats=False,
    )
    return SimpleNamespace(
        dataset=dataset, trainable_config=ACTConfig(device="cpu"), tolerance_s=1e-4
    )


def main() -> None:
    """Compare."""
    source, shards = sys.argv[1:]
    cases = [(None, 0.2), (None, 0.5), ([3, 1, 7, 5], 0.3)]
    for episodes, fraction in cases:
        theirs = make_train_eval_datasets(configuration(source, episodes, fraction))
        ours = split_episodes(shards, episodes, fraction)
        split = [sorted(dataset.episodes) for dataset in theirs]
        if split != [sorted(own) for own in ours]:
            raise SystemExit(f"{split} are LeRobot's, and ours {ours}")
    sys.stdout.write(f"{len(cases)} equal\n")


if __name__ == "__main__":
    main()

"""LeRobot's own trainer, `lerobot-train`, fed from shards: its options, loop and checkpoints, our batches and order.

    python examples/lerobot_trainer.py --dataset.repo_id=my_dataset --dataset.root=my_dataset_shards \\
        --policy.type=act --policy.push_to_hub=false --output_dir=outputs/act
    python examples/lerobot_trainer.py --resume=true \\
        --config_path=outputs/act/checkpoints/last/pretrained_model/train_config.json

`--dataset.root` is a folder of shards or their URL. Under `accelerate launch` the loader splits itself by rank.
"""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from lerobot.configs import parser
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.factory import IMAGENET_STATS, resolve_delta_timestamps
from lerobot.datasets.transforms import ImageTransforms
from lerobot.scripts import lerobot_train
from lerobot.utils.constants import TRAINING_STATE_DIR
from lerobot.utils.train_utils import load_training_step
from torch.utils.data import DataLoader

from roboshard.loader import Loader, MapDataset, make_loader, open_dataset


@parser.wrap()  # type: ignore[untyped-decorator]
def main(cfg: TrainPipelineConfig) -> None:
    """Train with `lerobot-train`'s options."""
    cfg.validate()
    if cfg.dataset.root is None:
        raise SystemExit("--dataset.root is missing: a folder of shards or their URL")
    lerobot_train.make_dataset = make_dataset
    lerobot_train.train(cfg, accelerator=ShardAccelerator(cfg))


def make_dataset(cfg: TrainPipelineConfig) -> MapDataset:
    """What the trainer calls under this name: here it makes the policy and counts from it, and draws nothing."""
    dataset = open_dataset(cfg.dataset.root, **sample_options(cfg))
    if cfg.dataset.use_imagenet_stats:
        for key in set(dataset.meta.camera_keys) - set(
            dataset.meta.depth_keys
        ):  # those are of colours
            dataset.meta.stats[key] |= {
                name: torch.tensor(values) for name, values in IMAGENET_STATS.items()
            }
    return dataset


def make_batches(cfg: TrainPipelineConfig, world_size: int) -> Loader:
    """The trainer's batches; after `--resume`, those that come next."""
    loader = make_loader(
        cfg.dataset.root,
        batch_size=cfg.batch_size,
        seed=cfg.seed or 0,
        num_workers=cfg.num_workers,
        drop_n_last_frames=getattr(cfg.policy, "drop_n_last_frames", 0),
        **sample_options(cfg),
    )
    if cfg.resume:
        step = load_training_step(cfg.checkpoint_path / TRAINING_STATE_DIR)
        loader.load_state_dict(
            loader.state_at(step, world_size=world_size, batch_size=cfg.batch_size)
        )
    return loader


def sample_options(cfg: TrainPipelineConfig) -> dict[str, Any]:
    """What a sample is, by the trainer's options."""
    transforms = cfg.dataset.image_transforms
    return {
        "episodes": cfg.dataset.episodes,
        "delta_timestamps": resolve_delta_timestamps(
            cfg.policy, open_dataset(cfg.dataset.root).meta
        ),
        "image_transforms": ImageTransforms(transforms) if transforms.enable else None,
        "return_uint8": False,  # policies take pictures as float32 in 0..1
        "tolerance_s": cfg.tolerance_s,
    }


class ShardAccelerator(Accelerator):  # type: ignore[misc]
    """The trainer's Accelerator, but for the DataLoader that it is given to prepare: our loader takes its place."""

    def __init__(self, cfg: TrainPipelineConfig) -> None:
        ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
        on_cpu = cfg.policy.device == "cpu"
        super().__init__(step_scheduler_with_optimizer=False, kwargs_handlers=[ddp], cpu=on_cpu)
        self._cfg = cfg

    def prepare(self, *parts: Any, **options: Any) -> Any:
        """What accelerate prepares, prepared; a loader of ours is split by rank already and stays as it is."""
        exchanged = (
            make_batches(self._cfg, self.num_processes) if isinstance(part, DataLoader) else part
            for part in parts
        )
        return super().prepare(*exchanged, **options)


if __name__ == "__main__":
    main()

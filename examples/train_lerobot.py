"""A LeRobot policy, ACT, trained from shards: LeRobot's policy, processors, optimiser and
checkpoints, our batches.

    convert-to-shards tests/data/pusht_sim demo_output/pusht_sim_shards
    python examples/train_lerobot.py demo_output/pusht_sim_shards
    python examples/train_lerobot.py demo_output/pusht_sim_shards --steps 120

The last command goes on from the last checkpoint.

Needs LeRobot (docs/lerobot.md). The policy is a small one that a CPU trains in a minute, without
pretrained weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.utils.train_utils import load_training_state, save_training_state

from roboshard.loader import Loader, make_loader, open_dataset

OUTPUT = Path(__file__).resolve().parent.parent / "demo_output" / "train_lerobot"


@dataclass(frozen=True)
class Options:
    """Train ACT on observation.image and observation.state."""

    shards: tyro.conf.Positional[str]
    """A roboshard dataset: a folder, hf://buckets/…, s3://…"""
    output: Path = OUTPUT
    """Folder for checkpoints."""
    steps: int = 60
    """Optimiser steps in all."""
    batch_size: int = 8
    checkpoint_every: int = 30


def main() -> None:
    """Train, from the last checkpoint if there is one."""
    options = tyro.cli(Options)
    checkpoint = max(options.output.glob("step-*"), default=None)

    torch.manual_seed(0)
    config = small_act() if checkpoint is None else PreTrainedConfig.from_pretrained(checkpoint)
    config.pretrained_path = checkpoint
    meta = open_dataset(options.shards).meta
    policy = make_policy(config, ds_meta=meta)
    preprocessor, postprocessor = make_pre_post_processors(
        config, checkpoint, dataset_stats=meta.stats
    )
    optimizer = config.get_optimizer_preset().build(policy.get_optim_params())
    loader = make_loader(
        options.shards,
        batch_size=options.batch_size,
        delta_timestamps=resolve_delta_timestamps(config, meta),
        return_uint8=False,  # policies take pictures as float32 in 0..1
    )
    step = 0
    if checkpoint is not None:
        step, optimizer, _ = load_training_state(checkpoint, optimizer, None)
        loader.load_state_dict(json.loads((checkpoint / "loader.json").read_text()))

    policy.train()
    while step < options.steps:
        for batch in loader:
            loss, _ = policy.forward(preprocessor(batch))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            print(f"step {step:5d}  loss {loss.item():.4f}", flush=True)
            if step % options.checkpoint_every == 0 or step == options.steps:
                save(
                    options.output / f"step-{step:06d}",
                    step,
                    (policy, preprocessor, postprocessor),
                    optimizer,
                    loader,
                )
            if step == options.steps:
                return


def small_act() -> ACTConfig:
    """ACT, much smaller than its defaults."""
    return ACTConfig(
        device="cuda" if torch.cuda.is_available() else "cpu",
        push_to_hub=False,
        pretrained_backbone_weights=None,  # nothing is downloaded
        chunk_size=8,
        n_action_steps=8,
        dim_model=64,
        n_heads=4,
        dim_feedforward=128,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        optimizer_lr=1e-3,
        optimizer_lr_backbone=1e-4,
    )


def save(
    folder: Path,
    step: int,
    parts: tuple[Any, ...],
    optimizer: torch.optim.Optimizer,
    loader: Loader,
) -> None:
    """Write a checkpoint as LeRobot does, with the loader's place beside it, so that it appears
    whole.
    """
    temporary = folder.with_name("writing")
    for part in parts:
        part.save_pretrained(temporary)
    save_training_state(temporary, step, optimizer)
    (temporary / "loader.json").write_text(json.dumps(loader.state_dict()))
    temporary.rename(folder)


if __name__ == "__main__":
    main()

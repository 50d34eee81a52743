"""Behaviour cloning with DDP: any number of processes, checkpoints that hold the loader's place, exact resume.

    python examples/train_ddp.py                                     # one process
    torchrun --nproc-per-node 4 examples/train_ddp.py --steps 400    # four, on one machine

Run it again and it continues from its checkpoint, with any world size that divides --max-world-size, and any number
of workers: the global batches are the ones that the first run would have had.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import tyro
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import DatasetMeta, Loader, make_loader

PROJECT = Path(__file__).resolve().parent.parent
HORIZON = 8  # actions predicted at once


@dataclass(frozen=True)
class Options:
    """Train a small policy on observation.image and observation.state."""

    shards: str | None = None
    """A roboshard dataset: a folder, hf://buckets/…, s3://…; default: the bundled one, converted first."""
    cache_dir: Path | None = None
    """Folder of each machine that keeps what was read of remote shards."""
    output: Path = PROJECT / "demo_output" / "train_ddp"
    """Folder for checkpoint.pt, and for what --log-batches writes."""
    steps: int = 200
    """Optimiser steps in all."""
    batch_size: int = 32
    """Samples per step over all processes."""
    checkpoint_every: int = 50
    max_world_size: int = 8
    """Every number of processes that divides this sees the same global batches."""
    num_workers: int = 0
    """Processes that load for each of them; whatever their number, the batches are the same."""
    log_batches: bool = False
    """Write which samples each step had, per rank."""


class Policy(nn.Module):
    """Image and state to a chunk of actions, all normalised by the dataset's statistics."""

    def __init__(self, meta: DatasetMeta) -> None:
        super().__init__()
        state_dim, action_dim = (
            meta.features["observation.state"]["shape"][0],
            meta.features["action"]["shape"][0],
        )
        self.vision = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5, stride=4),
            nn.ReLU(),
            nn.Flatten(),
        )
        height, width, channels = meta.features["observation.image"]["shape"]
        seen = self.vision(torch.zeros(1, channels, height, width)).shape[1]
        self.head = nn.Sequential(
            nn.Linear(seen + state_dim, 64),
            nn.ReLU(),
            nn.Linear(64, HORIZON * action_dim),
            nn.Unflatten(1, (HORIZON, action_dim)),
        )

    def forward(self, image: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 and (B, S) to (B, HORIZON, A)."""
        actions: torch.Tensor = self.head(
            torch.cat([self.vision(image.float() / 255 - 0.5), state], dim=1)
        )
        return actions


@dataclass
class Training:
    """All that a checkpoint holds."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    loader: Loader
    step: int = 0

    def save(self, path: Path) -> None:
        """Write the checkpoint so that it appears whole. One rank writes for all: the loader's state is the same."""
        temporary = path.with_suffix(".tmp")
        parts = {"policy": self.policy, "optimizer": self.optimizer, "loader": self.loader}
        torch.save(
            {"step": self.step} | {name: part.state_dict() for name, part in parts.items()},
            temporary,
        )
        temporary.replace(path)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint."""
        saved = torch.load(path, weights_only=True)
        self.policy.load_state_dict(saved["policy"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.loader.load_state_dict(saved["loader"])
        self.step = saved["step"]


def main() -> None:
    """Train, from the checkpoint if there is one."""
    options = tyro.cli(Options)
    if "RANK" in os.environ:  # under torchrun
        dist.init_process_group("gloo")
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    shards = options.shards or convert_bundled(options.output, rank)
    loader = make_loader(
        shards,
        batch_size=options.batch_size // world_size,
        cache_dir=options.cache_dir,
        max_world_size=options.max_world_size,
        num_workers=options.num_workers,
        delta_timestamps={"action": [i / 10 for i in range(HORIZON)]},
    )
    torch.manual_seed(0)  # the same initial weights on every rank
    policy = Policy(loader.meta)
    training = Training(policy, torch.optim.AdamW(policy.parameters(), lr=1e-3), loader)
    options.output.mkdir(parents=True, exist_ok=True)
    checkpoint = options.output / "checkpoint.pt"
    if checkpoint.exists():
        training.restore(checkpoint)
    train(training, options, rank)
    if dist.is_initialized():
        dist.destroy_process_group()


def train(training: Training, options: Options, rank: int) -> None:
    """Epoch after epoch until the last step."""
    model = DistributedDataParallel(training.policy) if dist.is_initialized() else training.policy
    statistics = training.loader.meta.stats
    while training.step < options.steps:
        for batch in training.loader:
            state = normalise(batch["observation.state"], statistics["observation.state"])
            target = normalise(batch["action"], statistics["action"])
            error = (model(batch["observation.image"], state) - target).square().mean(dim=-1)
            loss = error[~batch["action_is_pad"]].mean()
            training.optimizer.zero_grad()
            loss.backward()
            training.optimizer.step()
            training.step += 1
            log(options, rank, training.step, batch, loss.item())
            if rank == 0 and training.step % options.checkpoint_every == 0:
                training.save(options.output / "checkpoint.pt")
            if training.step == options.steps:
                return


def normalise(values: torch.Tensor, statistics: Mapping[str, np.ndarray[Any, Any]]) -> torch.Tensor:
    """To zero mean and unit deviation."""
    mean, deviation = (
        torch.as_tensor(statistics[name], dtype=torch.float32) for name in ("mean", "std")
    )
    return (values - mean) / deviation.clamp_min(1e-6)


def log(options: Options, rank: int, step: int, batch: dict[str, Any], loss: float) -> None:
    """Print the loss now and then; write the step's samples if asked to."""
    if rank == 0 and step % 10 == 0:
        print(f"step {step:5d}  loss {loss:.4f}", flush=True)
    if options.log_batches:
        with (options.output / f"batches-{rank}.jsonl").open("a") as file:
            file.write(
                json.dumps({"step": step, "index": batch["index"].tolist(), "loss": loss}) + "\n"
            )


def convert_bundled(output: Path, rank: int) -> str:
    """Convert the dataset that comes with the project; rank 0 does it, the others wait."""
    shards = output / "shards"
    if rank == 0:
        source = PROJECT / "tests" / "data" / "pusht_sim"
        convert(
            ConvertConfig(
                source=str(source), destination=str(shards), shard_size="200KB", workers=1
            )
        )
    if dist.is_initialized():
        dist.barrier()
    return str(shards)


if __name__ == "__main__":
    main()

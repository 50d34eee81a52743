"""Behaviour cloning with DDP: any number of nodes, checkpoints with the loader's place, resume.

    python examples/train_ddp.py                                     # one process
    torchrun --nproc-per-node 4 examples/train_ddp.py --steps 400    # four, on one machine
    torchrun --nnodes 8 --nproc-per-node 8 ... examples/train_ddp.py # docs/cluster.md
    torchrun --nproc-per-node 4 examples/train_ddp.py --dummy        # the loader alone

Run it again and it continues from its checkpoint, with any world size that divides
--max-world-size, and any number of workers: the global batches are the ones that the first run
would have had. Every rank says now and then how many frames arrive and how much of its time it
waits for them.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import tyro
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import DatasetMeta, Loader, make_loader
from roboshard.shards import ShardedDataset

PROJECT = Path(__file__).resolve().parent.parent
HORIZON = 8  # actions predicted at once


@dataclass(frozen=True)
class Options:
    """Train a small policy on a dataset's cameras and, if it has one, observation.state."""

    shards: str | None = None
    """A roboshard dataset: a folder, hf://buckets/…, s3://…; default: the bundled one,
    converted.
    """
    cache_dir: Path | None = None
    """Folder of each machine that keeps what was read of remote shards."""
    output: Path = PROJECT / "demo_output" / "train_ddp"
    """Folder that all nodes see: checkpoint.pt, speed-RANK.jsonl, and what --log-batches writes."""
    steps: int = 200
    """Optimiser steps in all."""
    batch_size: int = 32
    """Samples per step over all processes."""
    cameras: tuple[str, ...] = ()
    """Keys of the cameras to look at; default: all that are in colour."""
    image_size: tuple[int, int] | None = None
    """Height and width to which pictures are resized; default: as stored."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the policy is; of GPUs each process has its own. Default: cuda where there is one."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """How processes talk; default: nccl between GPUs, gloo otherwise."""
    checkpoint_every: int = 50
    log_every: int = 10
    """Steps from line to line, of each rank."""
    max_world_size: int = 8
    """Every number of processes that divides this sees the same global batches."""
    num_workers: int = 0
    """Processes that load for each of them; whatever their number, the batches are the same."""
    dummy: bool = False
    """Only take batches: no policy, no checkpoints."""
    log_batches: bool = False
    """Write which samples each step had, per rank."""


class Policy(nn.Module):
    """Pictures and state to a chunk of actions, all normalised by the dataset's statistics."""

    def __init__(self, meta: DatasetMeta, cameras: Sequence[str]) -> None:
        super().__init__()
        self._cameras = cameras
        state = meta.features.get("observation.state", {"shape": (0,)})
        state_dim, action_dim = state["shape"][0], meta.features["action"]["shape"][0]
        self.vision = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5, stride=4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),  # pictures of any size
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(16 * 4 * 4 * len(cameras) + state_dim, 64),
            nn.ReLU(),
            nn.Linear(64, HORIZON * action_dim),
            nn.Unflatten(1, (HORIZON, action_dim)),
        )

    def forward(self, images: Mapping[str, torch.Tensor], state: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) of each camera and (B, S) to (B, HORIZON, A)."""
        seen = [self.vision(as_float(images[camera]) - 0.5) for camera in self._cameras]
        actions: torch.Tensor = self.head(torch.cat([*seen, state], dim=1))
        return actions


@dataclass
class Training:
    """All that a checkpoint holds."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    loader: Loader
    step: int = 0

    def save(self, path: Path) -> None:
        """Write the checkpoint, which appears whole.

        One rank writes for all: they have one state.
        """
        temporary = path.with_suffix(".tmp")
        parts = {"policy": self.policy, "optimizer": self.optimizer, "loader": self.loader}
        torch.save(
            {"step": self.step} | {name: part.state_dict() for name, part in parts.items()},
            temporary,
        )
        temporary.replace(path)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint, of whatever number of processes and kind of device."""
        saved = torch.load(path, weights_only=True, map_location="cpu")
        self.policy.load_state_dict(saved["policy"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.loader.load_state_dict(saved["loader"])
        self.step = saved["step"]


class Speed:
    """How fast batches come, and for what share of the time this rank waits for them."""

    def __init__(self, options: Options, cameras: Sequence[str]) -> None:
        self._options, self._cameras = options, cameras
        self._begun, self._waited_s, self._frames = time.perf_counter(), 0.0, 0

    def watch(self, loader: Loader) -> Iterator[dict[str, Any]]:
        """Yield the batches of an epoch, and time the wait for each."""
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited_s += time.perf_counter() - asked
            if batch is None:
                return
            self._frames += sum(math.prod(batch[key].shape[:-3]) for key in self._cameras)
            yield batch

    def log(self, step: int) -> None:
        """Print and write what it was since the last line."""
        if step % self._options.log_every:
            return
        seconds = time.perf_counter() - self._begun
        found = {
            "step": step,
            "frames_per_s": round(self._frames / seconds, 1),
            "wait_share": round(self._waited_s / seconds, 4),
        }
        rank, world_size = ranks()
        print(
            f"rank {rank} of {world_size}  step {step:5d}  {found['frames_per_s']:,.0f} frames/s"
            f"  {found['wait_share']:.0%} waiting",
            flush=True,
        )
        append(self._options.output / f"speed-{rank}.jsonl", found)
        self._begun, self._waited_s, self._frames = time.perf_counter(), 0.0, 0


def main() -> None:
    """Train, from the checkpoint if there is one."""
    options = tyro.cli(Options)
    device = device_of(options)
    if "RANK" in os.environ:  # under torchrun
        chosen = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(chosen if options.backend == "auto" else options.backend)
    rank, world_size = ranks()
    shards = options.shards or convert_bundled(options.output, rank)
    meta = DatasetMeta(ShardedDataset.open(shards).manifest)
    cameras = options.cameras or tuple(
        key for key in meta.camera_keys if key not in meta.depth_keys
    )
    loader = make_loader(
        shards,
        batch_size=options.batch_size // world_size,
        cameras=cameras,
        image_size=options.image_size,
        device=str(device) if device.type == "cuda" else None,
        cache_dir=options.cache_dir,
        max_world_size=options.max_world_size,
        num_workers=options.num_workers,
        delta_timestamps={"action": [i / meta.fps for i in range(HORIZON)]},
    )
    options.output.mkdir(parents=True, exist_ok=True)
    speed = Speed(options, cameras)
    if options.dummy:
        take(loader, options, speed)
    else:
        train(prepare(loader, cameras, options, device), options, speed, device)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def device_of(options: Options) -> torch.device:
    """The device of this process: on a node with GPUs its own one of them."""
    wanted = options.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def ranks() -> tuple[int, int]:
    """(rank, world size) of this process."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def prepare(
    loader: Loader, cameras: Sequence[str], options: Options, device: torch.device
) -> Training:
    """A policy with the same initial weights on every rank, or the one of the checkpoint."""
    torch.manual_seed(0)
    policy = Policy(loader.meta, cameras).to(device)
    training = Training(policy, torch.optim.AdamW(policy.parameters(), lr=1e-3), loader)
    checkpoint = options.output / "checkpoint.pt"
    if checkpoint.exists():
        training.restore(checkpoint)
    return training


def take(loader: Loader, options: Options, speed: Speed) -> None:
    """Take the batches of all steps, and do nothing with them."""
    step = 0
    while step < options.steps:
        for batch in speed.watch(loader):
            step += 1
            log_batch(options, step, batch, None)
            speed.log(step)
            if step == options.steps:
                return


def train(training: Training, options: Options, speed: Speed, device: torch.device) -> None:
    """Epoch after epoch until the last step."""
    model: nn.Module = training.policy
    if dist.is_initialized():
        own = [device] if device.type == "cuda" else None
        model = DistributedDataParallel(model, device_ids=own)
    statistics, rank = training.loader.meta.stats, ranks()[0]
    while training.step < options.steps:
        for batch in speed.watch(training.loader):
            loss, for_all = losses(model, batch, statistics)
            training.optimizer.zero_grad()
            loss.backward()
            training.optimizer.step()
            training.step += 1
            log_batch(options, training.step, batch, for_all)
            if rank == 0 and training.step % options.log_every == 0:
                print(f"step {training.step:5d}  loss {for_all:.4f}", flush=True)
            speed.log(training.step)
            if rank == 0 and training.step % options.checkpoint_every == 0:
                training.save(options.output / "checkpoint.pt")
            if training.step == options.steps:
                return


def losses(
    model: nn.Module,
    batch: Mapping[str, torch.Tensor],
    statistics: Mapping[str, Mapping[str, np.ndarray[Any, Any]]],
) -> tuple[torch.Tensor, float]:
    """(what this rank has to minimise, the loss over all ranks).

    DDP takes the mean of the ranks' gradients. Padded actions do not count, and ranks have
    different numbers of them: divided by the number over all ranks, gradients are the same for any
    world size.
    """
    state = batch.get("observation.state")
    if state is None:
        state = batch["action"].new_zeros(len(batch["action"]), 0)
    else:
        state = normalise(state, statistics["observation.state"])
    target = normalise(batch["action"], statistics["action"])
    error = (model(batch, state) - target).square().mean(dim=-1)
    total = error[~batch["action_is_pad"]].sum()
    sums = torch.stack([total.detach(), (~batch["action_is_pad"]).sum().to(total.dtype)])
    if dist.is_initialized():
        dist.all_reduce(sums)
    over_all, number = sums.tolist()
    return total * ranks()[1] / number, over_all / number


def normalise(values: torch.Tensor, statistics: Mapping[str, np.ndarray[Any, Any]]) -> torch.Tensor:
    """To zero mean and unit deviation."""
    mean, deviation = (
        torch.as_tensor(statistics[name], dtype=torch.float32, device=values.device)
        for name in ("mean", "std")
    )
    return (values - mean) / deviation.clamp_min(1e-6)


def as_float(image: torch.Tensor) -> torch.Tensor:
    """Pixels in 0..1, of bytes or of what is that already."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def log_batch(options: Options, step: int, batch: Mapping[str, Any], loss: float | None) -> None:
    """Write the step's samples if asked to."""
    if options.log_batches:
        record = {"step": step, "index": batch["index"].tolist(), "loss": loss}
        append(options.output / f"batches-{ranks()[0]}.jsonl", record)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line of JSON."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


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

"""Contender: training LeRobot's ACT policy, fed by roboshard's loader or by LeRobot's own.

Runs in the environment of LeRobot 0.6.1's trainer. A batch counts when its step is done: forward,
backward, optimizer, on the device of the case. Beside throughput it reports how busy the GPU was in
the window, as nvidia-smi has it. Weights are random, and pictures are as the loader gives them:
only the time matters.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy

from window import measure_batches, read_case

CHUNK = 50  # actions that ACT predicts at once

Batch = dict[str, Any]


def main() -> None:
    """Make the loader and the policy, and measure steps."""
    case, timing = read_case()
    started = time.perf_counter()
    device = torch.device(case["device"])
    meta = LeRobotDatasetMetadata(f"local/{Path(case['source']).name}", root=case["source"])
    times = {"action": [step / meta.fps for step in range(CHUNK)]}
    batches = {"roboshard": of_roboshard, "lerobot": of_lerobot}[case["loader"]](case, times)
    print({name: version(name) for name in ("lerobot", "torch", "torchcodec")}, file=sys.stderr)
    usage = Usage() if device.type == "cuda" else None
    steps = train(policy_of(meta.features, case, device), batches, case, device)
    measure_batches(steps, case["cameras"], timing, started, usage)


def of_roboshard(case: Batch, times: dict[str, list[float]]) -> Iterator[Batch]:
    """Epoch after epoch of our loader."""
    from roboshard.loader import make_loader  # noqa: PLC0415 - importing is part of starting

    device = case["device"] if case["device"] != "cpu" else None
    loader = make_loader(
        case["shards"],
        batch_size=case["batch_size"],
        num_workers=case["num_workers"],
        delta_timestamps=times,
        drop_last=True,
        device=device,
        **case["keywords"],
    )
    while True:
        yield from loader


def of_lerobot(case: Batch, times: dict[str, list[float]]) -> Iterator[Batch]:
    """LeRobot's dataset in torch's DataLoader with bytes and page-locked memory, without an end."""
    root = Path(case["source"])
    dataset = LeRobotDataset(
        f"local/{root.name}", root=root, delta_timestamps=times, return_uint8=True
    )
    sampler = torch.utils.data.RandomSampler(dataset, num_samples=len(dataset) * 1_000_000)
    return iter(
        torch.utils.data.DataLoader(
            dataset,
            batch_size=case["batch_size"],
            sampler=sampler,
            num_workers=case["num_workers"],
            pin_memory=case["device"] != "cpu",
        )
    )


def policy_of(
    features: Mapping[str, Mapping[str, Any]], case: Batch, device: torch.device
) -> ACTPolicy:
    """ACT for these cameras, with its default sizes."""
    inputs = {
        "observation.state": PolicyFeature(
            FeatureType.STATE, features["observation.state"]["shape"]
        )
    }
    for camera in case["cameras"]:
        height, width, channels = features[camera]["shape"]
        inputs[camera] = PolicyFeature(FeatureType.VISUAL, (channels, height, width))
    action = PolicyFeature(FeatureType.ACTION, features["action"]["shape"])
    config = ACTConfig(
        input_features=inputs,
        output_features={"action": action},
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        pretrained_backbone_weights=None,
        device=str(device),
    )
    return ACTPolicy(config).to(device)


def train(
    policy: ACTPolicy, batches: Iterator[Batch], case: Batch, device: torch.device
) -> Iterator[Batch]:
    """Yield each batch when its step is done."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5)
    for batch in batches:
        there = {
            key: value.to(device, non_blocking=True)
            for key, value in batch.items()
            if isinstance(value, torch.Tensor)
        }
        for camera in case["cameras"]:
            there[camera] = there[camera].float() / 255
        optimizer.zero_grad()
        loss, _ = policy.forward(there)
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        yield batch


class Usage:
    """How busy the GPU is, in percent, while it is watched."""

    def __init__(self) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        command = [*query, "-lms", "200", "-i", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._found: list[tuple[float, float]] = []
        Thread(target=self._read, daemon=True).start()

    def begin(self) -> None:
        """Do nothing: times tell."""

    def since(self, begin: float) -> dict[str, float]:
        """Return the mean since a `time.perf_counter()`, and end the watch."""
        self._process.terminate()
        inside = [percent for when, percent in self._found if when >= begin]
        return {"gpu_percent": round(sum(inside) / len(inside), 1)} if inside else {}

    def _read(self) -> None:
        for line in self._process.stdout or ():
            if line.strip().isdigit():
                self._found.append((time.perf_counter(), float(line)))


if __name__ == "__main__":
    main()

"""Contender: map-style LeRobotDataset in torch's DataLoader, as LeRobot trains with it.

Runs in an environment of its own, with LeRobot 0.4.4 (float32 frames) or 0.6.1 (bytes, as its
trainer has them). LeRobot's own defaults otherwise: torchcodec. The sampler is an endless one: the
permutations of `shuffle=True` one after the other, without the restart of the worker processes at
each epoch's end, which a short dataset would make look more expensive than it is.
"""

import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from window import measure_batches, read_case

VERSIONS = ("lerobot", "torch", "torchcodec", "datasets", "av", "huggingface-hub")


def main() -> None:
    """Make the loader and measure it."""
    case, timing = read_case()
    started = time.perf_counter()
    import torch  # noqa: PLC0415 - importing is part of starting
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415

    source = Path(case["source"])
    options: dict[str, Any] = {"return_uint8": True} if case.get("return_uint8") else {}
    if case["window"] > 1:
        times = [step / case["fps"] for step in range(1 - case["window"], 1)]
        options["delta_timestamps"] = dict.fromkeys(case["cameras"], times)
    dataset = LeRobotDataset(repo_id=f"local/{source.name}", root=source, **options)
    sampler = torch.utils.data.RandomSampler(dataset, num_samples=len(dataset) * 1_000_000)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=case["batch_size"], sampler=sampler, num_workers=case["num_workers"]
    )
    found = {name: version(name) for name in VERSIONS}
    backend = getattr(dataset, "video_backend", None) or dataset._video_backend  # 0.4.4, 0.6.1
    print(f"{found}, video backend {backend}", file=sys.stderr)
    measure_batches(iter(loader), case["cameras"], timing, started)


if __name__ == "__main__":
    main()

"""Runs in LeRobot's own environment: datasets by its tools, and what LeRobot itself returns of
them.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def digest_of(sample: dict[str, Any]) -> str:
    """Of all keys and values; pictures as the bytes that they were."""
    import torch  # noqa: PLC0415

    found = hashlib.sha256()
    for key in sorted(sample):
        value = sample[key]
        if isinstance(value, torch.Tensor) and value.ndim >= 3 and value.is_floating_point():
            value = (value * 255).round().to(torch.uint8)
        found.update(key.encode())
        found.update(
            value.contiguous().numpy().tobytes()
            if isinstance(value, torch.Tensor)
            else str(value).encode()
        )
    return found.hexdigest()


def main() -> None:
    """Make datasets out of the one at `sys.argv[1]`, below `sys.argv[2]`; print name, folder and
    digests of each.
    """
    from lerobot.datasets import dataset_tools as tools  # noqa: PLC0415
    from lerobot.datasets.aggregate import aggregate_datasets  # noqa: PLC0415
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415

    source, output = Path(sys.argv[1]), Path(sys.argv[2])

    def opened(name: str, root: Path) -> Any:
        return LeRobotDataset(f"local/{name}", root=root, video_backend="torchcodec")

    whole = opened("whole", source)
    deleted = tools.delete_episodes(
        whole, [0, 3, 4, 9], output_dir=output / "deleted", repo_id="local/deleted"
    )
    parts = tools.split_dataset(
        whole, {"train": [0, 2, 5, 7], "val": [1, 11]}, output_dir=output / "split"
    )
    twice = tools.delete_episodes(
        parts["train"], [1], output_dir=output / "twice", repo_id="local/twice"
    )
    merged = tools.merge_datasets([deleted, whole], "local/merged", output_dir=output / "merged")
    roots = [source, output / "deleted"]
    aggregate_datasets(
        ["local/a", "local/b"], "local/aggregated", roots=roots, aggr_root=output / "aggregated"
    )
    made = {f"split_{name}": Path(part.root) for name, part in parts.items()} | {
        "deleted": Path(deleted.root),
        "twice": Path(twice.root),
        "merged": Path(merged.root),
        "aggregated": output / "aggregated",
    }
    for name, root in made.items():
        samples = opened(name, root)
        digests = [digest_of(samples[i]) for i in range(len(samples))]
        sys.stdout.write(json.dumps([name, str(root), digests]) + "\n")


if __name__ == "__main__":
    main()

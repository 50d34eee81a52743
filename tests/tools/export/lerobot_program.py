"""Runs in LeRobot's own environment: every sample of two datasets, with delta windows, must be
equal.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Print how many samples were compared."""
    import torch  # noqa: PLC0415
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415

    roots = sys.argv[1:]
    fps = json.loads((Path(roots[0]) / "meta/info.json").read_text())["fps"]
    compared = 0
    for windows in (None, [-2 / fps, 0.0, 1 / fps]):
        datasets: list[Any] = []
        for root in roots:
            features = json.loads((Path(root) / "meta/info.json").read_text())["features"]
            keys = [key for key in features if key.startswith(("observation", "action"))]
            deltas = windows and dict.fromkeys(keys, windows)
            dataset = LeRobotDataset(
                "local/it", root=root, delta_timestamps=deltas, video_backend="torchcodec"
            )
            datasets.append(dataset)
        source, exported = datasets
        assert len(source) == len(exported)
        assert source.meta.stats.keys() == exported.meta.stats.keys()
        assert source.meta.tasks.equals(exported.meta.tasks)
        for i in range(len(source)):
            expected, found = source[i], exported[i]
            assert expected.keys() == found.keys(), i
            for key, value in expected.items():
                same = (
                    torch.equal(value, found[key])
                    if isinstance(value, torch.Tensor)
                    else value == found[key]
                )
                assert same, (i, key)
            compared += 1
    sys.stdout.write(str(compared))


if __name__ == "__main__":
    main()

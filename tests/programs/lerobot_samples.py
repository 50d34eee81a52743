"""Runs in LeRobot's own environment: what LeRobot returns for every sample of datasets, stored or
held against it.

    python lerobot_samples.py record FOLDER ...            FOLDER/src -> FOLDER/expected.npz and expected.json
    python lerobot_samples.py compare FOLDER=DATASET ...   samples of DATASET against those stored in FOLDER;
                                                           =N after it: and N further ones
    python lerobot_samples.py compare_exactly ...          the same, where LeRobot's decoders seek exactly

Prints for each folder a line of JSON: its name, and None or how it failed. Pictures of cameras are
stored as the bytes that they were; depth maps as they come.
"""

import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def samples(root: Path) -> Iterator[dict[str, Any]]:
    """Each sample as map-style LeRobotDataset returns it, in order."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415

    dataset = LeRobotDataset("local/it", root=root, video_backend="torchcodec")
    for number in range(len(dataset)):
        yield dataset[number]


def seek_exactly() -> None:
    """Have decoders read a file through before they seek in it.

    LeRobot's do not, and then miss frames before a keyframe that come after it in the file, unless
    they come to them by reading on from the frame before.
    """
    from torchcodec import decoders  # noqa: PLC0415

    as_it_is = decoders.VideoDecoder
    decoders.VideoDecoder = lambda source, **options: as_it_is(
        source, **{**options, "seek_mode": "exact"}
    )


def as_stored(value: Any) -> Any:
    """A tensor as an array, pictures of cameras in levels of 255; anything else as it is."""
    import torch  # noqa: PLC0415

    if not isinstance(value, torch.Tensor):
        return value
    is_picture = value.ndim == 3 and value.is_floating_point() and len(value) == 3
    return (value * 255).round().to(torch.uint8).numpy() if is_picture else value.numpy()


def record(folder: Path) -> None:
    """Store the samples of the dataset in `src` beside it."""
    arrays: dict[str, Any] = {}
    others: list[dict[str, Any]] = []
    for number, sample in enumerate(samples(folder / "src")):
        stored = {key: as_stored(value) for key, value in sample.items()}
        of_sample = {k: v for k, v in stored.items() if isinstance(v, np.ndarray)}
        arrays |= {f"{number}|{key}": value for key, value in of_sample.items()}
        others.append({k: v for k, v in stored.items() if k not in of_sample})
    np.savez_compressed(folder / "expected.npz", **arrays)
    (folder / "expected.json").write_text(json.dumps(others, ensure_ascii=False), encoding="utf-8")


def compare(folder: Path, dataset: Path, num_further: int) -> None:
    """Hold each sample of a dataset against the stored one; it has so many more."""
    from support.cases import check_sample, read_samples  # noqa: PLC0415

    stored = read_samples(folder)
    found = list(samples(dataset))
    assert len(found) == len(stored) + num_further, (len(found), len(stored))
    for number, (sample, expected) in enumerate(zip(found, stored, strict=False)):
        try:
            check_sample(sample, expected)
        except AssertionError as error:
            raise AssertionError(f"sample {number}: {error}") from error


def main() -> None:
    """Do what `sys.argv` says for each folder."""
    if sys.argv[1] == "compare_exactly":
        seek_exactly()
    for argument in sys.argv[2:]:
        folder, _, dataset = argument.partition("=")
        dataset, _, num_further = dataset.partition("=")
        failure = None
        try:
            if sys.argv[1] == "record":
                record(Path(folder))
            else:
                compare(Path(folder), Path(dataset), int(num_further or 0))
        except Exception:  # noqa: BLE001 - whatever it is, it is said
            failure = traceback.format_exc(limit=-3)
        sys.stdout.write(json.dumps([folder, failure]) + "\n")


if __name__ == "__main__":
    main()

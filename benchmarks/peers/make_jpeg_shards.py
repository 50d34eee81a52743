"""Make WebDataset shards with one JPEG per frame and camera, the usual way to put images into
webdataset.

    python benchmarks/peers/make_jpeg_shards.py --shards ROBOSHARD_DATASET --destination FOLDER

A sample is a frame: `NUMBER.0.jpg`, `NUMBER.1.jpg`, ... in the order of the dataset's cameras, and
`NUMBER.json` with the row's other values.
"""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
import webdataset as wds
from PIL import Image

from roboshard.loader import make_loader


@dataclass(frozen=True)
class Options:
    """Make JPEG shards."""

    shards: str
    """A roboshard dataset."""
    destination: Path
    """A folder that does not exist yet."""
    quality: int = 95
    """Quality of the JPEGs, by PIL, with its default chroma subsampling."""
    samples_per_shard: int = 100
    """Samples in a shard: few, so that each worker has shards to shuffle."""


def main() -> None:
    """Decode every frame once, in order, and write it."""
    options = tyro.cli(Options)
    unfinished = options.destination.with_name(f"{options.destination.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    loader = make_loader(options.shards, shuffle=False, batch_size=None)
    pattern = str(unfinished / "jpeg-%06d.tar")
    with wds.ShardWriter(pattern, maxcount=options.samples_per_shard, verbose=0) as writer:
        for number, sample in enumerate(loader):
            writer.write(
                {
                    "__key__": f"{number:09d}",
                    **encode(sample, loader.meta.video_keys, options.quality),
                }
            )
    unfinished.rename(options.destination)


def encode(sample: dict[str, Any], cameras: tuple[str, ...], quality: int) -> dict[str, bytes]:
    """Return suffix -> payload of a sample in a tar file."""
    payloads = {
        f"{number}.jpg": to_jpeg(sample[camera], quality) for number, camera in enumerate(cameras)
    }
    rows = {key: value for key, value in sample.items() if key not in cameras}
    plain = {
        key: value.tolist() if isinstance(value, torch.Tensor) else value
        for key, value in rows.items()
    }
    return payloads | {"json": json.dumps(plain).encode()}


def to_jpeg(frame: torch.Tensor, quality: int) -> bytes:
    """(C, H, W) uint8 to a file."""
    buffer = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(
        buffer, "JPEG", quality=quality
    )
    return buffer.getvalue()


if __name__ == "__main__":
    main()

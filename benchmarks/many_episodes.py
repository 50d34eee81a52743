"""Time to the first batch, and memory over an epoch, of very many small episodes.

    python benchmarks/many_episodes.py

Writes datasets of copies of one small episode, one camera and a few rows each: 10,000 in one shard,
and 100,000 in a thousand. Then loads each in a process of its own, one row of every episode:
wall-clock and CPU time to the first batch from `make_loader` on, and memory after it, after each
quarter of the epoch, and at its peak, beyond what the process takes after its imports.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from report import print_result
from roboshard.converter import ConvertConfig, convert
from roboshard.shards import ShardedDataset
from roboshard.shards.manifest import write_dataset
from roboshard.shards.names import shard_manifest_name, shard_name
from roboshard.shards.schema import ShardManifest, document_bytes
from roboshard.shards.writer import ShardWriter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.lerobot_source import Camera, Source, build  # the sources that the tests use

LENGTH = 8
CAMERA = Camera(key="observation.images.top", gop=2, size=(32, 48))
CONSUMER = """
import itertools, json, resource, sys, time
import psutil
from roboshard.loader import make_loader

def memory():
    return round((psutil.Process().memory_info().rss - before) / 1e6, 1)

root, skipped = sys.argv[1], int(sys.argv[2])
before = psutil.Process().memory_info().rss
started, cpu = time.perf_counter(), time.process_time()
loader = make_loader(root, batch_size=64, drop_n_first_frames=skipped)
batches = iter(loader)
next(batches)
found = {"first_batch_s": round(time.perf_counter() - started, 3),
         "first_batch_cpu_s": round(time.process_time() - cpu, 3), "memory_mb": [memory()]}
for _ in range(4):
    for batch in itertools.islice(batches, len(loader) // 4):
        pass
    found["memory_mb"].append(memory())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
found["peak_mb"] = round((peak - before) / 1e6, 1)
found["cpu_s"] = round(time.process_time() - cpu, 1)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Options:
    """Measure loading very many small episodes."""

    shapes: tuple[str, ...] = ("10000x1", "100x1000")
    """Episodes in a shard x shards, of each dataset."""
    folder: Path | None = None
    """Where the datasets lie, and are used again; None: a temporary folder."""
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        shapes: dict[str, Any] = {}
        for shape in options.shapes:
            root = folder / shape
            if not root.exists():
                per_shard, shards = map(int, shape.split("x"))
                write_copies(folder, root, per_shard, shards)
            shapes[shape] = consumed(root)
    print_result("many_episodes", {"shapes": shapes}, options.output)


def write_copies(folder: Path, root: Path, per_shard: int, shards: int) -> None:
    """Write a dataset of copies of one episode."""
    template = folder / "template"
    if not template.exists():
        build(folder / "source", Source(lengths=(LENGTH,), cameras=(CAMERA,)))
        convert(ConvertConfig(source=str(folder / "source"), destination=str(template), workers=1))
    dataset = ShardedDataset.open(str(template))
    episode = dataset.read_episode(0)
    videos = {camera.member: bytes(episode.videos[camera.key]) for camera in episode.record.cameras}
    (root / "shards").mkdir(parents=True)
    manifests: list[ShardManifest] = []
    for number in range(shards):
        name = shard_name(number)
        with (root / name).open("wb") as file:
            writer = ShardWriter(file, shard=name, conversion=dataset.manifest.conversion.id)
            for index in range(number * per_shard, (number + 1) * per_shard):
                record = episode.record.model_copy(update={"episode_index": index})
                writer.add(record, bytes(episode.rows), videos)
            manifests.append(writer.finish())
        (root / shard_manifest_name(name)).write_bytes(document_bytes(manifests[-1]))
    write_dataset(root, dataset.manifest, manifests)


def consumed(root: Path) -> dict[str, Any]:
    """Load an epoch in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", CONSUMER, str(root), str(LENGTH - 1)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


if __name__ == "__main__":
    main()

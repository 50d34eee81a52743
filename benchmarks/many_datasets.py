"""What a step costs of a mixture of fifty datasets, beside one dataset of the same episodes.

    python benchmarks/many_datasets.py

Writes copies of the bundled dataset: one with all episodes, and fifty that share them. Then loads
each in a process of its own: time to open them, time and CPU time to the first batch, CPU time a
step beyond that, with pictures and without, and memory. Kinds of mixtures: alike, alike in batches
by dataset, and unlike (each part lacks features that others have, which are filled, and vectors are
padded). Processes take turns; of each the best of --runs counts, for others use the machine too.
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
from roboshard.shards.schema import document_bytes
from roboshard.shards.writer import ShardWriter

SOURCE = Path(__file__).resolve().parent.parent / "tests/data/pusht_sim"
CONSUMER = """
import json, resource, sys, time
import numpy as np
from roboshard.loader import Part, make_loader

roots, kind, pictures, steps = json.loads(sys.argv[1])
options = {"batch_size": 64, "decode_threads": 2}
options["delta_timestamps"] = {"action": [i / 10 for i in range(16)]}
options["cameras"] = None if pictures else []
data = roots[0] if len(roots) == 1 else [(root, "frames") for root in roots]
if kind == "by_dataset":
    options["batches"] = kind
if kind == "unlike":
    left_out = ("next.reward", "next.done", "next.success", "observation.state")
    data = [Part(root, "frames", rename={left_out[n % 4]: None}) for n, root in enumerate(roots)]
    options |= {"on_missing": "fill", "pad_to": {"action": 32, "observation.state": 32}}
started = time.perf_counter()
loader = make_loader(data, **options)
found = {"open_s": round(time.perf_counter() - started, 3)}
started, cpu = time.perf_counter(), time.process_time()
batches = iter(loader)
next(batches)
found["first_batch_s"] = round(time.perf_counter() - started, 3)
for _ in range(steps // 3):
    next(batches)
times = []
for _ in range(steps):
    before = time.process_time()
    next(batches)
    times.append(1000 * (time.process_time() - before))
found["step_ms"] = round(float(np.mean(times)), 2)
found["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
started = time.perf_counter()
loader.state_dict()
found["state_ms"] = round(1000 * (time.perf_counter() - started), 1)
print(json.dumps(found))
"""
KINDS = ("one", "alike", "by_dataset", "unlike")


@dataclass(frozen=True)
class Options:
    """Fifty datasets beside one."""

    datasets: int = 50
    steps: int = 300
    """Steps that are measured without pictures; a quarter as many are measured with them."""
    runs: int = 3
    folder: Path | None = None
    """Where the datasets lie, and are used again; None: a temporary folder."""
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        roots = write_datasets(folder, options.datasets)
        values: dict[str, Any] = {"datasets": options.datasets}
        for name, pictures in (("rows", False), ("pictures", True)):
            steps = options.steps // 4 if pictures else options.steps
            found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
            for _ in range(options.runs):
                for kind, runs in found.items():
                    runs.append(consumed(roots[kind], kind, pictures, steps))
            values[name] = {kind: best(runs) for kind, runs in found.items()}
    print_result("many_datasets", values, options.output)


def write_datasets(folder: Path, number: int) -> dict[str, list[str]]:
    """Kind -> roots: one dataset of as many copies of every episode as there are others."""
    template = folder / "template"
    if not template.exists():
        convert(ConvertConfig(source=str(SOURCE), destination=str(template), workers=1))
    parts = [folder / f"part-{i:03d}" for i in range(number)]
    for root, copies in ((folder / f"one-{number}", number), *((part, 1) for part in parts)):
        if not root.exists():
            write_copies(template, root, copies)
    names = [str(part) for part in parts]
    return {kind: [str(folder / f"one-{number}")] if kind == "one" else names for kind in KINDS}


def write_copies(template: Path, root: Path, copies: int) -> None:
    """Write a dataset of copies of all episodes of another one, a shard for each time."""
    dataset = ShardedDataset.open(str(template))
    count = len(dataset.index)
    (root / "shards").mkdir(parents=True)
    manifests = []
    for number in range(copies):
        name = shard_name(number)
        with (root / name).open("wb") as file:
            writer = ShardWriter(file, shard=name, conversion=dataset.manifest.conversion.id)
            for position in range(count):
                episode = dataset.read_episode(position)
                cameras = episode.record.cameras
                videos = {camera.member: bytes(episode.videos[camera.key]) for camera in cameras}
                index = {"episode_index": number * count + position}
                writer.add(episode.record.model_copy(update=index), bytes(episode.rows), videos)
            manifests.append(writer.finish())
        (root / shard_manifest_name(name)).write_bytes(document_bytes(manifests[-1]))
    write_dataset(root, dataset.manifest, manifests)


def consumed(roots: list[str], kind: str, pictures: bool, steps: int) -> dict[str, float]:
    """Load in a process of its own."""
    told = json.dumps([roots, kind, pictures, steps])
    command = [sys.executable, "-W", "ignore", "-c", CONSUMER, told]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the least of each number over all runs."""
    return {name: min(run[name] for run in runs) for name in runs[0]}


if __name__ == "__main__":
    main()

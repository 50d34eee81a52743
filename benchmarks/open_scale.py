"""Time and memory of opening a dataset of a million episodes in a hundred thousand shards.

    python benchmarks/open_scale.py

Writes dataset.json and the index of a dataset that has no shards, and opens it, locally and from an
HTTP server of this machine, in a process of its own each time: `ShardedDataset.open`, then
`make_loader`, then that and the first step of an epoch's plan. Memory is what a process takes at
its peak, and at the end, beyond what it takes after its imports. Last, a process that is given the
loader's job, as a worker is: the memory that is its own, and not shared with the others.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from report import print_result
from roboshard import storage
from roboshard.shards.documents import FileEntry
from roboshard.shards.index import INDEX_SCHEMA
from roboshard.shards.manifest import file_entry, seal
from roboshard.shards.names import DATASET_MANIFEST, EPISODE_INDEX, shard_manifest_name, shard_name
from roboshard.shards.schema import Conversion, Provenance, SourceInfo, document_bytes
from roboshard.shards.shard_list import ShardEntry

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.servers import RangeServer  # the servers that the tests use

OPENER = """
import json, resource, sys, time
import psutil
from roboshard.loader import make_loader
from roboshard.shards import ShardedDataset

def memory():
    return psutil.Process().memory_info().rss

url, what = sys.argv[1:]
before, started, cpu = memory(), time.perf_counter(), time.process_time()
if what == "dataset":
    found = ShardedDataset.open(url)
else:
    found = make_loader(url, batch_size=64, shuffle=True, cameras=[])
    if what == "worker":
        from multiprocessing import get_context
        from open_scale_worker import SharedPickle, take
        spawn = get_context("spawn")
        told = spawn.SimpleQueue()
        process = spawn.Process(target=take, args=(SharedPickle(found._job), told))
        process.start()
        print(json.dumps(told.get()))
        process.join()
        sys.exit()
    if what == "step":
        found._runner.plan(0).step(0, range(1))
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({
    "s": round(seconds, 2), "cpu_s": round(cpu, 2),
    "peak_mb": round((peak - before) / 1e6), "kept_mb": round((memory() - before) / 1e6),
}))
"""
LENGTH, SIZE = 200, 1 << 20
"""Rows and bytes of an episode."""
HASH = sha256(b"").hexdigest()


@dataclass(frozen=True)
class Options:
    """Measure the cost of opening at scale."""

    episodes: int = 1_000_000
    shards: int = 100_000
    latency_s: float = 0.05
    bytes_per_second: float = 100e6
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset(root, options.episodes, options.shards)
        values: dict[str, Any] = {
            "episodes": options.episodes,
            "shards": options.shards,
            "dataset_json_mb": round((root / DATASET_MANIFEST).stat().st_size / 1e6, 1),
            "index_mb": round((root / EPISODE_INDEX).stat().st_size / 1e6, 1),
        }
        for place, url in places(root, options):
            values[place] = {what: opened(url, what) for what in ("dataset", "loader", "step")}
        values["worker"] = opened(str(root), "worker")
    print_result("open_scale", values, options.output)


@contextmanager
def _served(root: Path, options: Options) -> Iterator[str]:
    with RangeServer(
        root, latency_s=options.latency_s, bytes_per_second=options.bytes_per_second
    ) as server:
        yield server.url


def places(root: Path, options: Options) -> Iterator[tuple[str, str]]:
    """Yield where the dataset lies, and its URL there."""
    yield "local", str(root)
    with _served(root, options) as url:
        yield "http", url


def opened(url: str, what: str) -> dict[str, float]:
    """Open it in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", OPENER, url, what]
    found = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": _python_path()},
    )
    return dict(json.loads(found.stdout))


def _python_path() -> str:
    """This folder first, for what a spawned process imports."""
    return os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


def write_dataset(root: Path, episodes: int, shards: int) -> None:
    """Write dataset.json and the index of a dataset whose shards are not there."""
    per_shard = episodes // shards
    features: dict[str, dict[str, Any]] = {
        "action": {"dtype": "float32", "shape": [7], "names": None},
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
    }
    provenance = Provenance(
        source=SourceInfo(
            name="synthetic", revision=None, codebase_version="v3.0", fingerprint=HASH
        ),
        conversion=Conversion(id=HASH, options={}, versions={}, num_shards=shards),
        fps=30.0,
        features=features,
        tasks=["a task"],
        info={"fps": 30, "features": features},
        stats=None,
    )
    numbers = np.arange(per_shard * shards)
    columns = {
        "episode_index": numbers,
        "length": np.full(len(numbers), LENGTH),
        "tasks": pa.array([["a task"]] * len(numbers), pa.list_(pa.string())),
        "shard": numbers // per_shard,
        "offset": numbers % per_shard * SIZE,
        "size": np.full(len(numbers), SIZE),
        "crc32c": np.random.default_rng(0).integers(0, 1 << 32, len(numbers)),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).cast(INDEX_SCHEMA), sink, compression="zstd")
    index = bytes(sink.getvalue())
    entries = [
        ShardEntry(
            name=shard_name(number),
            size=per_shard * SIZE,
            sha256=sha256(b"%d" % number).hexdigest(),
            episodes=per_shard,
            frames=per_shard * LENGTH,
            manifest=FileEntry(
                name=shard_manifest_name(shard_name(number)),
                size=700 * per_shard,
                sha256=sha256(b"manifest %d" % number).hexdigest(),
            ),
        )
        for number in range(shards)
    ]
    storage.write_bytes(root / EPISODE_INDEX, index)
    manifest = seal(provenance, entries, file_entry(EPISODE_INDEX, index))
    storage.write_bytes(root / DATASET_MANIFEST, document_bytes(manifest))


if __name__ == "__main__":
    main()

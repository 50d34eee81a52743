"""Training from object storage beside training from a local disk.

    python benchmarks/remote.py --shards DATASET

A server on this machine (tests/support/servers) serves the dataset over HTTP with a latency before
each reply and a limit to each connection's speed. Per order, a loader of the local folder and one
of the server take turns of `batches` batches, epoch after epoch, `runs` times over; ratios are of
turns of the same round. Before that, each loads its first batch in a fresh loader, and one whole
epoch is counted: bytes read over the bytes of its episodes, and requests an episode, manifests and
index included.

    python benchmarks/remote.py --warm --shards DATASET

From the second epoch on, at default settings: per frame order and number of workers, a loader of
each plays a whole epoch, which is counted and timed, and then they take turns in the epochs that
follow. Bytes are counted to the end.
"""

import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
import tyro

from report import print_result
from roboshard.loader import Loader, make_loader
from roboshard.loader.config import FrameOrder
from roboshard.shards import ShardedDataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.servers import RangeServer  # the servers that the tests use

EpisodeOrder = Literal["global", "shard"]
EPISODE_ORDERS: tuple[EpisodeOrder, ...] = get_args(EpisodeOrder)


@dataclass(frozen=True)
class Options:
    """Measure training from remote beside local shards."""

    shards: str
    """A roboshard dataset in a local folder."""
    latency_ms: float = 50.0
    mb_per_s: float = 100.0
    """Megabytes a second of one connection."""
    batch_size: int = 64
    pool_episodes: int = 4
    """A quarter of a small dataset's episodes, so that there is something to read ahead; 0: the
    default.
    """
    num_workers: tuple[int, ...] = (0,)
    count: bool = True
    """Count what a whole epoch reads. Of a large dataset that takes long."""
    warm: bool = False
    """Measure from the second epoch on, with pools of the default size."""
    frame_orders: tuple[FrameOrder, ...] = ("uniform", "sweep")
    """Frame orders that are measured with --warm; otherwise it is sweep."""
    batches: int = 24
    runs: int = 5
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    values: dict[str, Any] = {
        "latency_ms": options.latency_ms,
        "mb_per_s_per_connection": options.mb_per_s,
    }
    with served(options) as server:
        values |= warm(options, server) if options.warm else cold(options, server)
    print_result("remote_warm" if options.warm else "remote", values, options.output)


def served(options: Options) -> RangeServer:
    """Return a server of the dataset behind a slow network."""
    return RangeServer(
        Path(options.shards),
        latency_s=options.latency_ms / 1000,
        bytes_per_second=options.mb_per_s * 1e6,
    )


def cold(options: Options, server: RangeServer) -> dict[str, Any]:
    """First batches, an epoch that is counted, and turns after a few batches."""
    values: dict[str, Any] = {}
    for order in EPISODE_ORDERS:
        values[order] = counted(options, server, order) if options.count else {}
        for num_workers in options.num_workers:
            name = order if not num_workers else f"{order}_workers_{num_workers}"
            values.setdefault(name, {}).update(raced(options, server.url, order, num_workers))
    return values


def warm(options: Options, server: RangeServer) -> dict[str, Any]:
    """Turns from the second epoch on."""
    needed = int(ShardedDataset.open(options.shards).index.size.sum())
    cases = {
        f"{frame_order}_workers_{num_workers}": after_an_epoch(
            options, server, frame_order, num_workers, needed
        )
        for frame_order in options.frame_orders
        for num_workers in options.num_workers
    }
    return {"bytes_needed": needed, "cases": cases}


def after_an_epoch(
    options: Options, server: RangeServer, frame_order: FrameOrder, num_workers: int, needed: int
) -> dict[str, Any]:
    """Load one epoch of each loader, then take turns in those that follow; return what was
    measured.
    """
    server.reset()
    loaders: dict[str, Loader] = {}
    epoch_s: dict[str, float] = {}
    for name, root in {"local": options.shards, "remote": server.url}.items():
        started = time.perf_counter()
        loaders[name] = make_loader(
            root,
            batch_size=options.batch_size,
            frame_order=frame_order,
            num_workers=num_workers,
            drop_last=True,
        )
        for _ in loaders[name]:
            pass
        epoch_s[name] = round(time.perf_counter() - started, 1)
    sent = server.bytes_sent
    turns = in_turn(options, {name: endless(loader) for name, loader in loaders.items()})
    found = turns | {
        "pool_episodes": loaders["remote"]._job.config.order.pool_episodes,
        "first_epoch_s": epoch_s,
        "bytes_over_needed": round(sent / needed, 3),
        "bytes_over_needed_at_the_end": round(server.bytes_sent / needed, 3),
    }
    for loader in loaders.values():
        loader.close()
    return found


def counted(options: Options, server: RangeServer, order: EpisodeOrder) -> dict[str, Any]:
    """Return what one epoch reads, from opening the dataset on."""
    server.reset()
    loader = make(options, server.url, order)
    for _ in loader:
        pass
    sent, requests, stats = server.bytes_sent, len(server.requests), loader.stats()
    needed = int(loader._job.dataset.index.size.sum())
    return {
        "bytes_needed": needed,
        "bytes_over_needed": round(sent / needed, 3),
        "requests_per_episode": round(requests / stats.episodes_read, 2),
    }


def raced(options: Options, url: str, order: EpisodeOrder, num_workers: int) -> dict[str, Any]:
    """Throughput of both, in turn, and how long each takes to its first batch."""
    first: dict[str, list[float]] = {"local": [], "remote": []}
    roots = {"local": options.shards, "remote": url}
    for _ in range(options.runs):
        for name, root in roots.items():
            started = time.perf_counter()
            next(iter(make(options, root, order, num_workers)))
            first[name].append(time.perf_counter() - started)
    batches = {
        name: endless(make(options, root, order, num_workers)) for name, root in roots.items()
    }
    turns = in_turn(options, batches)
    for name in roots:
        turns[name]["first_batch_s"] = round(statistics.median(first[name]), 2)
    return turns


def in_turn(options: Options, batches: Mapping[str, Iterator[Any]]) -> dict[str, Any]:
    """Speed of each over some turns, and the median of their ratios."""
    speed: dict[str, list[float]] = {name: [] for name in batches}
    cpu: dict[str, list[float]] = {name: [] for name in batches}
    for coming in batches.values():
        take(coming, options.batches)
    for _ in range(options.runs):
        for name, coming in batches.items():
            before = cpu_seconds()
            speed[name].append(options.batches * options.batch_size / take(coming, options.batches))
            cpu[name].append(cpu_seconds() - before)
    ratios = [remote / local for local, remote in zip(speed["local"], speed["remote"], strict=True)]
    found: dict[str, Any] = {
        name: {
            "samples_per_s": round(statistics.median(runs)),
            "runs": [round(samples) for samples in runs],
        }
        for name, runs in speed.items()
    }
    costs = [local / remote for local, remote in zip(cpu["local"], cpu["remote"], strict=True)]
    return found | {
        "remote_over_local": round(statistics.median(ratios), 3),
        "local_cpu_over_remote_cpu": round(statistics.median(costs), 3),
    }


def cpu_seconds() -> float:
    """CPU time of this process and its workers so far, the server's threads included."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(found.user + found.system for found in times)


def make(options: Options, root: str, order: EpisodeOrder, num_workers: int = 0) -> Loader:
    """A loader that decodes as little as it can, so that reading shows."""
    return make_loader(
        root,
        batch_size=options.batch_size,
        pool_episodes=options.pool_episodes or None,
        num_workers=num_workers,
        episode_order=order,
        frame_order="sweep",
        drop_last=True,
    )


def endless(loader: Loader) -> Iterator[Any]:
    """Batches, epoch after epoch."""
    while True:
        yield from loader


def take(batches: Iterator[Any], number: int) -> float:
    """Seconds for `number` batches, with those already decoded ahead taken first."""
    for _ in range(2):
        next(batches)
    started = time.perf_counter()
    for _ in range(number):
        next(batches)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

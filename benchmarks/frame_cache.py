"""Epochs out of a frame cache, beside decoding, and beside a copy of the same tensors.

    python benchmarks/frame_cache.py --shards DATASET [--image-size 224 224]

A loader without and one with a frame cache take turns, round by round, for some batches each; so
does a plain copy of batches as large from memory to memory, by as many threads as decode. The
batches of both loaders are held against each other before, byte by byte. Prints frames/s, medians
over the rounds, and ratios, taken round by round. `--frame-cache-dir` measures a folder, which may
be filled from before.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from report import print_result
from roboshard.common.cores import usable_cores
from roboshard.loader import Loader, make_loader

COPIED_BATCHES = 16
"""Different ones, so that they are not in the cores' caches."""


@dataclass(frozen=True)
class Options:
    """A frame cache, beside decoding and copying."""

    shards: str
    """A roboshard dataset."""
    image_size: tuple[int, int] = (224, 224)
    batch_size: int = 64
    num_workers: int = 0
    decode_threads: int | None = None
    frame_cache: str = "8GB"
    frame_cache_dir: Path | None = None
    return_uint8: bool = True
    frame_order: str = "uniform"
    num_episodes: int | None = None
    """Load only so many episodes, the dataset's first ones; None: all."""
    memory_bytes: int | None = None
    """Bytes of the loader's memory; with less than the dataset takes, episodes are read again each
    epoch.
    """
    runs: int = 5
    """Rounds in which the contenders take turns."""
    window_s: float = 3.0
    """Seconds of each turn."""
    output: Path | None = None
    """Write the JSON to this file too."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    plain, cached = made(options), made(options, cached=True)
    first_epoch = fill(plain, cached)
    shape, frames_a_batch = batch_shape(cached)
    turns = {
        "decode": taking(plain, frames_a_batch),
        "frame_cache": taking(cached, frames_a_batch),
        "copy": copying(shape, options, frames_a_batch),
    }
    for name in ("frame_cache", "frame_cache", "copy"):  # an epoch each to have touched all memory
        turns[name](options.window_s)
    rounds = [
        {name: turn(options.window_s) for name, turn in turns.items()} for _ in range(options.runs)
    ]
    stats = cached.stats()
    values: dict[str, Any] = {
        "batch": list(shape),
        "first_epoch_s": first_epoch,
        "bytes_kept": stats.frame_cache_bytes_written,
        "rounds": [{name: round(rate) for name, rate in found.items()} for found in rounds],
        "frames_per_s": {
            name: round(statistics.median(found[name] for found in rounds)) for name in turns
        },
        "ratios": {
            f"frame_cache / {other}": ratio(rounds, "frame_cache", other)
            for other in ("decode", "copy")
        },
    }
    print_result("frame_cache", values, options.output)
    plain.close()
    cached.close()


def made(options: Options, *, cached: bool = False) -> Loader:
    """A loader, with a frame cache or without."""
    kept = {"frame_cache": options.frame_cache, "frame_cache_dir": options.frame_cache_dir}
    names = ("image_size", "batch_size", "num_workers", "decode_threads", "return_uint8")
    told: dict[str, Any] = {name: getattr(options, name) for name in names}
    return make_loader(
        options.shards,
        frame_order=options.frame_order,  # type: ignore[arg-type]
        episodes=None if options.num_episodes is None else range(options.num_episodes),
        memory_bytes=options.memory_bytes,
        **told,
        **(kept if cached else {}),
    )


def fill(plain: Loader, cached: Loader) -> dict[str, float]:
    """Load the first epoch with each, and the second one held against each other; seconds of the
    first.
    """
    seconds = {}
    for name, loader in (("decode", plain), ("frame_cache", cached)):
        started = time.perf_counter()
        for _ in loader:
            pass
        seconds[name] = round(time.perf_counter() - started, 2)
    for one, other in zip(plain, cached, strict=True):
        for key, value in one.items():
            same = torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key]
            if not same:
                raise SystemExit(f"{key} differs with a frame cache")
    return seconds


def batch_shape(loader: Loader) -> tuple[tuple[int, ...], int]:
    """Return shape and type of a batch's pictures as one tensor, and how many there are."""
    batch = next(iter(loader))
    loader.close()
    pictures = [batch[key] for key in (*loader.meta.camera_keys,)]
    height, width = pictures[0].shape[-2:]
    frames = sum(picture.numel() // (3 * height * width) for picture in pictures)
    return (frames, height, width, 3 * pictures[0].element_size()), frames


def taking(loader: Loader, frames_a_batch: int) -> Callable[[float], float]:
    """Return a function that takes batches of epoch after epoch, for some seconds at a time."""
    batches: Iterator[Any] = itertools.chain.from_iterable(itertools.repeat(loader))

    def turn(seconds: float) -> float:
        next(batches)  # what was made ahead while the others had their turns
        for _ in range(8):
            next(batches)
        started, number = time.perf_counter(), 0
        while time.perf_counter() < started + seconds:
            next(batches)
            number += 1
        return number * frames_a_batch / (time.perf_counter() - started)

    return turn


def copying(
    shape: tuple[int, ...], options: Options, frames_a_batch: int
) -> Callable[[float], float]:
    """Return a function that copies such batches in memory that is there, each thread its part of
    every batch.
    """
    threads = options.decode_threads or usable_cores()
    pool = ThreadPoolExecutor(threads)
    sources = [torch.randint(0, 255, shape, dtype=torch.uint8) for _ in range(COPIED_BATCHES)]
    targets = [torch.zeros(shape, dtype=torch.uint8) for _ in range(4)]
    edges = [shape[0] * number // threads for number in range(threads + 1)]
    parts = [slice(*pair) for pair in itertools.pairwise(edges)]

    def copy(batch: int, part: slice) -> None:
        targets[batch % 4][part].copy_(sources[batch % COPIED_BATCHES][part])

    def turn(seconds: float) -> float:
        started, number = time.perf_counter(), 0
        while time.perf_counter() < started + seconds:
            list(pool.map(copy, itertools.repeat(number), parts))
            number += 1
        return number * frames_a_batch / (time.perf_counter() - started)

    return turn


def ratio(rounds: list[dict[str, float]], one: str, other: str) -> dict[str, float]:
    """Median and range of a ratio, round by round."""
    ratios = [found[one] / found[other] for found in rounds]
    return {
        "median": round(statistics.median(ratios), 2),
        "least": round(min(ratios), 2),
        "most": round(max(ratios), 2),
    }


if __name__ == "__main__":
    main()

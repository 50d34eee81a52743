"""Speed and memory of a conversion, beside copying and hashing the same bytes.

    python benchmarks/conversion.py --source DATASET

repeats a local LeRobot v3 dataset to --size, then alternates two programs over it: `cp -r` followed
by `sha256sum` of the copy, and `convert-to-shards`. Both have read the source before (page cache
warm). Prints each run, medians and the ratio as JSON; throughput is bytes of the source over
wall-clock seconds.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro

from repeat import repeat_dataset
from report import print_result

CONVERT = Path(sys.executable).with_name("convert-to-shards")
POLL_S = 0.05


@dataclass(frozen=True)
class Options:
    """Conversion against copy and hash."""

    source: Path
    """A local LeRobot v3 dataset."""
    size: int = 1_000_000_000
    """Bytes of the repeated dataset."""
    runs: int = 5
    shard_size: str = "256MB"
    workers: int | None = None
    output: Path | None = None
    """Write the JSON to this file too."""
    folder: Path | None = None
    """Where to work; default: the system's temporary folder."""


@dataclass(frozen=True)
class Run:
    """One run of a program."""

    seconds: float
    peak_rss: int
    """Largest sum over the processes of the program, in bytes."""


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        work = Path(folder)
        small, large = work / "quarter" / "dataset", work / "whole" / "dataset"
        repeat_dataset(options.source, small, options.size // 4)
        whole_bytes = repeat_dataset(options.source, large, options.size)
        copies, conversions = [], []
        for _ in range(options.runs + 1):
            copies.append(_copy_and_hash(large, work / "copy"))
            conversions.append(_convert(large, work / "shards", options))
        quarter = _convert(small, work / "shards", options)
    copies, conversions = copies[1:], conversions[1:]  # the first of each warms the page cache
    values = {
        "source_bytes": whole_bytes,
        "copy_and_hash_s": [round(run.seconds, 2) for run in copies],
        "convert_s": [round(run.seconds, 2) for run in conversions],
        "copy_and_hash_mb_per_s": round(
            whole_bytes / 1e6 / statistics.median(run.seconds for run in copies)
        ),
        "convert_mb_per_s": round(
            whole_bytes / 1e6 / statistics.median(run.seconds for run in conversions)
        ),
        "throughput_over_copy_and_hash": round(
            statistics.median(
                a.seconds / b.seconds for a, b in zip(copies, conversions, strict=True)
            ),
            2,
        ),
        "peak_rss_mb": round(max(run.peak_rss for run in conversions) / 1e6),
        "peak_rss_mb_of_a_quarter_of_the_data": round(quarter.peak_rss / 1e6),
    }
    print_result("conversion", values, options.output)


def _copy_and_hash(source: Path, destination: Path) -> Run:
    hashes = f"find '{destination}' -type f -print0 | xargs -0 sha256sum"
    command = f"cp -r '{source}' '{destination}' && {hashes}"
    return _measure(["sh", "-c", command], destination)


def _convert(source: Path, destination: Path, options: Options) -> Run:
    command = [str(CONVERT), str(source), str(destination), "--shard-size", options.shard_size]
    command += ["--workers", str(options.workers)] if options.workers else []
    return _measure(command, destination)


def _measure(command: list[str], produced: Path) -> Run:
    """Run a program, watch the memory of its process tree, and remove what it produced."""
    subprocess.run(
        ["sync"], check=True
    )  # what an earlier run left to be written is not this one's work
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _tree_rss(process.pid))
        time.sleep(POLL_S)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with exit code {process.returncode}")
    shutil.rmtree(produced)
    return Run(seconds, peak)


def _tree_rss(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


if __name__ == "__main__":
    main()

"""Run every benchmark on the data that benchmarks/data.py records, one after the other.

    python benchmarks/run_all.py                          # hours, on a machine that rests
    python benchmarks/run_all.py --quick                  # minutes: does everything work?
    python benchmarks/run_all.py --only 'peers_*' loading
    python benchmarks/run_all.py --list

Each writes benchmarks/results/NAME.json, from which publish.py fills the pages; with --quick they
are left in bench_data/quick/results. One that fails does not keep the others from running: it is
named at the end.
"""

import fnmatch
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from peer_environments import PROJECT

LARGE, MIDDLE, SMALL = "{data}/aloha_480x640", "{data}/aloha_256x256", "{data}/pusht_96x96"
MANY = "{data}/aloha_256x256_many"
BOTH = (
    "--source {0} --shards {0}_shards"
    " --long-gop-source {0}_gop250 --long-gop-shards {0}_gop250_shards"
)
LOADING = "loading.py --source {0} --shards {0}_shards"

BENCHMARKS: dict[str, str] = {
    **{
        name: f"{LOADING.format(data)} --runs 5 --window-s 6 --warmup-s 6 --min-epochs 2"
        " --turn-s 0.5"
        for name, data in (
            ("loading", LARGE),
            ("loading_256x256", MIDDLE),
            ("loading_96x96", SMALL),
        )
    },
    "loading_many": f"loading.py --shards {MANY}_shards --runs 5 --window-s 10 --warmup-s 20"
    " --turn-s 0.5"
    " --cases torchcodec_sequential 'roboshard_*_workers_2' roboshard_sweep roboshard_uniform",
    "long_gop": f"loading.py {BOTH.format(LARGE)} --cases 'long_gop_*' --runs 5 --window-s 4"
    " --warmup-s 1",
    **{
        f"peers_{size}": f"loading.py {BOTH.format(data)} --cases '*torchcodec_sequential' "
        "'peers_*' --runs 5 --window-s 4 --warmup-s 4"
        for size, data in (("480x640", LARGE), ("256x256", MIDDLE), ("96x96", SMALL))
    },
    "matrix": LOADING.format(LARGE) + " --cases torchcodec_sequential 'matrix_source_*' --runs 3"
    " --window-s 2.5 --warmup-s 3",
    "consumer": f"consumer.py --shards {LARGE}_shards --batches 24 --runs 9",
    "steady": f"steady.py --shards {LARGE}_shards --num-episodes 1 --batch-size 16",
    "frame_cache": f"frame_cache.py --shards {LARGE}_shards --runs 5 --window-s 2",
    "profile_loading": "profile_loading.py --seconds 8"
    f" --shards {LARGE}_shards {MIDDLE}_shards {SMALL}_shards",
    "resume_cost": f"resume_cost.py --shards {LARGE}_shards --runs 5",
    "remote": f"remote.py --shards {LARGE}_shards --batches 12",
    "remote_warm": f"remote.py --warm --num-workers 0 4 --batches 100 --shards {SMALL}_shards",
    "conversion": f"conversion.py --source {LARGE} --runs 5",
    "shuffle_quality": f"shuffle_quality.py --shards {LARGE}_shards"
    " --chart docs/pictures/shuffle.png",
    "plan_scale": "plan_scale.py",
    "open_scale": "open_scale.py",
    "many_datasets": "many_datasets.py --runs 4",
    "many_episodes": "many_episodes.py",
    "memory": f"memory.py --source {LARGE}",
    "worker_start": f"worker_start.py --runs 5 --shards {SMALL}_shards",
    "worker_cost": f"worker_cost.py --rounds 3 --shards {SMALL}_shards {SMALL}_gop250_shards",
}
"""Name of the result -> program of this folder and its options."""

QUICK: dict[str, str] = {
    **dict.fromkeys(
        (
            *("loading", "loading_256x256", "loading_96x96", "loading_many", "long_gop"),
            *("peers_480x640", "peers_256x256", "peers_96x96"),
        ),
        "--runs 1 --window-s 0.5 --warmup-s 0.5 --min-batches 2 --min-epochs 0",
    ),
    "matrix": "--runs 1 --window-s 0.5 --warmup-s 0.5 --min-batches 2"
    " --cases torchcodec_sequential '*_source_*_default'",
    "consumer": "--batches 4 --runs 1",
    "steady": "--epochs 3",
    "frame_cache": "--runs 1 --window-s 0.5",
    "profile_loading": "--seconds 2",
    "resume_cost": "--runs 1 --batch-size 16 --pool-episodes 2",
    "remote": "--batches 2 --runs 1 --latency-ms 5",
    "remote_warm": "--num-workers 0 --frame-orders uniform --batches 2 --runs 1 --latency-ms 5",
    "conversion": "--size 10000000 --runs 1",
    "shuffle_quality": "--copies 12 --ranks 1 8 --workers 0 2 --pools 4 16 --epochs 1"
    " --chart {data}/shuffle.png",
    "plan_scale": "--episodes 1000 --frames 1000 --seeks 10",
    "open_scale": "--episodes 1000 --shards 100",
    "many_datasets": "--datasets 4 --steps 5 --runs 1",
    "many_episodes": "--shapes 100x1 10x10",
    "memory": "--episodes 8 --steps 4 --pools 2 4",
    "worker_start": "--num-workers 0 1 --batch-size 8 --steps 2 --runs 1",
    "worker_cost": "--num-workers 0 1 --pools 0 --warm-up 2 --steps 4 --batch-size 8",
}
"""What is set otherwise for a quick look."""


@dataclass(frozen=True)
class Options:
    """Run every benchmark."""

    only: tuple[str, ...] = ()
    """Names or patterns of benchmarks; default: all."""
    quick: bool = False
    """Run on the small data of `data.py --quick`, for a moment each."""
    list: bool = False
    """Print the commands and end."""
    data: Path | None = None
    """Folder that data.py filled; default: bench_data, or bench_data/quick."""
    results: Path | None = None
    """Folder for results; default: benchmarks/results, or bench_data/quick/results."""


def main() -> None:
    """Run what is asked for; exit code 1 if one failed."""
    options = tyro.cli(Options)
    data = options.data or Path("bench_data/quick" if options.quick else "bench_data")
    results = options.results or (data / "results" if options.quick else Path("benchmarks/results"))
    commands = {
        name: [*command(name, data, quick=options.quick), "--output", f"{results}/{name}.json"]
        for name in chosen(options.only)
    }
    if options.list:
        print("\n".join(shlex.join(["python", *each]) for each in commands.values()))
        return
    failed = []
    for number, (name, words) in enumerate(commands.items(), 1):
        print(f"[{number}/{len(commands)}] {shlex.join(['python', *words])}", flush=True)
        done = subprocess.run(
            [sys.executable, *words], check=False, cwd=PROJECT, stdout=subprocess.DEVNULL
        )
        failed += [name] if done.returncode else []
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    print(f"results are in {results}; python benchmarks/publish.py puts them into the pages")


def chosen(patterns: tuple[str, ...]) -> list[str]:
    """Names of benchmarks that a pattern fits, or all; SystemExit for a pattern that fits none."""
    if lost := [one for one in patterns if not fnmatch.filter(BENCHMARKS, one)]:
        raise SystemExit(f"no benchmark is called {', '.join(lost)}; see --list")
    return [
        name
        for name in BENCHMARKS
        if not patterns or any(fnmatch.fnmatchcase(name, one) for one in patterns)
    ]


def command(name: str, data: Path, *, quick: bool) -> list[str]:
    """Program and options of a benchmark; the last of equal options counts."""
    text = f"benchmarks/{BENCHMARKS[name]} {QUICK[name] if quick else ''}"
    return shlex.split(text.replace("{data}", str(data)))


if __name__ == "__main__":
    main()

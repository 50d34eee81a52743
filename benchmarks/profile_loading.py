"""Where a loader's time goes, by sampling its threads.

    python benchmarks/profile_loading.py --shards DATASET [DATASET ...]

Takes batches in a process of its own while py-spy looks at it `rate` times a second, once at
whatever runs and once at who holds the interpreter's lock. Prints shares of the threads' busy
samples per stage, for both frame orders, and the share of wall-clock time in which the lock was
held: over the frames that were loaded meanwhile, the microseconds of it that each takes.
`--flame-graph FOLDER` keeps py-spy's pictures.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from contenders import stream
from report import print_result

CONSUMER = """
import itertools, sys, time
from roboshard.loader import make_loader
shards, order, warm_up_s, seconds = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])
loader = make_loader(shards, batch_size=64, frame_order=order, drop_last=True)
epochs = itertools.chain.from_iterable(itertools.repeat(loader))

def frames_by(until):
    for _ in itertools.takewhile(lambda _: time.monotonic() < until, epochs):
        pass
    return loader.stats().frames_used

for _ in itertools.islice(epochs, 2 * len(loader)):
    pass
before = frames_by(time.monotonic() + warm_up_s)
print("warm", flush=True)
began = time.monotonic()
found = frames_by(began + seconds)
print((found - before) / (time.monotonic() - began))
"""
WARM_UP_S = 2
"""After two epochs: in the first one episodes are read, and in the second one pictures begin to be
kept from one epoch for the next.
"""
MARGIN_S = 5
"""The consumer goes on for so much longer than it is looked at."""
ORDERS = ("sweep", "uniform")
STAGES = {
    # innermost function of ours on the stack -> what it is
    "feed": "decode: PyAV and FFmpeg",
    "drain": "decode: PyAV and FFmpeg",
    "_convert": "convert to RGB in the batch",
    "lend": "lend memory for a batch",
    "open_decoder": "open a slice",
    "take": "choose what to decode, and with which codec",
    "_decode": "Python around each frame",
    "owned_copy": "keep a picture for a later step",
    "announce": "hand in requests",
    "begin": "hand in requests",
    "requests_of": "hand in requests",
    "_windowed": "rows and windows",
    "step": "draw and fetch",
    "steps": "draw and fetch",
    "expect": "draw and fetch",
    "_read": "read and verify",
    "read_episodes": "read and verify",
}


@dataclass(frozen=True)
class Options:
    """Profile loading."""

    shards: tuple[str, ...]
    """roboshard datasets."""
    seconds: int = 12
    rate: int = 200
    flame_graph: Path | None = None
    """Folder for flame graphs, one per dataset and order."""
    output: Path | None = None
    """Write the JSON to this file too."""


@dataclass(frozen=True)
class Sampled:
    """A consumer that was looked at."""

    stacks: Counter[str]
    """Stack -> how many samples saw it."""
    frames_per_s: float


def main() -> None:
    """Measure, and print the result as JSON."""
    options = tyro.cli(Options)
    values: dict[str, Any] = {"seconds": options.seconds, "rate": options.rate}
    values["datasets"] = {
        Path(shards).name.removesuffix("_shards"): {
            order: profile(options, shards, order) for order in ORDERS
        }
        for shards in options.shards
    }
    print_result("profile_loading", values, options.output)


def profile(options: Options, shards: str, order: str) -> dict[str, Any]:
    """Where the time goes as one dataset is loaded in one order."""
    looks = options.seconds * options.rate
    busy = stages(sampled(options, shards, order, ["--format", "raw"]).stacks)
    locked = sampled(options, shards, order, ["--format", "raw", "--gil"])
    held = sum(locked.stacks.values()) / looks
    total = sum(busy.values())
    if options.flame_graph:
        options.flame_graph.mkdir(parents=True, exist_ok=True)
        picture = options.flame_graph / f"{Path(shards).name}_{order}.svg"
        sampled(options, shards, order, ["--format", "flamegraph"], picture)
    return {
        "busy_threads": round(total / looks, 2),
        "share": {stage: round(count / total, 3) for stage, count in busy.most_common()},
        "lock_held": round(held, 3),
        "lock_held_us_per_frame": round(1e6 * held / locked.frames_per_s, 1),
    }


def sampled(
    options: Options, shards: str, order: str, extra: list[str], picture: Path | None = None
) -> Sampled:
    """Look at a consumer while it runs."""
    times = (WARM_UP_S, options.seconds + MARGIN_S)
    consumer = subprocess.Popen(
        [sys.executable, "-c", CONSUMER, shards, order, *map(str, times)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with tempfile.TemporaryDirectory() as folder, consumer:
        found = picture or Path(folder) / "stacks"
        if stream(consumer.stdout).readline() == "warm\n":
            look = ("--nonblocking", "--duration", options.seconds, "--rate", options.rate)
            where = ("--pid", consumer.pid, "--output", found)
            py_spy = Path(sys.executable).with_name("py-spy")
            subprocess.run(
                [str(word) for word in (py_spy, "record", *look, *where, *extra)],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        frames_per_s, _ = consumer.communicate()
        if consumer.returncode:
            raise SystemExit(f"loading {shards} ended with {consumer.returncode}")
        lines = [] if picture else found.read_text().splitlines()
    # Looking without stopping the program, py-spy reads a broken name now and then.
    stacks = (line.rpartition(" ") for line in lines)
    counted = Counter({stack: int(count) for stack, _, count in stacks if count.isdecimal()})
    return Sampled(counted, float(frames_per_s))


def stages(stacks: Counter[str]) -> Counter[str]:
    """Stage -> samples: the innermost function that STAGES names."""
    found: Counter[str] = Counter()
    for stack, count in stacks.items():
        functions = [frame.split(" ")[0].rsplit(".", 1)[-1] for frame in stack.split(";")]
        stage = next(
            (STAGES[function] for function in reversed(functions) if function in STAGES),
            "everything else",
        )
        found[stage] += count
    return found


if __name__ == "__main__":
    main()

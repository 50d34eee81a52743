"""Where a loader's time goes, by sampling its threads.

    python benchmarks/profile_loading.py --shards DATASET

Takes batches in a process of its own while py-spy looks at it `rate` times a second, once at
whatever runs and once at who holds the interpreter's lock. Prints shares of the threads' busy
samples per stage, for both frame orders, and the share of wall-clock time in which the lock was
held. `--flame-graph FOLDER` keeps py-spy's pictures.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from report import print_result

CONSUMER = """
import itertools, sys, time
from roboshard.loader import make_loader
shards, order, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
loader = make_loader(shards, batch_size=64, frame_order=order, drop_last=True)
until = time.monotonic() + seconds
epochs = itertools.chain.from_iterable(itertools.repeat(loader))
for _ in itertools.takewhile(lambda _: time.monotonic() < until, epochs):
    pass
"""
WARM_UP_S = 8
STAGES = {
    # innermost function of ours on the stack -> what it is
    "feed": "decode: PyAV and FFmpeg",
    "drain": "decode: PyAV and FFmpeg",
    "_convert": "convert to RGB in the batch",
    "_lend": "lend memory for a batch",
    "open_decoder": "open a slice",
    "take": "choose what to decode, and with which codec",
    "_decode": "Python around each frame",
    "lasting": "keep a picture for a later step",
    "announce": "hand in requests",
    "begin": "hand in requests",
    "_requests": "hand in requests",
    "_windowed": "rows and windows",
    "step": "draw and fetch",
    "steps": "draw and fetch",
    "expect": "draw and fetch",
    "_read": "read and verify",
    "read_episodes": "read and verify",
}


@dataclass(frozen=True)
class Options:
    """Profile of loading."""

    shards: str
    """A roboshard dataset."""
    seconds: int = 12
    rate: int = 200
    flame_graph: Path | None = None
    """Folder for flame graphs, one per order."""
    output: Path | None = None
    """Write the JSON here too."""


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    values: dict[str, Any] = {"seconds": options.seconds, "rate": options.rate}
    for order in ("sweep", "uniform"):
        busy = stages(sampled(options, order, ["--format", "raw"]))
        held = sum(sampled(options, order, ["--format", "raw", "--gil"]).values())
        total = sum(busy.values())
        values[order] = {
            "busy_threads": round(total / options.seconds / options.rate, 2),
            "share": {stage: round(count / total, 3) for stage, count in busy.most_common()},
            "lock_held": round(held / options.seconds / options.rate, 3),
        }
        if options.flame_graph:
            options.flame_graph.mkdir(parents=True, exist_ok=True)
            sampled(
                options, order, ["--format", "flamegraph"], options.flame_graph / f"{order}.svg"
            )
    print_result("profile_loading", values, options.output)


def sampled(
    options: Options,
    order: Literal["sweep", "uniform"],
    extra: list[str],
    picture: Path | None = None,
) -> Counter[str]:
    """Stack -> samples of a running consumer."""
    consumer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            CONSUMER,
            options.shards,
            order,
            str(WARM_UP_S + options.seconds + 5),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "stacks"
        try:
            consumer.wait(WARM_UP_S)
        except subprocess.TimeoutExpired:
            command = [str(Path(sys.executable).with_name("py-spy")), "record", "--nonblocking"]
            command += [
                "--pid",
                str(consumer.pid),
                "--duration",
                str(options.seconds),
                "--rate",
                str(options.rate),
            ]
            command += ["--output", str(picture or found), *extra]
            subprocess.run(
                command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        consumer.wait()
        lines = [] if picture else found.read_text().splitlines()
    return Counter({stack: int(count) for stack, count in (line.rsplit(" ", 1) for line in lines)})


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

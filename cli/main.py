"""Entry points of the commands. Nothing heavy is imported before signals are handled."""

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial

from roboshard.cli import process

Command = Callable[[Sequence[str]], None]

COMMANDS = {
    "convert": "LeRobot dataset → shards (the same as convert-to-shards)",
    "doctor": "what is odd in a LeRobot dataset, before it is converted",
    "finalize": "shards that were converted in parts → one dataset",
    "upload": "finished shards → Hub, S3, … (the same as upload-shards)",
    "verify": "everything that is wrong with a dataset",
    "inspect": "what a dataset holds: counts, tasks, lengths, cameras, provenance",
    "preview": "an episode → a picture, or a recording for the Rerun viewer",
    "idle": "frames in which nothing moves, and a file that leaves them out of training",
    "stats": "statistics of what would be trained on: mean, std, min, max and quantiles",
    "export": "shards → LeRobot v3 dataset",
    "bench": "does training wait for data on this machine, and which setting helps",
    "lerobot-meta": "meta/ for a folder of shards, by which LeRobot's own datasets read it",
    "lerobot-train": "LeRobot's trainer, with its options, on shards",
    "env": "versions, decoders, cores, ranks and GPUs, for reports of faults",
    "rebuild": "shards → manifests and index, where those are lost",
}
"""Commands and what each does; NAME is the function NAME_command of cli/NAME.py (- is _ there)."""
IN_MAIN_THREAD = ("lerobot-train",)
"""Commands that run another program, whose own way with signals and threads is left to it."""


def main() -> None:
    """Run `roboshard`."""
    if sys.argv[1:2] and sys.argv[1] in IN_MAIN_THREAD:
        sys.exit(dispatch(sys.argv[1:]))
    process.run(prepare)


def convert_to_shards() -> None:
    """Run `convert-to-shards`."""
    process.run(lambda arguments: prepare(["convert", *arguments]))


def upload_shards() -> None:
    """Run `upload-shards`."""
    process.run(lambda arguments: prepare(["upload", *arguments]))


def dispatch(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names and return its exit code."""
    return prepare(arguments)()


def prepare(arguments: Sequence[str]) -> Callable[[], int]:
    """Import the command that the first argument names, and return a call of it."""
    run = importlib.import_module("roboshard.cli.run")
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if name not in COMMANDS:
        return partial(_show_usage, to_error=name not in ("-h", "--help"))
    file = name.replace("-", "_")
    command: Command = getattr(importlib.import_module(f"roboshard.cli.{file}"), f"{file}_command")
    return partial(run.run_command, command, rest)


def _show_usage(*, to_error: bool) -> int:
    run = importlib.import_module("roboshard.cli.run")
    usage = [
        "usage: roboshard COMMAND …",
        *(f"  {name:<13} {text}" for name, text in COMMANDS.items()),
    ]
    (run.err if to_error else run.out).print("\n".join(usage))
    return int(run.EXIT_USAGE) if to_error else 0

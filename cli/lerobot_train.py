"""`roboshard lerobot-train`: LeRobot's trainer on shards."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from roboshard.cli.options import parse_options
from roboshard.tools.lerobot_train import LoaderOptions, train

PREFIX = "--loader."


@dataclass(frozen=True)
class TrainOptions:
    """Train a LeRobot policy from shards.

    Options are those of `lerobot-train`; --dataset.root is a folder of shards or their URL. Those
    of the loader come beside them.
    """

    loader: LoaderOptions = field(default_factory=LoaderOptions)


def lerobot_train_command(arguments: Sequence[str]) -> None:
    """Run `roboshard lerobot-train`: parse the loader's options and leave the others to LeRobot."""
    ours, theirs = parted(arguments)
    if {"-h", "--help"} & set(theirs):
        with suppress(SystemExit):  # LeRobot's help follows
            parse_options(TrainOptions, "roboshard lerobot-train", ["--help"])
    options = parse_options(TrainOptions, "roboshard lerobot-train", ours)
    train(theirs, options.loader)


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the loader's options and those of the trainer, each with their values."""
    ours: list[str] = []
    theirs: list[str] = []
    takes_value = False
    for argument in arguments:
        if argument.startswith(PREFIX):
            ours.append(argument)
        else:
            (ours if takes_value and not argument.startswith("-") else theirs).append(argument)
        takes_value = argument.startswith(PREFIX) and "=" not in argument
    return ours, theirs

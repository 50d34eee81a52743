"""The one file that changes LeRobot: which names of its trainer's module are replaced, and in which
releases.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from roboshard.common.errors import OptionError

MODULE = "lerobot.scripts.lerobot_train"


@dataclass(frozen=True)
class Release:
    """How the trainer of a release calls what is replaced in it."""

    make_datasets: str
    """Name of the trainer's function that makes datasets."""
    returns_two: bool
    """Whether that function returns (dataset, dataset for evaluation or None), or a
    dataset alone.
    """
    takes_uint8: bool
    """Whether the trainer makes float32 of pictures itself."""
    more: tuple[str, ...] = ()
    """Names in the trainer's module that are replaced in this release alone."""


RELEASES = {
    "0.6.1": Release(
        "make_train_eval_datasets", returns_two=True, takes_uint8=True, more=("submit_to_hf",)
    ),
    "0.4.4": Release("make_dataset", returns_two=False, takes_uint8=False),
}
"""Releases of LeRobot that `roboshard lerobot-train` was tried with, the newest first."""


def installed_release() -> Release:
    """Return how the trainer of the installed LeRobot is fed.

    Raises:
        OptionError: There is none, or one that this was not tried with.
    """
    newest = next(iter(RELEASES))
    install = f"pip install 'lerobot[dataset,training]=={newest}', with Python 3.12 or newer"
    try:
        found = version("lerobot")
    except PackageNotFoundError:
        raise OptionError(f"LeRobot is not installed here: {install}") from None
    if found not in RELEASES:
        raise OptionError(
            f"LeRobot {found} is installed, and this was tried with {' and '.join(RELEASES)}, "
            f"whose trainers differ: {install}. In a loop of your own the policies of any release "
            "train from shards: see docs/lerobot.md"
        )
    return RELEASES[found]


def load_trainer() -> ModuleType:
    """Import LeRobot's trainer.

    Raises:
        OptionError: Something that it needs is missing.
    """
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise OptionError(
            f"LeRobot's trainer cannot be imported: {error}. It needs what "
            "pip install 'lerobot[dataset,training]' brings"
        ) from error


@contextmanager
def replaced(trainer: ModuleType, functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Put functions in the place of the trainer's own, by their names in its module.

    Raises:
        OptionError: The module has no such name.
    """
    missing = [name for name in functions if not hasattr(trainer, name)]
    if missing:
        raise OptionError(
            f"{MODULE} has no {', '.join(missing)}: it is not that of the release that LeRobot "
            "says it is; install LeRobot anew"
        )
    before = {name: getattr(trainer, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(trainer, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(trainer, name, function)


@contextmanager
def command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Let `sys.argv` hold the trainer's arguments: LeRobot reads it at several places."""
    before = sys.argv
    sys.argv = ["lerobot-train", *arguments]
    try:
        yield
    finally:
        sys.argv = before

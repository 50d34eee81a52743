"""Options of a command, from its arguments."""

from collections.abc import Sequence
from typing import TypeVar

import tyro

OptionsT = TypeVar("OptionsT")


def parse_options(
    options: type[OptionsT], prog: str, arguments: Sequence[str], description: str | None = None
) -> OptionsT:
    """Return the options that arguments give.

    Args:
        options: a dataclass; its fields are the flags, with their docstrings as help.
        prog: the command's name.
        arguments: what comes after the name.
        description: what the command does; None: as the dataclass says.

    Raises:
        SystemExit: help was asked for and printed, or there are no such options.
    """
    return tyro.cli(
        options,
        prog=prog,
        description=description,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )

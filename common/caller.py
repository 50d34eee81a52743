"""Warnings that point at the program, however deep in the package their cause is found."""

import sys
import warnings

PACKAGE = __name__.split(".", maxsplit=1)[0] + "."


def warn_caller(message: str) -> None:
    """Warn at the line of the program that called into this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)

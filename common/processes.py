"""Processes of our own: they run our code, and not the program that starts them once more."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec

_RUN_ONCE = ModuleSpec("roboshard.__main__", None)
"""What multiprocessing takes for the program of a package, which it never imports in a child."""


@contextmanager
def without_main() -> Iterator[None]:
    """Keep processes that `multiprocessing` spawns inside from running the program's main module.

    A child would import it first. A script without `if __name__ == "__main__"` would then start
    children of its own, and one that is read from standard input cannot be found. What a child is
    sent must not be looked up in that module: `cloudpickle` sends its functions and classes whole.
    """
    main = sys.modules["__main__"]
    own = main.__spec__
    main.__spec__ = _RUN_ONCE
    try:
        yield
    finally:
        main.__spec__ = own

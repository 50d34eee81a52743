"""The end of the program, under threads that iterate over a loader.

Python lets daemon threads run on while it stops executors, calls what `atexit` has, and takes
everything away. What they iterate over then fails in one way or another, which is no error.
"""

import concurrent.futures.thread  # noqa: F401 - what comes later is called before it, at the end
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_HAS_BEGUN = threading.Event()
# Python has no public way to come before executors, which start nothing from then on.
threading._register_atexit(_HAS_BEGUN.set)  # type: ignore[attr-defined]


@contextmanager
def daemon_threads_stand_still() -> Iterator[None]:
    """Let no daemon thread go in, or come out with an error or without, once the program ends: it
    stands still until it is no more.
    """
    _stand_still_at_the_end()
    try:
        yield
    except Exception:
        _stand_still_at_the_end()
        raise
    _stand_still_at_the_end()


def _stand_still_at_the_end() -> None:
    if _HAS_BEGUN.is_set() and threading.current_thread().daemon:
        threading.Event().wait()

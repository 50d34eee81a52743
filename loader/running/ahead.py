"""Running a generator one item ahead of whoever takes its items, in a thread of its own."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run_ahead(
    items: Generator[T, None, None], stop: Callable[[], None]
) -> Generator[T, None, None]:
    """The same items; the next one is made while the last one is used. Errors are raised in their place.

    `stop` is called when no more are wanted: what the next one waits for then may never come.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="roboshard-ahead")
    try:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            given, item = [item], None
            yield given.pop()  # what is given away is not held here
    finally:
        stop()
        thread.shutdown(wait=True)
        items.close()

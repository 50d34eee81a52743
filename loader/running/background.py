"""Running a generator one item ahead of whoever takes its items, in a thread of its own."""

import atexit
import os
from collections.abc import Callable, Generator
from contextlib import closing
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import TypeVar

from roboshard.common import interrupts

T = TypeVar("T")

OF_THE_LOADER = ("roboshard-background", "roboshard-decode", "roboshard-read")
"""How the names of threads begin that work for the one which runs ahead, or are it."""


def run_in_background(
    items: Generator[T, None, None], stop: Callable[[], None]
) -> Generator[T, None, None]:
    """Yield the items of a generator; the next one is made while the last one is used.

    Errors are raised in the place of their item. An interrupt of the taker leaves no lock taken:
    all that the two threads share are queues written in C.

    Args:
        items: what to run ahead. Closed at the end, in its thread.
        stop: called when no more are wanted: what the next one waits for may never come then.
    """
    wanted: SimpleQueue[bool] = SimpleQueue()
    made: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    thread = Thread(
        target=_make, args=(items, wanted, made), name="roboshard-background", daemon=True
    )
    thread.start()
    process = os.getpid()

    def end() -> None:
        if os.getpid() == process:  # a fork has no such thread, nor may it end what that was at
            stop()
            wanted.put(False)
            # A loader in a cycle may be collected in a thread that is to end with it.
            if not current_thread().name.startswith(OF_THE_LOADER):
                thread.join()

    # A program may end in mid-epoch, and later there is nothing to end it with. Not by closing this
    # generator: a daemon thread may be in it.
    atexit.register(end)
    try:
        wanted.put(True)
        while (item := _taken(made)) is not None:
            wanted.put(True)
            given, item = [item], None
            yield given.pop()  # what is given away is not held here
    finally:
        atexit.unregister(end)
        end()


def _make(
    items: Generator[T, None, None],
    wanted: "SimpleQueue[bool]",
    made: "SimpleQueue[tuple[T | None, BaseException | None]]",
) -> None:
    with closing(items):
        while wanted.get():
            try:
                made.put((next(items, None), None))
            except BaseException as error:  # noqa: BLE001 - of whatever kind, it is the taker's
                made.put((None, error))


def _taken(made: "SimpleQueue[tuple[T | None, BaseException | None]]") -> T | None:
    item, error = interrupts.take(made)
    try:
        if error is not None:
            raise error
        return item
    finally:
        del error  # its traceback holds this frame

"""Opening many datasets at once: of remote ones, waiting for replies is most of it."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")

AT_ONCE = 16


def carried_out(tasks: Sequence[Callable[[], Result]]) -> Generator[Result, None, None]:
    """Yield what tasks return, in their order, while threads carry out those that follow.

    Raises what a task raises; tasks that have not begun by then, or when nobody asks for more,
    never do. Threads that hang hold up nobody: neither an interrupt nor the program's end.
    """
    coming: list[Future[Result]] = [Future() for _ in tasks]
    waiting = deque(zip(coming, tasks, strict=True))

    def work() -> None:
        while waiting:
            try:
                future, task = waiting.popleft()
            except IndexError:  # another thread took it
                return
            try:
                future.set_result(task())
            except BaseException as error:  # noqa: BLE001 - of whatever kind, it is the asker's
                future.set_exception(error)

    for _ in range(min(AT_ONCE, len(tasks))):
        threading.Thread(target=work, name="roboshard-open", daemon=True).start()
    try:
        for future in coming:
            yield future.result()
    finally:
        waiting.clear()

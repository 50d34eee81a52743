"""Ending long work on Ctrl-C: soon, with nothing torn, and without a lock that stays taken.

Python raises KeyboardInterrupt between any two instructions of the main thread: also where a lock
has just been taken and nothing yet would give it back, so that whoever needs it next waits for
ever. So long work does not run in the main thread. `interruptible` gives it a thread of its own,
where no signal raises anything; the main thread only waits, and when it is interrupted asks the
work to stop. The work looks for that at places of its own choice: `check`, `pause`,
`as_completed`. No signal handler is changed.
"""

import atexit
import contextvars
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial, wraps
from multiprocessing import resource_tracker
from typing import ParamSpec, TypeVar

GRACE_S = 2.0
"""Seconds that interrupted work has to tidy up. Work that is stuck longer is left behind."""
POLL_S = 0.05
"""Seconds between two looks of work that waits for something else."""
FOR_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that reach a whole process group, and that only its first process shall act on."""

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class _Local(threading.local):
    """The request to stop that a thread listens to, if it has been given one."""

    stop: threading.Event | None = None


_local = _Local()


def interruptible(function: Callable[P, ResultT]) -> Callable[P, ResultT]:
    """Make a function end soon when its caller in the main thread is interrupted.

    The function then runs in a thread of its own. It is stopped by any exception that a signal
    handler raises in the main thread; that exception comes out once the work has ended, or after
    `GRACE_S` where it is stuck. Called in another thread the function just runs.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> ResultT:
        if threading.current_thread() is not threading.main_thread():
            return function(*args, **kwargs)
        return run_aside(partial(function, *args, **kwargs))

    return call


def run_aside(work: Callable[[], ResultT], grace_s: float | None = None) -> ResultT:
    """Return what `work` returns, or raise what it raises; it runs in a thread of its own.

    An exception that is raised here meanwhile stops the work and is raised when that has ended.

    Args:
        work: what to do.
        grace_s: seconds that stopped work may take to end, before it is left behind; None:
            `GRACE_S`.
    """
    stop = threading.Event()
    context = contextvars.copy_context()
    # A queue that is written in C: an exception never leaves its lock taken.
    ended: queue.SimpleQueue[Future[ResultT]] = queue.SimpleQueue()

    def run() -> None:
        _local.stop = stop
        outcome: Future[ResultT] = Future()
        try:
            outcome.set_result(context.run(work))
        except BaseException as error:  # noqa: BLE001 - of whatever kind, it is the caller's
            outcome.set_exception(error)
        ended.put(outcome)
        del outcome  # its exception's traceback holds this frame

    thread = threading.Thread(target=run, name="roboshard-work", daemon=True)
    try:
        thread.start()
        outcome = take(ended)
    except BaseException:
        stop.set()
        if _await(ended, GRACE_S if grace_s is None else grace_s):
            thread.join()  # what it still holds must be freed before the process may end
        raise
    try:
        return outcome.result()
    finally:
        del outcome  # its exception's traceback holds this frame


def take(items: "queue.SimpleQueue[ResultT]") -> ResultT:
    """Return the next item of a queue, when it is there.

    The wait is broken up: where the system hands a signal to another thread of the process, as it
    may, Python's handler runs only when this thread wakes up.
    """
    while True:
        with suppress(queue.Empty):
            return items.get(timeout=POLL_S)


def _await(ended: "queue.SimpleQueue[Future[ResultT]]", grace_s: float) -> bool:
    """Wait until work that was asked to stop has ended, but not for ever; whether it has."""
    until = time.monotonic() + grace_s
    while (left := until - time.monotonic()) > 0:
        try:
            ended.get(timeout=left)
        except queue.Empty:
            return False
        except KeyboardInterrupt:  # asked for a second time: the first one is being obeyed
            continue
        return True
    return False


def is_stopping() -> bool:
    """Whether this thread's work has been asked to stop."""
    return _local.stop is not None and _local.stop.is_set()


def check() -> None:
    """Raise KeyboardInterrupt if this thread's work has been asked to stop."""
    if is_stopping():
        raise KeyboardInterrupt


def pause(seconds: float) -> None:
    """Sleep; raise KeyboardInterrupt as soon as this thread's work is asked to stop."""
    if _local.stop is None:
        time.sleep(seconds)
    else:
        _local.stop.wait(seconds)
        check()


def thread_pool(max_workers: int, name: str) -> ThreadPoolExecutor:
    """Return an executor whose threads are asked to stop together with this one."""
    return ThreadPoolExecutor(max_workers, name, initializer=_listen, initargs=(_local.stop,))


def _listen(stop: threading.Event | None) -> None:
    _local.stop = stop


def as_completed(futures: Iterable[Future[ResultT]]) -> Iterator[Future[ResultT]]:
    """Yield futures as they complete. Raises KeyboardInterrupt when asked to stop."""
    waiting = set(futures)
    while waiting:
        check()
        done, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
        yield from done


@contextmanager
def removed_at_exit(remove: Callable[[], None]) -> Iterator[None]:
    """Call `remove` when the process ends inside: what is in there is stuck and cannot tidy up."""
    atexit.register(remove)
    try:
        yield
    finally:
        atexit.unregister(remove)


@contextmanager
def signals_for_the_parent() -> Iterator[None]:
    """Keep the signals of a terminal from processes that this thread starts inside.

    Ctrl-C reaches a whole process group at once. Children must not act on it: they would end
    while the parent still counts on them, in the midst of their start with a traceback.
    """
    resource_tracker.ensure_running()  # it unblocks signals when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

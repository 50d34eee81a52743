"""A command as a process: how it starts, what ends it early, and with which exit code.

It is interrupted by SIGINT (Ctrl-C), SIGTERM or SIGHUP, at any moment:

while it starts     nothing has been done, so it just ends
while it works      the work, in a thread of its own, is asked to stop and given a moment to tidy
                    up; what is stuck is left, and the process ends with all that it started
after the work      it just ends

Each time it says one line and exits with 128 + the signal's number. Further signals change
nothing, as they are ignored after the first.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from roboshard.cli import terminal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TIDY_S = 1.0
"""Seconds for the last tidying, before the process ends without it."""
CHILDREN_TIDY_S = 0.5
"""Seconds of `TIDY_S` for processes that this one started to end by themselves."""


class _SignalledError(KeyboardInterrupt):
    """A signal has come; raised, it tells work in another thread."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def run(prepare: Callable[[Sequence[str]], Callable[[], int]]) -> NoReturn:
    """Run a command and end the process.

    Args:
        prepare: imports what the command needs, given the process's arguments, and returns a call
            of it that returns an exit code.
    """
    ours = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    _handle(ours, _end_at_once)
    terminal.open_streams()
    command = prepare(sys.argv[1:])
    from roboshard.common.interrupts import run_aside  # noqa: PLC0415 - not before it is needed

    code: str | int | None = 1
    try:
        _handle(ours, _raise)
        code = run_aside(command)
    except KeyboardInterrupt as error:
        _end(error.number if isinstance(error, _SignalledError) else signal.SIGINT)
    except SystemExit as error:  # after --help, or options that there are not
        code = error.code
    finally:
        _handle(ours, _end_at_once)
    sys.exit(terminal.flush_streams(code))


def _handle(
    numbers: Sequence[int], handler: Callable[[int, FrameType | None], object] | signal.Handlers
) -> None:
    for number in numbers:
        signal.signal(number, handler)


def _end_at_once(number: int, _frame: FrameType | None) -> NoReturn:
    _say(number)
    os._exit(128 + number)


def _raise(number: int, _frame: FrameType | None) -> NoReturn:
    _handle(SIGNALS, signal.SIG_IGN)
    raise _SignalledError(number)


def _end(number: int) -> NoReturn:
    """End the process and its children, whatever other threads are stuck in."""
    _handle(SIGNALS, signal.SIG_IGN)
    timer = threading.Timer(TIDY_S, _leave, (number,))
    timer.daemon = True
    timer.start()
    _end_children()
    atexit._run_exitfuncs()  # among them what removes unfinished files
    _leave(number)


def _end_children() -> None:
    """End the processes that this one started. A loader's workers tidy up on SIGTERM; a
    conversion's hold nothing, do not hear it, and are killed.
    """
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    until = time.monotonic() + CHILDREN_TIDY_S
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
        child.kill()
        child.join()


_leaving = threading.Lock()


def _leave(number: int) -> NoReturn:
    _leaving.acquire()  # never released: the line is said once
    _say(number)
    os._exit(128 + number)


def _say(number: int) -> None:
    what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    try:
        os.write(2, f"{what}; run the same command again to continue\n".encode())
    except OSError:  # nobody is there to read it
        return

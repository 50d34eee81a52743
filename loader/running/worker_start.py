"""How worker processes come to be: forked from a process that has imported what they need.

    this process   starts, with its first loader that has workers, multiprocessing's fork server
    fork server    imports `preloaded.py`, and from then on does nothing but fork
    worker         is a copy of it, which reads what it is to do, and ends with this process

Decoders, file systems and threads do not survive a fork, but the fork server has none of ours: it
is a fresh interpreter, and lives until this process ends. Torch's code, which is most of a worker's
memory and of the time that it takes to start, is imported once and shared. What has changed here
since the fork server began is told to each worker.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver, parent_process
from multiprocessing.util import get_temp_dir
from threading import Thread

from roboshard.common import interrupts
from roboshard.common.errors import OptionError
from roboshard.common.processes import without_main
from roboshard.loader import topology

START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
PRELOADED = "roboshard.loader.running.preloaded"
PARENT_POLL_S = 2.0
SOCKETS_PATH = 107
"""Most bytes of a socket's path on Linux (unix(7))."""
SOCKETS_NAME = "/pymp-01234567/listener-01234567"
"""What multiprocessing adds to the folder for temporary files: the fork server is called through
such a socket, and workers hand over segments through them.
"""

_SEEN_BY: dict[str, int] = {}
"""The process that first saw a folder for temporary files: forks inherit both."""


def prepare() -> None:
    """Start the fork server, which takes seconds to import, beside what the program does until it
    wants batches.

    Raises:
        OptionError: The folder for temporary files has too long a path for sockets in it.
    """
    with workers_may_start():
        pass


@contextmanager
def workers_may_start() -> Iterator[None]:
    """Inside, this thread may start worker processes; the fork server runs.

    Raises:
        OptionError: The folder for temporary files has too long a path for sockets in it.
    """
    _check_temporary_folder()
    with interrupts.signals_for_the_parent(), without_main():
        if START_METHOD == "forkserver":
            _ensure_fork_server()
        yield


def _ensure_fork_server() -> None:
    """Start the fork server, if this process has none that runs."""
    forkserver.set_forkserver_preload([PRELOADED])
    try:
        forkserver.ensure_running()
    except ChildProcessError:  # this process is a fork, and what it knows of is its parent's
        forkserver._forkserver.__init__()  # type: ignore[misc]
        _ensure_fork_server()


def _check_temporary_folder() -> None:
    """Raise OptionError if the folder for temporary files, in which multiprocessing makes one for
    this process and its workers, has too long a path for sockets in it.
    """
    own = get_temp_dir()
    _SEEN_BY.setdefault(own, os.getpid())
    folder = os.path.dirname(own)
    length, most = len(os.fsencode(folder)), SOCKETS_PATH - len(SOCKETS_NAME)
    if length > most:
        raise OptionError(
            f"num_workers: worker processes need sockets in the folder for temporary files, whose "
            f"path may have {most} bytes for that; {folder} has {length}: set TMPDIR to a folder "
            "with a shorter one"
        )


def begin() -> Callable[[int], None]:
    """Return what a worker that starts now is to do first, given its number."""
    return partial(_begin, topology.surroundings(), _own_temporary_folder())


def _own_temporary_folder() -> str | None:
    """Return multiprocessing's folder for temporary files; None: a process that this one descends
    from may have made it, and still need it.
    """
    folder = get_temp_dir()
    made_here = _SEEN_BY.setdefault(folder, os.getpid()) == os.getpid()
    return folder if made_here and parent_process() is None else None


def _begin(surroundings: topology.Surroundings, folder: str | None, _worker: int) -> None:
    """Be a worker of the parent, where that is as its `surroundings` say.

    Ctrl-C, which reaches the whole process group, is ignored: the parent decides, and is not told
    of dead workers first.
    """
    topology.adopt(surroundings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.FOR_THE_PARENT)
    Thread(
        target=_end_with_the_parent, args=(folder,), name="roboshard-parent", daemon=True
    ).start()


def _end(*_: object) -> None:
    """End a worker without waiting for anything."""
    os._exit(0)


def _end_with_the_parent(folder: str | None) -> None:
    """End this worker as soon as its parent is no more, whose own folder for temporary files, if it
    has one, then is nobody's.

    Torch's workers look whether the process that made them is there, which would be the fork
    server; and that one lives as long as there are workers.
    """
    parent = parent_process()
    if parent is None:
        return
    while parent.is_alive() and _is_running(parent.pid):
        parent.join(PARENT_POLL_S)  # over at once when it ends, unless a fork of it has its pipes
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    _end()


def _is_running(process: int | None) -> bool:
    try:
        os.kill(process or 0, 0)
    except ProcessLookupError:
        return False
    return True

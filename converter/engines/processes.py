"""Running shard tasks in processes of this machine."""

import multiprocessing
import os
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Generic, cast

from roboshard.common import interrupts
from roboshard.common.errors import RoboshardError
from roboshard.common.processes import without_main
from roboshard.converter.task import OnEpisode, Result, Spec
from roboshard.converter.work_folder import work_folder

PARENT_POLL_S = 0.5


def run_tasks(
    task: Callable[[Spec, OnEpisode], Result],
    specs: Iterable[Spec],
    workers: int,
    on_episode: OnEpisode,
) -> list[Result]:
    """Run `task` over all specs, in this process when one worker is enough.

    Specs are drawn as workers come free, so that a plan of any size is never held whole. However
    this ends, no worker runs any more: those that are at work are killed, which is no more than
    what a shard, written whole or not at all, must stand anyway.

    Args:
        task: called with a spec and a function to report each episode's bytes to.
        specs: what to do.
        workers: processes to use at most; 1 or less: none beside this one.
        on_episode: told the bytes of each episode, in this process.

    Returns:
        The results in order of specs.

    Raises:
        RoboshardError: the first task's that failed, once those that were running have ended; or
            a worker died.
        KeyboardInterrupt: this thread's work was asked to stop.
    """
    if workers <= 1:
        return [task(spec, on_episode) for spec in specs]
    team: list[_Worker[Spec, Result]] = []
    with work_folder(None) as temporary:
        try:
            with interrupts.signals_for_the_parent(), without_main():
                team.extend(_Worker(task, temporary) for _ in range(workers))
            return _run(team, specs, on_episode)
        finally:
            for worker in team:
                worker.end()


class _Worker(Generic[Spec, Result]):
    """A process that does one task after the other."""

    def __init__(self, task: Callable[[Spec, OnEpisode], Result], temporary: Path) -> None:
        # Libraries with threads of their own do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work, args=(theirs, task, os.getpid(), temporary), name="roboshard-convert"
        )
        self.task: tuple[int, Spec] | None = None
        """(number, spec) of the task that the worker is at; None: it is idle."""
        try:
            self._process.start()
        finally:
            theirs.close()

    def begin(self, number: int, spec: Spec) -> None:
        """Hand the worker a spec, which has this number."""
        self.task = number, spec
        try:
            self.connection.send(spec)
        except OSError:
            raise _died() from None

    def receive(self) -> tuple[str, Any]:
        """Return what the worker says: ("episode", bytes), ("result", result), ("error", error)."""
        try:
            said: tuple[str, Any] = self.connection.recv()
        except (EOFError, OSError):
            interrupts.check()
            raise _died() from None
        return said

    def end(self) -> None:
        """End the process, whatever it is at, and remove what it leaves."""
        self._process.kill()
        self._process.join()
        self.connection.close()
        if self.task is not None and self._process.pid is not None:
            self.task[1].remove_unfinished(self._process.pid)


def _run(
    team: list[_Worker[Spec, Result]], specs: Iterable[Spec], on_episode: OnEpisode
) -> list[Result]:
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    remaining = enumerate(specs)
    while True:
        for worker in team:
            interrupts.check()
            if worker.task is None and not errors and (spec := next(remaining, None)):
                worker.begin(*spec)
        busy = {worker.connection: worker for worker in team if worker.task is not None}
        if not busy:
            break
        for connection in wait(list(busy), interrupts.POLL_S):
            worker = busy[cast(Connection, connection)]
            kind, value = worker.receive()
            if kind == "episode":
                on_episode(value)
                continue
            if kind == "error":
                errors.append(value)
            elif worker.task is not None:
                results[worker.task[0]] = value
            worker.task = None
    if errors:
        raise errors[0]
    return [results[number] for number in sorted(results)]


def _died() -> RoboshardError:
    return RoboshardError(
        "a conversion worker died (killed, or out of memory: fewer --workers need less). Finished "
        "shards are kept; run the same command again to continue"
    )


def _work(
    connection: Connection,
    task: Callable[[Spec, OnEpisode], Result],
    parent: int,
    temporary: Path,
) -> None:
    """Do tasks in this process, one after the other, as long as the parent lives."""
    tempfile.tempdir = str(temporary)  # which the parent removes, however this process ends
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()

    def report(num_bytes: int) -> None:
        connection.send(("episode", num_bytes))

    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            spec = connection.recv()
            said: tuple[str, Any]
            try:
                said = "result", task(spec, report)
            except BaseException as error:  # noqa: BLE001 - of whatever kind, it is the parent's
                if not isinstance(error, RoboshardError):
                    error.add_note("in a conversion worker:\n" + traceback.format_exc())
                said = "error", error
            connection.send(said)


def _exit_with_parent(parent: int) -> None:
    """End this process with its parent, also in the midst of a task."""
    process = multiprocessing.parent_process()
    while process is not None and os.getppid() == parent:
        # Returns at once when it ends, unless a child of it holds its pipes open.
        process.join(PARENT_POLL_S)
    os._exit(1)

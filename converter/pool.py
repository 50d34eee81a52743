"""Running shard tasks in processes of this machine."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import Connection
from typing import Never, TypeVar

from roboshard.converter.shard import OnEpisode, ShardSpec, ignore
from roboshard.shards.errors import RoboshardError

QUEUED_PER_WORKER = 2
PARENT_POLL_S = 0.5

Result = TypeVar("Result")

_report: OnEpisode = ignore  # replaced in each worker


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    task: Callable[[ShardSpec, OnEpisode], Result],
    specs: Iterable[ShardSpec],
    workers: int,
    on_episode: OnEpisode,
) -> list[Result]:
    """Run `task` over all specs, in this process when one worker is enough; results in order of specs.

    Specs are drawn as workers come free, so that a plan of any size is never held whole.

    Raises:
        RoboshardError: the first task's that failed, or when a worker died; the others are not started.
    """
    if workers <= 1:
        return [task(spec, on_episode) for spec in specs]
    context = multiprocessing.get_context(
        "spawn"
    )  # libraries with threads of their own do not survive a fork
    receiver, sender = context.Pipe(duplex=False)
    listener = threading.Thread(target=_forward, args=(receiver, on_episode), daemon=True)
    listener.start()
    try:
        with ProcessPoolExecutor(
            workers, context, _start_worker, (sender, os.getpid())
        ) as executor:
            return _run(executor, partial(_run_task, task), specs, workers * QUEUED_PER_WORKER)
    except BrokenProcessPool:
        raise RoboshardError(
            "a conversion worker died (killed, or out of memory: fewer --workers need less; or a script that does "
            "not guard its call with `if __name__ == '__main__'`). Finished shards are kept; "
            "run the same command again to continue"
        ) from None
    finally:
        sender.send(None)
        listener.join()
        sender.close()
        receiver.close()


def _run(
    executor: ProcessPoolExecutor,
    task: Callable[[ShardSpec], Result],
    specs: Iterable[ShardSpec],
    at_once: int,
) -> list[Result]:
    results: dict[int, Result] = {}
    pending: dict[Future[Result], int] = {}
    remaining = enumerate(specs)
    try:
        while True:
            while len(pending) < at_once and (spec := next(remaining, None)) is not None:
                pending[executor.submit(task, spec[1])] = spec[0]
            if not pending:
                return [results[number] for number in sorted(results)]
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                results[pending.pop(future)] = future.result()
    except BaseException:
        executor.shutdown(
            wait=True, cancel_futures=True
        )  # nobody writes any more when the error is out
        raise


def _run_task(task: Callable[[ShardSpec, OnEpisode], Result], spec: ShardSpec) -> Result:
    return task(spec, _report)


def _start_worker(sender: "Connection[int | None, Never]", parent: int) -> None:
    global _report  # noqa: PLW0603 - one worker is one process, told once how to report
    # Without a lock, which a worker that is killed would take with it: so short a message is written in one piece.
    _report = sender.send
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """A worker whose parent was killed would wait for work forever."""
    process = multiprocessing.parent_process()
    while process is not None and os.getppid() == parent:
        process.join(
            PARENT_POLL_S
        )  # returns at once when it ends, unless a child of it holds its pipes open
    os._exit(1)


def _forward(receiver: "Connection[Never, int | None]", on_episode: OnEpisode) -> None:
    while (num_bytes := receiver.recv()) is not None:
        on_episode(num_bytes)

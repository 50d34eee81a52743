"""Running shard tasks on a Ray cluster: the same function as in processes, tried again where a
worker dies.
"""

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

from roboshard import storage
from roboshard.common import interrupts
from roboshard.common.errors import OptionError, RoboshardError, StorageError
from roboshard.converter.config import ConvertConfig
from roboshard.converter.task import OnEpisode, Result, Spec

TRIES = 5
"""How often a shard is tried, whether its worker dies or storage does not answer."""
QUEUED_PER_CORE = 2
CANCEL_S = 15.0
"""How long cancelled tasks get to end by themselves, and then again to be killed."""


def run_on_ray(
    task: Callable[[Spec, OnEpisode], Result],
    specs: Iterable[Spec],
    config: ConvertConfig,
    on_episode: OnEpisode,
) -> list[Result]:
    """Run `task` over all specs on a cluster; results in order of specs.

    Specs are drawn as cores come free, so that a plan of any size is never held whole.

    Raises:
        OptionError: Ray is not installed, there is no cluster at the address, or its nodes cannot
            do the work.
        RoboshardError: the first task's that failed, as it was raised there; the others are
            cancelled.
    """
    ray = _import_ray()
    with _connected(ray, config):
        _check_scratch(ray, config)
        # Nothing but storage may come right by itself.
        options = ray.remote(num_cpus=1, max_retries=TRIES - 1, retry_exceptions=[StorageError])
        try:
            remote = options(_run_task)
            return _run(
                ray, lambda spec: remote.remote(task, spec), specs, config.workers, on_episode
            )
        except ray.exceptions.RayTaskError as error:
            raise _as_raised(error) from None
        except ray.exceptions.RayError as error:
            raise RoboshardError(
                f"a conversion task could not be run to its end on Ray, in {TRIES} tries where its "
                "worker died (out of memory: fewer --workers need less). Finished shards are kept; "
                f"run the same command again to continue. Ray says: {error}"
            ) from None


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise OptionError(f"engine ray needs Ray: pip install 'roboshard[ray]' ({error})") from None


@contextmanager
def _connected(ray: Any, config: ConvertConfig) -> Iterator[None]:
    """Use the caller's own connection, if there is one; else a new one, closed at the end."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            address=config.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if config.address else False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise OptionError(
            f"no Ray cluster can be reached at {config.address or 'this machine'}: {error}"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_scratch(ray: Any, config: ConvertConfig) -> None:
    """Raise OptionError unless all nodes can share the folder of downloaded files."""
    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes > 1 and config.scratch is None and not storage.is_local(config.source):
        raise OptionError(
            f"{storage.redacted(config.source)} is not a folder, and the cluster has {nodes} "
            "nodes: they share what is downloaded. Name a folder that all of them see by --scratch"
        )


def _run(
    ray: Any,
    submit: Callable[[Spec], Any],
    specs: Iterable[Spec],
    workers: int | None,
    on_episode: OnEpisode,
) -> list[Any]:
    results: dict[int, Any] = {}
    pending: dict[Any, tuple[int, Spec]] = {}
    remaining = enumerate(specs)
    try:
        while True:
            at_once = workers or QUEUED_PER_CORE * max(
                1, int(ray.cluster_resources().get("CPU", 1))
            )
            while len(pending) < at_once and (numbered := next(remaining, None)) is not None:
                pending[submit(numbered[1])] = numbered
            if not pending:
                return [results[number] for number in sorted(results)]
            interrupts.check()
            done, _ = ray.wait(list(pending), num_returns=1, timeout=interrupts.POLL_S)
            for reference in done:
                number, spec = pending.pop(reference)  # first: what is done is never cancelled
                result, sizes = ray.get(reference)
                spec.check_seen(result)
                results[number] = result
                for num_bytes in sizes:
                    on_episode(num_bytes)
    except Exception:
        _cancel(ray, list(pending), CANCEL_S)  # nobody writes any more when the error is out
        raise
    except BaseException:  # somebody waits for the end: shards are written whole or not at all
        _cancel(ray, list(pending), 0)
        raise


def _cancel(ray: Any, pending: list[Any], patience_s: float) -> None:
    """End tasks: first by asking them, unless there is no time for that, then by killing.

    Only those that are not done: Ray 2.60 ends the calling process, without a word, if a task is
    cancelled whose result has just come and is being noted (a failed check of its task manager).
    """
    wait_s = patience_s or interrupts.GRACE_S / 2
    with suppress(ray.exceptions.RayError):  # the cluster is gone, and its workers with it
        for force in (False, True) if patience_s else (True,):
            pending = _not_done(ray, pending, 0)
            for reference in pending:
                ray.cancel(reference, force=force)
            pending = _not_done(ray, pending, wait_s)


def _not_done(ray: Any, pending: list[Any], timeout_s: float) -> list[Any]:
    """Return the tasks that are not done when all are, or so many seconds are over."""
    if not pending:
        return pending
    return list(ray.wait(pending, num_returns=len(pending), timeout=timeout_s)[1])


def _as_raised(error: Any) -> BaseException:
    """Return a task's own error, out of the one of Ray that wraps it; what is not ours stays
    wrapped.
    """
    cause = error.cause
    return cause if isinstance(cause, RoboshardError | OSError) else error


def _run_task(task: Callable[[Spec, OnEpisode], Result], spec: Spec) -> tuple[Result, list[int]]:
    """Run a task on a node: return its result, and the bytes of each episode as it was written."""
    sizes: list[int] = []
    _check_versions(spec)
    with spec.on_node() as here:
        return task(here, sizes.append), sizes


def _check_versions(spec: Spec) -> None:
    """Raise OptionError unless this node has the conversion's versions, which decide bytes."""
    stated = dict(spec.versions)
    here = {name: version(name) for name in stated}
    if here != stated:
        raise OptionError(
            f"a node of the cluster has {_listed(here)}, where the conversion was started with "
            f"{_listed(stated)}: install the same versions on all"
        )


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in sorted(versions.items()))

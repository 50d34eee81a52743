"""Which rank and which worker this process is. The environment is read here and nowhere else."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch.distributed
import torch.utils.data

from roboshard.common.cores import bound_cores, limited, usable_cores
from roboshard.common.errors import OptionError

LAUNCHER_VARIABLES = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate, deepspeed
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun; a batch script by itself is no task of a step
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # mpirun
)


def resolve_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return (rank, world size): as given, else torch.distributed's, else the launcher's variables,
    else (0, 1).

    Under tensor or pipeline parallelism several processes share their data: pass the data-parallel
    rank.

    Raises:
        OptionError: only one of the two is given, or the environment's are not numbers or lack the
            rank.
    """
    if (rank is None) != (world_size is None):
        raise OptionError("pass both rank and world_size, or neither")
    if rank is not None and world_size is not None:
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    for names in LAUNCHER_VARIABLES:
        found = tuple(os.environ.get(name) for name in names)
        if None not in found:
            return _numbers(names, found)
        if found[1] not in (None, "1"):
            raise OptionError(
                f"{names[1]} is {found[1]} in the environment, but {names[0]} is not set, so this "
                "process's rank is unknown: pass rank and world_size, or make the loader after "
                "torch.distributed is initialised"
            )
    return 0, 1


def _numbers(names: tuple[str, str], values: tuple[str | None, ...]) -> tuple[int, int]:
    try:
        rank, world_size = (int(value or "") for value in values)
    except ValueError:
        raise OptionError(
            f"{names[0]} and {names[1]} in the environment are not numbers: {values}"
        ) from None
    return rank, world_size


def worker() -> tuple[int, int]:
    """Return (worker, number of workers) of this process under a torch DataLoader; (0, 1) in the
    main process.
    """
    info = torch.utils.data.get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def in_worker() -> bool:
    """Whether this process is a worker of a torch DataLoader."""
    return torch.utils.data.get_worker_info() is not None


class Surroundings(NamedTuple):
    """What a process has of its own and others are to have too, which were not made by it."""

    environment: Mapping[str, str]
    cores: frozenset[int]
    """Cores that it may run on; none: the system does not tell."""


def surroundings() -> Surroundings:
    """Return those of this process, as they are now."""
    return Surroundings(dict(os.environ), _bound_to())


def adopt(others: Surroundings) -> None:
    """Make them those of this process."""
    for name in os.environ.keys() - others.environment.keys():
        del os.environ[name]
    os.environ.update(others.environment)
    if others.cores != _bound_to():
        os.sched_setaffinity(0, others.cores)


def _bound_to() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ())


def user_cache_folder() -> Path | None:
    """Return the user's folder for what can be made again, as XDG names it; None: there is none."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


def default_threads(num_workers: int) -> int:
    """Return the decoding threads of one process: its rank's share of the node's cores, shared out
    over its workers.

    Args:
        num_workers: Of the rank; 0: it loads by itself.
    """
    return max(1, _own_cores() // max(1, num_workers))


def _own_cores() -> int:
    """Return how many cores there are for this rank.

    Ranks that a launcher has bound to cores of their own share them with nobody.
    """
    for name, cores_of_node in _LOCAL_RANKS.items():
        ranks = os.environ.get(name, "").partition("(")[0]  # SLURM: 8(x4) for four nodes of 8
        if ranks.isdecimal() and int(ranks) > 1:
            return max(1, min(usable_cores(), limited(cores_of_node()) // int(ranks)))
    return usable_cores()


def _cores_of_parent() -> int:
    """Return how many cores torchrun has, which its ranks share; it may bind them to fewer each
    (--numa-binding).
    """
    try:
        return max(bound_cores(), bound_cores(os.getppid()))
    except OSError:
        return bound_cores()


def _cores_of_slurm() -> int:
    """Return how many cores the job has on this node: `srun` may bind each task to some of them."""
    cores = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return int(cores) if cores.isdecimal() else os.cpu_count() or 1


_LOCAL_RANKS: dict[str, Callable[[], int]] = {
    "LOCAL_WORLD_SIZE": _cores_of_parent,  # torchrun, accelerate, deepspeed
    "SLURM_STEP_TASKS_PER_NODE": _cores_of_slurm,  # srun
    "OMPI_COMM_WORLD_LOCAL_SIZE": lambda: os.cpu_count() or 1,  # mpirun
}
"""Variables of launchers that say how many ranks a node has, and how many cores these have
together.
"""

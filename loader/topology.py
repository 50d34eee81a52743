"""Which rank and which worker this process is. The environment is read here and nowhere else."""

import os

import torch.distributed
import torch.utils.data

from roboshard.shards.errors import OptionError


def resolve_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, world size): as given, else torch.distributed's, else the launcher's RANK and WORLD_SIZE, else (0, 1).

    Under tensor or pipeline parallelism several processes share their data: pass the data-parallel rank.

    Raises:
        OptionError: only one of the two is given, or the environment's are not numbers.
    """
    if (rank is None) != (world_size is None):
        raise OptionError("pass both rank and world_size, or neither")
    if rank is not None and world_size is not None:
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if found[0] is None or found[1] is None:
        return 0, 1
    try:
        return int(found[0]), int(found[1])
    except ValueError:
        raise OptionError(f"RANK and WORLD_SIZE in the environment are not numbers: {found}") from None


def worker() -> tuple[int, int]:
    """(worker, number of workers) of this process under a torch DataLoader; (0, 1) in the main process."""
    info = torch.utils.data.get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def default_threads(num_workers: int) -> int:
    """Decoding threads of one process: the cores it may use, shared out over the workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, num_workers))

"""What `open_scale.py` runs in a process of its own that is given a loader's job, as a worker
is.
"""

import gc
import time
from typing import Any

import psutil

from roboshard.loader.running.shared_pickle import SharedPickle


def take(job: SharedPickle, told: Any) -> None:
    """Take the job, draw a step, and tell what that took of memory that is this process's alone."""
    before, started, cpu = private_bytes(), time.perf_counter(), time.process_time()
    loaded = job.load()
    loaded.plan(0).step(0, range(1))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    gc.collect()
    told.put(
        {
            "s": round(seconds, 2),
            "cpu_s": round(cpu, 2),
            "private_mb": round((private_bytes() - before) / 1e6),
        }
    )


def private_bytes() -> int:
    """Memory that no other process has."""
    return int(psutil.Process().memory_full_info().uss)

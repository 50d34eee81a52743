"""How many cores this process may use: those that it is bound to, as far as its control group lets
it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    A container whose time is limited (`docker --cpus`, `limits.cpu` of Kubernetes) sees all cores
    of its machine; as many threads as those would be stopped for most of their time.
    """
    return limited(bound_cores())


def limited(cores: int) -> int:
    """Return how many of these cores the control groups of this process let it use at once, at
    least 1.
    """
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def bound_cores(process: int = 0) -> int:
    """Return the number of cores that a process is bound to; 0: this one.

    Raises:
        OSError: There is no such process, or it is not ours to ask.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(process))
    return os.cpu_count() or 1


def cpu_quota(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float | None:
    """Return the cores' worth of time that control groups give this process; None: they do not
    limit it.

    Linux, Documentation/admin-guide/cgroup-v2.rst, `cpu.max`, and
    Documentation/scheduler/sched-bwc.rst for version 1.

    Args:
        cgroups: Where control groups are mounted.
        own: What lists those of this process.
    """
    found = [quota for quota in _quotas(cgroups, own) if quota > 0]
    return min(found, default=None)


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    for controllers, path in _own_groups(own):
        if not controllers:
            for folder in _upwards(cgroups, path):
                yield _quota(*_words(folder / "cpu.max", 2))
        elif "cpu" in controllers.split(","):
            for folder in _upwards(cgroups / "cpu", path):
                times = (
                    _words(folder / name, 1)[0]
                    for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                )
                yield _quota(*times)


def _own_groups(own: Path) -> Iterator[tuple[str, str]]:
    """(controllers, path) of each hierarchy; version 2 names no controllers."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        yield controllers, path


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a control group and those above it, whose limits hold too.

    In a container the root is its own group.
    """
    folder = root / path.strip("/")
    yield folder
    while folder != root and root in folder.parents:
        folder = folder.parent
        yield folder


def _words(path: Path, count: int) -> list[str]:
    try:
        words = path.read_text(encoding="ascii").split()
    except OSError:
        words = []
    return words if len(words) == count else [""] * count


def _quota(time: str, period: str) -> float:
    """Cores' worth of time; 0: no limit."""
    if not (time.isdecimal() and period.isdecimal() and int(period)):
        return 0.0
    return int(time) / int(period)

"""A folder of a loader for bytes of remote shards, where the user names none: shared by the workers
of its rank.

It goes with the loader. Of a process that was killed it stays, and the next loader of the same user
removes it.
"""

import os
import shutil
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

from roboshard.common.errors import OptionError
from roboshard.loader.job import LoadJob
from roboshard.storage import is_local
from roboshard.storage.cache import DiskCache
from roboshard.storage.held_folder import make_held_folder

PREFIX = "roboshard-scratch-"
CACHE = "cache"
SHARE_OF_THE_DISK = 0.8
"""Share of what is free on a disk that a scratch folder may fill."""


class ScratchFolder:
    """A temporary folder that is removed when nobody holds this any more, and at the end of the
    process.
    """

    def __init__(self) -> None:
        """Make the folder, and remove those of processes that were killed.

        Raises:
            OSError: There is no place for temporary files.
        """
        folder, descriptor = make_held_folder(Path(tempfile.gettempdir()), PREFIX)
        self.cache = folder / CACHE
        """Folder in which bytes of remote shards are kept."""
        self.max_bytes = int(shutil.disk_usage(folder).free * SHARE_OF_THE_DISK)
        """How many bytes `cache` may hold."""
        self.close = weakref.finalize(self, _remove, folder, descriptor, os.getpid())
        """Remove the folder now; at the latest it goes with this object."""


def with_scratch(job: LoadJob) -> tuple[LoadJob, ScratchFolder | None]:
    """Give remote datasets without a cache a scratch folder, if there are any; it goes with whoever
    holds it.

    Where none can be made, what is read of them stays in memory.
    """
    datasets = [source.dataset for source in job.sources]
    lacking = [not (is_local(it.root) or it.settings.cache) for it in datasets]
    if not any(lacking):
        return job, None
    try:
        scratch = ScratchFolder()
        cache = DiskCache(scratch.cache, min(scratch.max_bytes, job.config.read.cache_bytes))
    except (OSError, OptionError):
        return job, None
    sources = tuple(
        replace(
            source,
            dataset=replace(source.dataset, settings=replace(source.dataset.settings, cache=cache)),
        )
        if lacks
        else source
        for source, lacks in zip(job.sources, lacking, strict=True)
    )
    return replace(job, sources=sources), scratch


def _remove(folder: Path, descriptor: int, process: int) -> None:
    if os.getpid() == process:  # a fork does not own it
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)

"""Where a loader's frame cache lies: in memory that the processes of a node share, or in a folder.

In memory it is a folder of a file system in memory, whose name comes from what it holds: so all
ranks of a node find the same one. Each holds a lock on it, and the last one removes it. What a job
left that was killed, the next loader of the same user removes, or goes on with.
"""

import os
import shutil
import tempfile
import weakref
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from roboshard.common.errors import OptionError, StorageError
from roboshard.loader.config import LoaderConfig
from roboshard.loader.frame_cache.frames import FrameCache, FrameCacheSpec
from roboshard.loader.frame_cache.layout import Layout, make_layout
from roboshard.loader.job import LoadJob
from roboshard.loader.running.device import decodes_on_gpu
from roboshard.loader.stats import StatsCounter
from roboshard.storage.cache import claim_folder
from roboshard.storage.held_folder import join_held_folder, leave_held_folder

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - below it a folder of this user alone
PREFIX = "roboshard-frames-"
HOME = "roboshard-frames"
"""Name of the folder below the user's: nothing outside it is touched."""


class SharedFrames:
    """A folder in memory that other processes of this user share; it goes with the last of them."""

    def __init__(self, parent: Path, name: str) -> None:
        """Make the folder, or join those who have made it.

        Raises:
            OSError: It cannot be made, or is another user's.
        """
        self.folder, descriptor = join_held_folder(parent, f"{PREFIX}{os.getuid()}-", name)
        self.close = weakref.finalize(self, _leave, self.folder, descriptor, os.getpid())
        """Let go of the folder; at the latest when nobody holds this any more."""


def with_frame_cache(job: LoadJob) -> tuple[LoadJob, SharedFrames | None]:
    """Give a job its frame cache, if one is wanted, and what holds it where it is one in memory.

    Raises:
        OptionError: It holds no episode, or there is no room for it.
        StorageError: The folder cannot be used.
    """
    config = job.config
    max_bytes = config.read.frame_cache
    if max_bytes is None or not job.pictures:
        return job, None
    _check_device(config)
    keys = [picture.key for picture in job.pictures]
    layout = make_layout(job.sources, keys, config.sample.image_size, int(max_bytes))
    if not layout.num_bytes:
        raise OptionError(
            f"frame_cache={max_bytes} bytes do not hold the pictures of one episode; all of them "
            f"take {_shown(layout.all_bytes)}, fewer with image_size= or cameras="
        )
    frames: SharedFrames | None = None
    if config.read.frame_cache_dir is None:
        frames = _in_memory(layout)
        folder = frames.folder
    else:
        folder = _in_folder(Path(config.read.frame_cache_dir).absolute())
    _check_room(folder, layout, is_memory=frames is not None)
    is_checked = folder.parent != IN_MEMORY
    spec = FrameCacheSpec(folder=folder, layout=layout, is_checked=is_checked)
    return replace(job, frame_cache=spec), frames


def open_cache(job: LoadJob, counter: StatsCounter) -> FrameCache | None:
    """Open a job's frame cache in this process; None: it has none."""
    return None if job.frame_cache is None else FrameCache(job.frame_cache, counter)


def _check_device(config: LoaderConfig) -> None:
    if decodes_on_gpu(config):
        raise OptionError(
            f"frame_cache= keeps pictures in the CPU's memory, and decode_device="
            f"{config.read.decode_device!r} makes them in a GPU's: leave out one of the two"
        )


def _in_memory(layout: Layout) -> SharedFrames:
    parent = IN_MEMORY if IN_MEMORY.is_dir() else Path(tempfile.gettempdir())
    name = sha256("\n".join(store.about for store in layout.stores).encode()).hexdigest()[:16]
    try:
        return SharedFrames(parent, name)
    except OSError as error:
        raise StorageError(
            f"{parent}: frame_cache= cannot keep pictures there: {error.strerror or error}; "
            "frame_cache_dir= names a folder for them"
        ) from error


def _in_folder(folder: Path) -> Path:
    """Return where pictures lie in a user's folder, which is marked as one of roboshard's."""
    home = folder / HOME
    try:
        claim_folder(folder)
        home.mkdir(exist_ok=True)
    except OSError as error:
        if not home.is_dir():
            raise StorageError(
                f"{folder}: frame_cache_dir= must be a folder that can be written: "
                f"{error.strerror or error}"
            ) from error
    return home


def _check_room(folder: Path, layout: Layout, *, is_memory: bool) -> None:
    """Raise OptionError where what is to be kept does not fit, beside what is kept already."""
    stored = sum(
        file.stat().st_blocks * 512
        for store in layout.stores
        for file in (folder / store.name).glob("*")
    )
    free = shutil.disk_usage(folder).free
    if layout.num_bytes <= stored + free:
        return
    remedy = "give a smaller frame_cache=, or another folder"
    if is_memory:
        remedy = (
            "frame_cache_dir= keeps them in a folder of a local disk instead, and a smaller "
            "frame_cache= keeps fewer; containers get more by `docker run --shm-size`, or an "
            "emptyDir with medium: Memory"
        )
    raise OptionError(
        f"{folder.parent}: has {_shown(free)} free, and frame_cache= is to keep "
        f"{_shown(layout.num_bytes)} of pictures there: {remedy}"
    )


def _shown(num_bytes: int) -> str:
    return f"{num_bytes / 10**9:.2f} GB"


def _leave(folder: Path, descriptor: int, process: int) -> None:
    if os.getpid() == process:  # a fork does not own it
        leave_held_folder(folder, descriptor)

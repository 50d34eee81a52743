"""Opening a source: from what a user calls SOURCE to its files, and from these to the reader of
their LeRobot version.
"""

import re
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.filesize import decimal

from roboshard import storage
from roboshard.common.errors import MissingError, OptionError
from roboshard.converter.source.api import Source
from roboshard.converter.source.files import LocalFiles, SourceFiles
from roboshard.converter.source.hub_cache import files_in_cache
from roboshard.converter.source.lerobot_common import is_v2, read_info
from roboshard.converter.source.lerobot_v3 import LeRobotV3Source
from roboshard.converter.source.lerobot_v21 import LeRobotV21Source
from roboshard.converter.source.remote_files import open_remote

_PINNED = re.compile(r"hf://datasets/([^/@]+/[^/@]+)@([0-9a-f]{40})(/.+)?")
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(.+))?", re.ASCII)


def open_source(source: str, scratch: str | None, scratch_bytes: int) -> SourceFiles:
    """The files of a source; `close` them at the end.

    Lists a remote source and downloads its metadata.

    Args:
        source: a local folder, `org/name[@revision]` of a Hub dataset where no such folder exists,
            or a URL.
        scratch: where what is downloaded lies meanwhile; None: the system's folder for temporary
            files.
        scratch_bytes: what may lie there at once.

    Raises:
        MissingError, StorageError: there is no such source, or it cannot be read.
        OptionError: `scratch_bytes` does not hold the metadata.
    """
    url = hub_url(source) or source
    if storage.is_local(url):
        return LocalFiles(storage.local_path(url))
    storage.store_of(url)
    if cached := files_in_cache(url):
        return cached
    try:
        url = storage.pinned(url.rstrip("/"))
        name, revision = _name_of(url)
        return open_remote(
            url, name, revision, base=Path(scratch or tempfile.gettempdir()), capacity=scratch_bytes
        )
    except MissingError as error:
        if url == source:
            raise
        raise MissingError(
            f"{source}: neither a folder nor a dataset on the Hub: {error}"
        ) from error


def read_source(files: SourceFiles) -> Source:
    """The dataset in these files, by the reader of its version.

    Raises MissingError or SourceError.
    """
    info = read_info(files)
    if is_v2(info):
        return LeRobotV21Source(files, info)
    return LeRobotV3Source(files, info)


def check_capacity(source: Source, episodes: NDArray[np.int64]) -> None:
    """Raise OptionError unless there is room for the files of any of these episodes, which are held
    together.
    """
    files = source.meta.files
    if files.capacity is None:
        return
    needed, episode = source.most_needed_at_once(episodes)
    if needed > files.capacity:
        raise OptionError(
            f"{files.where()}: the source files that episode {episode} lies in take "
            f"{decimal(needed)}; there is room for {decimal(files.capacity)}. Raise "
            "--scratch-size, or choose a larger disk by --scratch"
        )


def _name_of(url: str) -> tuple[str, str | None]:
    """Name and commit: a Hub dataset is known by both, anything else by its folder alone, like a
    local one.
    """
    match = _PINNED.fullmatch(url)
    if match:
        return match[1] + (match[3] or ""), match[2]
    return storage.redacted(url).rpartition("/")[2], None


def hub_url(source: str) -> str | None:
    """hf://datasets/... for `org/name[@revision]`, unless there is such a folder; None for anything
    else.
    """
    match = _HUB_NAME.fullmatch(source)
    if match is None or Path(source).is_dir():
        return None
    name, revision = match.groups()
    return f"hf://datasets/{name}" + (f"@{revision.replace('/', '%2F')}" if revision else "")

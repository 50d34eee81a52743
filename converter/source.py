"""What every source looks like to the rest of the converter, whatever LeRobot version wrote it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from roboshard.converter.source_files import SourceFiles
from roboshard.shards.jsonio import Json


@dataclass(frozen=True, kw_only=True)
class VideoSpan:
    """Where one camera's frames of an episode lie."""

    path: str
    """Video file, relative to the source's root."""
    from_s: float
    """Time of the episode's first frame in the file, in seconds."""
    to_s: float
    """Time of the episode's end in the file, in seconds; infinite: the file's own end."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode of a source: what its metadata says of it."""

    index: int
    length: int
    """Rows."""
    tasks: tuple[str, ...]
    rows_path: str
    """Parquet file with its rows, relative to the source's root."""
    first_row: int
    """`index` of its first row in the whole dataset."""
    videos: Mapping[str, VideoSpan]
    """By camera key."""
    metadata_path: str
    """File with its row of meta/episodes, relative to the source's root."""
    metadata_row: int
    """Which row of that file."""
    metadata: Mapping[str, Json] | None = None
    """The row itself; None: the file is parquet, and the row is read when it is needed."""


@dataclass(frozen=True, kw_only=True)
class SourceMeta:
    """What a source says of itself; small enough to send to every worker."""

    files: SourceFiles
    name: str
    revision: str | None
    fingerprint: str
    """SHA-256 over the metadata files and the names and sizes of all others."""
    codebase_version: str
    fps: float
    features: dict[str, dict[str, Json]]
    tasks: tuple[str, ...]
    """By position: a row's task is tasks[task_index]."""
    tasks_path: str
    """The file that lists them."""
    info: dict[str, Json]
    stats: dict[str, Json] | None
    camera_keys: tuple[str, ...]


class Source(Protocol):
    """A LeRobot dataset to convert."""

    meta: SourceMeta

    @property
    def episode_indices(self) -> NDArray[np.int64]:
        """Indices of all episodes, ascending."""

    def episodes(self, indices: Sequence[int]) -> list[Episode]:
        """The episodes with these indices, in this order."""

    def estimated_bytes(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """About how many bytes each of these episodes will take in a shard; what shards are planned by."""

    def most_needed_at_once(self, indices: NDArray[np.int64]) -> tuple[int, int]:
        """(bytes of the files that the neediest of these episodes lies in, its index)."""

"""What every source looks like to the rest of the converter, whatever LeRobot version wrote it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from roboshard.common.jsonio import Json
from roboshard.converter.source.files import SourceFiles
from roboshard.shards.documents import Finding
from roboshard.shards.features import keys_of


@dataclass(frozen=True, kw_only=True)
class VideoSpan:
    """Where one camera's frames of an episode lie."""

    path: str
    """Video file, relative to the source's root."""
    from_s: float
    """Time of the episode's first frame in the file, in seconds."""
    to_s: float
    """Time of the episode's end in the file, in seconds; infinite: the file's own end."""
    limit_s: float = math.inf
    """Where other frames begin that are another episode's, in seconds: no frame of this one is
    there.
    """


@dataclass(frozen=True, kw_only=True)
class RowPiece:
    """Neighbouring rows of a data file: `start` to `stop - 1`."""

    path: str
    """Path of the data file, relative to the source's root."""
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode of a source: what its metadata says of it, which the rows have the last word
    on.
    """

    index: int
    length: int | None
    """How many rows the episode has; None: the metadata does not say."""
    tasks: tuple[str, ...] | None
    """Texts of the episode's tasks; None: the metadata does not say."""
    rows_path: str | None
    """Parquet file with the episode's rows, relative to the source's root; None: the metadata does
    not say.
    """
    first_row: int | None
    """`index` of the episode's first row in the whole dataset; None: the metadata does not say."""
    pieces: tuple[RowPiece, ...] | None = None
    """The episode's rows as they were found in the data files; None: nobody has looked yet."""
    videos: Mapping[str, VideoSpan]
    """Camera key -> where the camera's frames of the episode lie."""
    metadata_path: str
    """Metadata file with the episode's row or line, relative to the source's root; empty: it has
    none.
    """
    metadata_row: int
    """Position of the episode's row or line in the metadata file, from 0 on."""
    metadata: Mapping[str, Json] | None = None
    """The episode's metadata itself; None: the file is parquet, and the row is read when it is
    needed.
    """


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """The tasks of a dataset, by position."""

    path: str
    """The file that lists the tasks, relative to the source's root."""
    texts: tuple[str | None, ...]
    """Text of each task; None: the task has no text."""
    gaps: frozenset[int] = frozenset()
    """Positions that no line of the file has: a row that names one has no task."""
    columns: Mapping[str, list[Json]] = field(default_factory=dict)
    """Column -> its values, task by task: what else the file says of tasks."""
    wraps: bool = False
    """Whether a negative task_index counts from the end, as LeRobot v3 looks tasks up."""

    @property
    def null_positions(self) -> list[int]:
        """Positions of the tasks that have no text."""
        return [i for i, text in enumerate(self.texts) if text is None]

    @property
    def plain_texts(self) -> list[str]:
        """Texts of all tasks, empty where a task has none."""
        return [text or "" for text in self.texts]


@dataclass(frozen=True, kw_only=True)
class SourceMeta:
    """What a source says of itself; small enough to send to every worker."""

    files: SourceFiles
    info: dict[str, Json]
    fingerprint: str
    """SHA-256 over the metadata files and the names and sizes of all others."""
    tasks: TaskTable
    """The dataset's tasks; a row's task is the one at its `task_index`."""
    stats: dict[str, Json] | None
    data_depth: int | None
    """How many folders data files lie below, data/ included; None: any number."""
    findings: tuple[Finding, ...] = ()
    """What is odd in the metadata."""
    counted: Mapping[str, int] = field(default_factory=dict)
    """total_episodes and total_frames, where info.json's are wrong."""

    @property
    def codebase_version(self) -> str:
        """LeRobot's version of the format."""
        return str(self.info["codebase_version"])

    @property
    def fps(self) -> float:
        """Rows per second."""
        return float(self.info["fps"])

    @property
    def features(self) -> dict[str, dict[str, Json]]:
        """What the dataset says of its features, by key."""
        features: dict[str, dict[str, Json]] = self.info["features"]
        return features

    @property
    def camera_keys(self) -> tuple[str, ...]:
        """Features that are stored as video, in order."""
        return keys_of(self.features, "video")


class Source(Protocol):
    """A LeRobot dataset to convert."""

    meta: SourceMeta

    @property
    def episode_indices(self) -> NDArray[np.int64]:
        """Indices of all episodes, ascending."""

    def episodes(self, indices: Sequence[int]) -> list[Episode]:
        """The episodes with these indices, in this order."""

    def estimated_bytes(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Estimate how many bytes each of these episodes will take in a shard; shards are planned
        by that.
        """

    def most_needed_at_once(self, indices: NDArray[np.int64]) -> tuple[int, int]:
        """(bytes of the files that the neediest of these episodes lies in, its index)."""

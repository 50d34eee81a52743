"""The JSON documents of the shard format as validated types (docs/format.md is the normative text).

Reading a document reports every problem with its place. Fields that this release does not know are
kept.
"""

from typing import Annotated, ClassVar, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from roboshard.common import jsonio
from roboshard.common.errors import FormatError, VersionError
from roboshard.shards.documents import (
    Count,
    Document,
    FileEntry,
    Finding,
    Positive,
    Sha256,
    SparseDocument,
)
from roboshard.shards.missing import total
from roboshard.shards.names import (
    MAX_EPISODES,
    RECORD_SUFFIX,
    ROWS_SUFFIX,
)
from roboshard.shards.shard_list import ShardList

FORMAT_MAJOR = 1
FORMAT_VERSION = f"{FORMAT_MAJOR}.0"
"""What documents say that need nothing newer; `versions.py` has the others."""

MAX_RECORD_BYTES = 16 << 20
MAX_MANIFEST_BYTES = 256 << 20
MAX_MEMBER_BYTES = 64 << 30
MAX_TICK = 1 << 62
MAX_VERSION_CHARS = 32

Crc32c = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
Offset = Annotated[int, Field(ge=0, le=1 << 50)]
EpisodeIndex = Annotated[int, Field(ge=0, lt=MAX_EPISODES)]
Tick = Annotated[int, Field(ge=-MAX_TICK, le=MAX_TICK)]
Fps = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CameraRecord(Document):
    """One camera of one episode: what its slice holds and which frame belongs to which row."""

    key: str
    """Feature key in the source dataset."""
    member: str
    """Suffix of the tar member: its name is `<sample key>.<member>`. It ends with `.mp4` or
    `.mkv`.
    """
    codec: str
    """FFmpeg's name of the codec: h264, hevc, av1, …"""
    width: Positive
    height: Positive
    pix_fmt: str
    num_frames: Positive
    """Frames in the slice in presentation order, those to skip and those past the episode's end
    included.
    """
    skip_frames: Count
    """Frames before the episode's first one: the slice starts at a keyframe."""
    keyframes: list[Count]
    """Frames of the slice, ascending, at which decoding can start."""
    time_base: tuple[Positive, Positive]
    """Seconds per tick as a fraction: the unit of `pts`."""
    pts: list[tuple[Tick, Count, Positive]]
    """Presentation times of all frames as runs [first tick, step, count]."""
    rows: list[tuple[Count, Count, Positive]]
    """Row -> frame of the slice, as runs [first row, first frame, count] that cover every row in
    order.
    """

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sum(count for _, _, count in self.pts) != self.num_frames:
            raise ValueError("pts runs do not cover num_frames")
        if any(first + step * (count - 1) > MAX_TICK for first, step, count in self.pts):
            raise ValueError("a pts run leaves 64 bits")
        if not self.keyframes or self.keyframes[-1] >= self.num_frames:
            raise ValueError("keyframes must name at least one frame, all of them below num_frames")
        if any(b <= a for a, b in zip(self.keyframes, self.keyframes[1:], strict=False)):
            raise ValueError("keyframes must ascend")
        next_row = 0
        for row, frame, count in self.rows:
            if row != next_row or frame + count > self.num_frames:
                raise ValueError(
                    f"rows run [{row}, {frame}, {count}] leaves a gap or passes num_frames"
                )
            next_row = row + count
        if not self.rows or self.rows[0][1] != self.skip_frames:
            raise ValueError("the first row must show frame skip_frames")
        return self

    def ticks(self) -> NDArray[np.int64]:
        """(num_frames,) when each frame is shown, in ticks."""
        return np.concatenate(
            [first + step * np.arange(count, dtype=np.int64) for first, step, count in self.pts]
        )

    def frames(self) -> NDArray[np.int64]:
        """(rows,) the frame of the slice that each row shows."""
        return np.concatenate(
            [frame + np.arange(count, dtype=np.int64) for _, frame, count in self.rows]
        )

    @property
    def num_rows(self) -> int:
        """Rows that the row -> frame map covers."""
        return sum(count for _, _, count in self.rows)


class EpisodeRecord(SparseDocument):
    """`<key>.json`: the first member of every sample."""

    version: str
    episode_index: EpisodeIndex
    length: Positive
    """Rows of the episode."""
    fps: Fps
    tasks: list[str]
    cameras: list[CameraRecord]
    missing: dict[str, Count] = Field(default_factory=dict)
    """Feature key -> rows without a value, of features that have such rows."""
    findings: list[Finding] = Field(default_factory=list)
    """What is odd in the source of this episode."""
    absent_if_empty: ClassVar[tuple[str, ...]] = ("findings", "missing")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for camera in self.cameras:
            if camera.num_rows != self.length:
                raise ValueError(
                    f"camera {camera.key!r} covers {camera.num_rows} of {self.length} rows"
                )
        if len({camera.key for camera in self.cameras}) != len(self.cameras):
            raise ValueError("a camera key occurs twice")
        members = [RECORD_SUFFIX, ROWS_SUFFIX, *(camera.member.lower() for camera in self.cameras)]
        if len(set(members)) != len(members):
            raise ValueError(
                "two cameras, or a camera and another member, share a name (case does not count)"
            )
        return self


class MemberEntry(Document):
    """Where a member's payload lies in its shard."""

    name: str
    offset: Offset
    size: Annotated[int, Field(ge=0, le=MAX_MEMBER_BYTES)]
    crc32c: Crc32c


class SampleEntry(SparseDocument):
    """One sample of a shard.

    The samples' ranges tile the shard: the last one reaches to its end.
    """

    key: str
    episode_index: EpisodeIndex
    length: Positive
    tasks: list[str]
    offset: Offset
    """First byte of the sample's first tar header."""
    size: Annotated[int, Field(ge=1, le=1 << 50)]
    crc32c: Crc32c
    """CRC32C of the sample's whole range: headers, payloads and padding."""
    members: list[MemberEntry]
    missing: dict[str, Count] = Field(default_factory=dict)
    """Feature key -> rows without a value, as in the episode's record."""
    findings: list[Finding] = Field(default_factory=list)
    """What is odd in the source of this episode, as in its record."""
    absent_if_empty: ClassVar[tuple[str, ...]] = ("findings", "missing")


class ShardManifest(Document):
    """`shards/shard-000000.json`: what lies where in a shard."""

    version: str
    shard: str
    size: Positive
    sha256: Sha256
    conversion: Sha256
    """Which conversion (source, options, library versions) wrote the shard."""
    samples: list[SampleEntry]


class SourceInfo(Document):
    """Where the dataset came from."""

    name: str
    revision: str | None
    codebase_version: str
    fingerprint: Sha256
    """Hash of the source's metadata and of its files' names and sizes."""


class Conversion(SparseDocument):
    """How the shards were made: everything besides the source that decides their bytes."""

    id: Sha256
    """Hash of source fingerprint, options and versions: equal ids mean equal bytes."""
    options: dict[str, jsonio.Json]
    versions: dict[str, str]
    """Versions of roboshard and of the libraries that write MP4 and parquet."""
    num_shards: Count
    """Shards planned; fewer exist where every episode of a shard was skipped."""
    first_shard: Count = 0
    """Number of the first shard that was planned."""
    grows: Sha256 | None = None
    """Fingerprint of the dataset that the shards were appended to; None: they begin a dataset."""
    absent_if_empty: ClassVar[tuple[str, ...]] = ("first_shard", "grows")


class Provenance(SparseDocument):
    """The part of dataset.json that a bare shard repeats, so that manifests can be rebuilt from
    tars alone.
    """

    source: SourceInfo
    conversion: Conversion
    fps: Fps
    features: dict[str, dict[str, jsonio.Json]]
    tasks: list[str]
    """Texts of the tasks, by position: `task` of a row is tasks[task_index]."""
    info: dict[str, jsonio.Json]
    """The source's meta/info.json, verbatim."""
    stats: dict[str, jsonio.Json] | None
    """The source's meta/stats.json, verbatim."""
    null_tasks: list[Count] = Field(default_factory=list)
    """Positions in `tasks` at which the source has no text; there `tasks` has an empty one."""
    task_columns: dict[str, list[jsonio.Json]] = Field(default_factory=dict)
    """Further columns of the source's tasks, by position as `tasks`."""
    counted: dict[str, Count] = Field(default_factory=dict)
    """total_episodes and total_frames of the source, where info.json's are wrong."""
    absent_if_empty: ClassVar[tuple[str, ...]] = ("null_tasks", "task_columns", "counted")

    @property
    def task_texts(self) -> list[str | None]:
        """Tasks by position; None where the source has no text."""
        nulls = frozenset(self.null_tasks)
        return [None if i in nulls else text for i, text in enumerate(self.tasks)]


class Snapshot(Document):
    """What a dataset was before it grew: its first shards, under a dataset.json of its own."""

    fingerprint: Sha256
    conversion: Sha256
    """Id of the conversion that wrote the snapshot's last shards."""
    episodes: Count
    frames: Count
    shards: Count
    """How many of the dataset's shards, from the first on, the snapshot has."""
    index: FileEntry
    manifest: FileEntry
    """The snapshot's dataset.json, byte for byte."""


class DatasetManifest(Provenance):
    """`dataset.json`: written last; without it there is no dataset."""

    format: Literal["roboshard"]
    version: str
    fingerprint: Sha256
    """SHA-256 over the canonical JSON of this document without this field."""
    total_episodes: Count
    total_frames: Count
    shards: ShardList
    index: FileEntry
    snapshots: list[Snapshot] = Field(default_factory=list)
    """What the dataset was before each time that it grew, oldest first."""
    absent_if_empty: ClassVar[tuple[str, ...]] = (*Provenance.absent_if_empty, "snapshots")

    @property
    def missing(self) -> dict[str, int]:
        """Feature key -> rows without a value, of features that have such rows."""
        return total([shard.missing for shard in self.shards.unlike.values()])


DocumentT = TypeVar("DocumentT", bound=Document)


def parse(cls: type[DocumentT], data: bytes | memoryview, what: str, max_bytes: int) -> DocumentT:
    """Read a document from JSON; `what` names the file in errors.

    Raises:
        VersionError: a newer major version.
        FormatError: every problem with its place.
    """
    return parse_value(cls, jsonio.load(data, what, max_bytes), what)


def parse_value(cls: type[DocumentT], value: dict[str, jsonio.Json], what: str) -> DocumentT:
    """Validate a document's JSON that has been read already, as `parse` does."""
    if "version" in cls.model_fields:
        check_version(value.get("version"), what)
    return validate_json(cls, jsonio.dump(value), what)


def validate_json(cls: type[DocumentT], data: bytes, what: str) -> DocumentT:
    """Check JSON as `jsonio.dump` writes it.

    Raises FormatError with every problem and its place.
    """
    try:
        return cls.model_validate_json(data)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, fault['loc'])) or '(document)'}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise FormatError(f"{what}: not a valid {cls.__name__}:", problems[:50]) from None


def check_version(version: object, what: str) -> None:
    """Refuse versions that this release does not read, by name."""
    text = version if isinstance(version, str) and len(version) <= MAX_VERSION_CHARS else ""
    major, _, minor = text.partition(".")
    if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise VersionError(f"{what}: format version {version!r:.40} is not of the form MAJOR.MINOR")
    if int(major) != FORMAT_MAJOR:
        raise VersionError(
            f"{what}: format version {version}; this release reads {FORMAT_MAJOR}.x. "
            "Install the roboshard release that wrote the dataset, or convert it again."
        )


def document_bytes(document: Document) -> bytes:
    """The JSON that the format writes for a document."""
    return jsonio.dump(document.model_dump(mode="json"))

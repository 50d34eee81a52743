"""The shards that dataset.json lists, in a hundred bytes each.

There may be a hundred thousand, which every process that loads knows; as objects they would take
2 KB each. An entry is a row of an array, and is made anew when it is asked for. One that a row
cannot hold is kept as it was read: with counts of missing values, with fields that this release
does not know, or with other names than the format gives.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from roboshard.shards.documents import Count, FileEntry, Positive, Sha256, SparseDocument
from roboshard.shards.names import is_shard_name, shard_manifest_name, shard_name, shard_number

ROW = struct.Struct("<Iqqqq32s32s")
COLUMNS = np.dtype(
    [
        ("number", "<u4"),  # in the names of the shard and its manifest
        ("size", "<i8"),
        ("episodes", "<i8"),
        ("frames", "<i8"),
        ("manifest_size", "<i8"),
        ("sha256", "u1", (32,)),
        ("manifest_sha256", "u1", (32,)),
    ]
)
"""What a row of a `ShardList` holds, as `ROW` writes it."""


class ShardEntry(SparseDocument):
    """One shard in dataset.json."""

    name: str
    size: Positive
    sha256: Sha256
    episodes: Positive
    frames: Positive
    manifest: FileEntry
    missing: dict[str, Count] = Field(default_factory=dict)
    """Feature key -> rows without a value, over the shard's episodes."""
    absent_if_empty: ClassVar[tuple[str, ...]] = ("missing",)


Packed = bytes | ShardEntry
"""A shard's entry as a row's bytes; or as it is, where no row can hold it."""


@dataclass(frozen=True, eq=False)
class ShardList(Sequence[ShardEntry]):
    """The entries of a dataset's shards, in order."""

    rows: NDArray[Any]
    """(n,) entries of the shards, of dtype `COLUMNS`."""
    unlike: Mapping[int, ShardEntry]
    """Place in the list -> entry, of shards whose entries are kept as they were read.

    All others have the names that the format gives, no missing values and no unknown fields.
    """

    @classmethod
    def of(cls, entries: Iterable[ShardEntry]) -> "ShardList":
        """Return a list of these entries."""
        return _unpacked([_packed(entry) for entry in entries])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) Bytes of each shard."""
        return self._column("size")

    @property
    def episodes(self) -> NDArray[np.int64]:
        """(n,) Episodes of each shard."""
        return self._column("episodes")

    @property
    def frames(self) -> NDArray[np.int64]:
        """(n,) Frames of each shard."""
        return self._column("frames")

    @property
    def names(self) -> list[str]:
        """The name of each shard."""
        names = [shard_name(number) for number in self.rows["number"].tolist()]
        for place, entry in self.unlike.items():
            names[place] = entry.name
        return names

    def _column(self, name: str) -> NDArray[np.int64]:
        return np.asarray(self.rows[name], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> ShardEntry: ...

    @overload
    def __getitem__(self, place: slice) -> "ShardList": ...

    def __getitem__(self, place: int | slice) -> "ShardEntry | ShardList":
        if isinstance(place, slice):
            places = range(len(self))[place]
            unlike = {i: self.unlike[at] for i, at in enumerate(places) if at in self.unlike}
            return ShardList(self.rows[place], unlike)
        row = self.rows[place]  # or an IndexError, as of any sequence
        kept = self.unlike.get(place % len(self))
        return _entry(row) if kept is None else kept

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ShardList):
            return NotImplemented
        return np.array_equal(self.rows, other.rows) and self.unlike == other.unlike

    __hash__ = None  # type: ignore[assignment]  # as of a list

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        entry = handler.generate_schema(ShardEntry)
        packed = core_schema.no_info_after_validator_function(_packed, entry)
        return core_schema.no_info_after_validator_function(
            _unpacked,
            core_schema.list_schema(packed, strict=True),
            serialization=core_schema.plain_serializer_function_ser_schema(_dumped),
        )


def _packed(entry: ShardEntry) -> Packed:
    """Return an entry as a row, if a row can hold all of it."""
    is_like = (
        is_shard_name(entry.name)
        and entry.manifest.name == shard_manifest_name(entry.name)
        and not (entry.missing or entry.model_extra or entry.manifest.model_extra)
    )
    return _row(entry) if is_like else entry


def _row(entry: ShardEntry) -> bytes:
    return ROW.pack(
        shard_number(entry.name) if is_shard_name(entry.name) else 0,
        entry.size,
        entry.episodes,
        entry.frames,
        entry.manifest.size,
        bytes.fromhex(entry.sha256),
        bytes.fromhex(entry.manifest.sha256),
    )


def _unpacked(packed: Sequence[Packed]) -> ShardList:
    unlike = {i: found for i, found in enumerate(packed) if isinstance(found, ShardEntry)}
    rows = b"".join(_row(found) if isinstance(found, ShardEntry) else found for found in packed)
    return ShardList(np.frombuffer(rows, dtype=COLUMNS), unlike)


def _entry(row: Any) -> ShardEntry:
    """Return the entry of a row, whose values were checked when it was packed."""
    name = shard_name(int(row["number"]))
    manifest = FileEntry.model_construct(
        name=shard_manifest_name(name),
        size=int(row["manifest_size"]),
        sha256=row["manifest_sha256"].tobytes().hex(),
    )
    return ShardEntry.model_construct(
        name=name,
        size=int(row["size"]),
        sha256=row["sha256"].tobytes().hex(),
        episodes=int(row["episodes"]),
        frames=int(row["frames"]),
        manifest=manifest,
    )


def _dumped(shards: ShardList) -> list[dict[str, Any]]:
    return [entry.model_dump(mode="json") for entry in shards]

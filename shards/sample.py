"""One episode in a shard: which bytes of it are wanted, and what they are, once read and
verified.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from crc32c import crc32c

from roboshard.common.errors import DamageError, FormatError
from roboshard.shards.names import RECORD_SUFFIX, ROWS_SUFFIX, matroska_suffix, member_name
from roboshard.shards.ranges import ByteRange
from roboshard.shards.schema import MAX_RECORD_BYTES, EpisodeRecord, MemberEntry, SampleEntry, parse
from roboshard.shards.writer import crc_text
from roboshard.storage.stored import StoredRange


@dataclass(frozen=True, kw_only=True)
class EpisodeData:
    """One episode as stored: verified bytes, not yet decoded."""

    where: str
    """Shard and episode, for messages."""
    record: EpisodeRecord
    rows: memoryview
    """The episode's rows, as a parquet file."""
    videos: dict[str, memoryview]
    """Camera key -> its slice, of the cameras asked for."""
    num_bytes: int
    """Bytes of all members that were read."""
    stored: dict[str, StoredRange] = field(default_factory=dict)
    """Camera key -> where its slice lies in a local file; without those that lie in none."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Bytes of a shard that are read and verified as a whole: a sample, or one member of it."""

    range: ByteRange
    crc32c: str
    members: tuple[MemberEntry, ...]
    """Members that lie in the piece."""

    def payloads(self, data: memoryview) -> dict[str, memoryview]:
        """Member name -> its bytes, out of those of the piece."""
        start = self.range.offset
        return {
            member.name: data[member.offset - start :][: member.size] for member in self.members
        }

    def check(self, data: memoryview, where: str) -> None:
        """Raise DamageError, naming the member, unless these are the bytes that were written."""
        if crc_text(crc32c(data)) == self.crc32c:
            return
        for member in self.members:
            if crc_text(crc32c(self.payloads(data)[member.name])) != member.crc32c:
                raise DamageError(
                    f"{where}: member {member.name} is damaged (CRC32C differs from the manifest's)"
                )
        raise DamageError(f"{where}: damaged: a tar header or padding is not what was written")


ReadPiece = Callable[[Piece], memoryview]
"""A callback that gives the verified bytes of a piece."""
StoredPiece = Callable[[Piece], StoredRange | None]
"""A callback that says where a piece that was read lies in a local file; None: in none."""


@dataclass(frozen=True, kw_only=True)
class SampleRead:
    """An episode to be read: which bytes of which shard."""

    where: str
    """Shard and episode, for messages."""
    shard: int
    """Position of the shard in dataset.json."""
    sample: SampleEntry
    cameras: tuple[str, ...] | None
    """Keys of the cameras whose videos are wanted; None: all."""
    pieces: tuple[Piece, ...]


def plan_sample(
    shard: int,
    sample: SampleEntry,
    where: str,
    cameras: tuple[str, ...] | None,
    suffixes: Mapping[str, str],
) -> SampleRead:
    """Plan which bytes to read: the whole sample at once, or record, rows and the videos of
    `cameras`.

    `suffixes` says which member a camera's video is likely to be; its record has the last word on
    that.

    Raises:
        FormatError: the sample has no record or no rows.
    """
    members = _by_suffix(sample)
    if not members.keys() >= {RECORD_SUFFIX, ROWS_SUFFIX}:
        raise FormatError(
            f"{where}: its members are {sorted(members)}, without {RECORD_SUFFIX} or {ROWS_SUFFIX}"
        )
    if cameras is None:
        whole = ByteRange(sample.offset, sample.size)
        pieces = [Piece(range=whole, crc32c=sample.crc32c, members=tuple(sample.members))]
    else:
        likely = [suffixes.get(key, "") for key in cameras]
        wanted = [RECORD_SUFFIX, ROWS_SUFFIX, *likely, *map(matroska_suffix, likely)]
        pieces = [_piece_of(members[suffix]) for suffix in wanted if suffix in members]
    return SampleRead(
        where=where, shard=shard, sample=sample, cameras=cameras, pieces=tuple(pieces)
    )


def assemble(
    read: SampleRead, read_piece: ReadPiece, stored: StoredPiece, all_cameras: Collection[str]
) -> EpisodeData:
    """The episode, from the bytes that `read_piece` gives, and `stored` says where they lie.

    Raises:
        DamageError, FormatError: naming shard, episode and, where it can be known, member.
    """
    members, wanted = _by_suffix(read.sample), read.cameras
    payloads: dict[str, memoryview] = {}
    for piece in read.pieces:
        payloads |= piece.payloads(read_piece(piece))
    record = _record_of(payloads[members[RECORD_SUFFIX].name], read)
    chosen = [camera for camera in record.cameras if wanted is None or camera.key in wanted]
    for camera in chosen:
        if (
            member := members[camera.member]
        ).name not in payloads:  # named otherwise than this release would
            payloads |= _piece_of(member).payloads(read_piece(_piece_of(member)))
    videos = {camera.key: payloads[members[camera.member].name] for camera in chosen}
    missing = [key for key in (all_cameras if wanted is None else wanted) if key not in videos]
    if missing:
        raise FormatError(f"{read.where}: holds no video of camera {', '.join(map(repr, missing))}")
    return EpisodeData(
        where=read.where,
        record=record,
        rows=payloads[members[ROWS_SUFFIX].name],
        videos=videos,
        num_bytes=sum(len(payload) for payload in payloads.values()),
        stored=_stored(read, {camera.key: members[camera.member] for camera in chosen}, stored),
    )


def _stored(
    read: SampleRead, slices: Mapping[str, MemberEntry], stored: StoredPiece
) -> dict[str, StoredRange]:
    found = {}
    for piece in read.pieces:
        mine = {key: member for key, member in slices.items() if member in piece.members}
        place = stored(piece) if mine else None
        if place is not None:
            for key, member in mine.items():
                found[key] = place.part(member.offset - piece.range.offset, member.size)
    return found


def _piece_of(member: MemberEntry) -> Piece:
    return Piece(
        range=ByteRange(member.offset, member.size), crc32c=member.crc32c, members=(member,)
    )


def _by_suffix(sample: SampleEntry) -> dict[str, MemberEntry]:
    return {
        member.name.removeprefix(member_name(sample.key, "")): member for member in sample.members
    }


def _record_of(data: memoryview, read: SampleRead) -> EpisodeRecord:
    """The episode record, checked against the manifest's entry and the members that are there."""
    record = parse(EpisodeRecord, data, read.where, MAX_RECORD_BYTES)
    sample = read.sample
    if (record.episode_index, record.length) != (sample.episode_index, sample.length):
        raise FormatError(
            f"{read.where}: its record is of episode {record.episode_index} with {record.length} "
            f"rows, the manifest's of {sample.episode_index} with {sample.length}"
        )
    listed = set(_by_suffix(sample))
    expected = {RECORD_SUFFIX, ROWS_SUFFIX, *(camera.member for camera in record.cameras)}
    if listed != expected:
        raise FormatError(
            f"{read.where}: members {sorted(listed)} where its record names {sorted(expected)}"
        )
    return record

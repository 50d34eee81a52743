"""Where a shard's samples and members should lie: as its manifest says, or, without one, as its tar
says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from roboshard import storage
from roboshard.common.errors import FormatError
from roboshard.shards.names import episode_of_key, split_member_name
from roboshard.shards.schema import ShardManifest
from roboshard.shards.tar import TarMember, scan


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where a member lies in its shard; `crc32c` is None where no manifest says it."""

    name: str
    offset: int
    size: int
    crc32c: str | None

    @property
    def suffix(self) -> str:
        """The part of the member's name that comes after the sample's key."""
        return self.name.partition(".")[2]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Where a sample lies in its shard; what no manifest says is None."""

    episode: int
    offset: int
    size: int
    crc32c: str | None
    length: int | None
    tasks: list[str] | None
    members: tuple[Member, ...]
    missing: dict[str, int] | None
    """Feature key -> how many rows have no value."""

    @property
    def end(self) -> int:
        """Where the first byte after the sample lies in the shard."""
        return self.offset + self.size


def layout_of_manifest(manifest: ShardManifest) -> list[Sample]:
    """Return where samples and members lie, as a manifest says."""
    return [
        Sample(
            episode=sample.episode_index,
            offset=sample.offset,
            size=sample.size,
            crc32c=sample.crc32c,
            length=sample.length,
            tasks=sample.tasks,
            members=tuple(
                Member(
                    name=member.name, offset=member.offset, size=member.size, crc32c=member.crc32c
                )
                for member in sample.members
            ),
            missing=sample.missing,
        )
        for sample in manifest.samples
    ]


def layout_of_tar(url: str, size: int) -> list[Sample]:
    """Return where samples and members lie, as the tar says. Raises FormatError, DamageError."""
    groups = list(_groups(url, size))
    ends = [members[0].start for _, members in groups[1:]] + [size]
    return [
        Sample(
            episode=episode,
            offset=members[0].start,
            size=end - members[0].start,
            crc32c=None,
            length=None,
            tasks=None,
            members=tuple(
                Member(name=m.name, offset=m.offset, size=m.size, crc32c=None) for m in members
            ),
            missing=None,
        )
        for (episode, members), end in zip(groups, ends, strict=True)
    ]


def _groups(url: str, size: int) -> Iterator[tuple[int, list[TarMember]]]:
    seen = set[int]()
    members = scan(partial(storage.read_range, url), size, storage.redacted(url))
    for key, group in groupby(members, key=lambda member: split_member_name(member.name)[0]):
        episode = episode_of_key(key)
        if episode in seen:
            raise FormatError(
                f"{storage.redacted(url)}: members of sample {key!r} are not adjacent"
            )
        seen.add(episode)
        yield episode, list(group)

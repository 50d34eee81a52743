"""The bytes of one sample against its checksums, and its tar headers against the manifest."""

from collections.abc import Callable

from crc32c import crc32c

from roboshard.common.errors import RoboshardError
from roboshard.common.selection import some
from roboshard.shards.tar import END_OF_ARCHIVE, TarMember, member_header, scan
from roboshard.shards.writer import crc_text
from roboshard.tools.verify.layout import Member, Sample
from roboshard.tools.verify.problems import CONVERT_AGAIN, COPY_AGAIN, Place

OwnerOf = Callable[[str], str | None]
"""A function that returns the member of the same shard that a checksum belongs to; None: none."""


def payload(sample: Sample, member: Member, data: memoryview) -> memoryview:
    """Return a member's bytes out of those of its sample."""
    return data[member.offset - sample.offset :][: member.size]


def check_bytes(
    sample: Sample, data: memoryview, *, is_last: bool, place: Place, owner_of: OwnerOf
) -> set[str]:
    """Report the members that are damaged, and return their names; `owner_of` says whose a checksum
    is.
    """
    damaged = _damaged_members(sample, data, place, owner_of)
    whole = sample.crc32c is None or crc_text(crc32c(data)) == sample.crc32c
    remedy = CONVERT_AGAIN if whole else COPY_AGAIN
    sound_tar = _check_tar(sample, data, is_last, place, remedy)
    if not whole and not damaged and sound_tar:
        place.report(
            "the sample's CRC32C differs from the manifest's, though every member's is right",
            remedy,
        )
    return damaged


def _damaged_members(sample: Sample, data: memoryview, place: Place, owner_of: OwnerOf) -> set[str]:
    damaged = set()
    for member in sample.members:
        found = crc_text(crc32c(payload(sample, member, data)))
        if member.crc32c is None or found == member.crc32c:
            continue
        damaged.add(member.name)
        owner = owner_of(found)
        swapped = f"; it holds what belongs to {owner}: swapped" if owner else ""
        place.at(member=member.name).report(
            f"damaged: its CRC32C differs from the manifest's{swapped}", COPY_AGAIN
        )
    return damaged


def _check_tar(sample: Sample, data: memoryview, is_last: bool, place: Place, remedy: str) -> bool:
    """Return whether the headers are those that the format prescribes for the members in the
    manifest.
    """
    before = place.problems.count
    found: list[TarMember] = []
    try:
        size = len(data) + (
            0 if is_last else len(END_OF_ARCHIVE)
        )  # scanned as an archive of its own
        found.extend(
            scan(
                lambda at, count: bytes(data[at : at + count]).ljust(count, b"\0"), size, "the tar"
            )
        )
    except RoboshardError as error:
        place.report(f"{error} (offsets from the sample's start, {sample.offset})", remedy)
        return False
    listed = [member.name for member in sample.members]
    if [member.name for member in found] != listed:
        names = [member.name for member in found]
        swapped = ": members are swapped" if sorted(names) == sorted(listed) else ""
        place.report(
            f"the tar holds {some(names, 8)} where the manifest lists {some(listed, 8)}{swapped}",
            remedy,
        )
        return False
    for member, entry in zip(found, sample.members, strict=True):
        inner = place.at(member=entry.name)
        if (sample.offset + member.offset, member.size) != (entry.offset, entry.size):
            inner.report(
                f"lies at {sample.offset + member.offset} with {member.size} bytes in the tar, "
                f"at {entry.offset} with {entry.size} in the manifest",
                remedy,
            )
        elif data[member.start : member.offset] != member_header(member.name, member.size):
            inner.report("its tar header is not the one that the format prescribes", remedy)
        if bytes(data[member.offset + member.size : member.end]).strip(b"\0"):
            inner.report("its padding in the tar is not zero", remedy)
    end = found[-1].end + (len(END_OF_ARCHIVE) if is_last else 0) if found else 0
    if end != len(data):
        place.report(f"its members end at {end} of {len(data)} bytes of its range", remedy)
    return place.problems.count == before

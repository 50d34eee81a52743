"""Tar archives as the format writes and scans them.

Writing is deterministic: regular files, mode 0644, owner, group and time zero, PAX records only
where a name or size does not fit the plain header. Scanning reads headers alone, in bounded memory,
and believes nothing: regular files with plain names only; no links, folders, devices or GNU
extensions.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from roboshard.common.errors import DamageError, FormatError
from roboshard.shards.names import split_member_name
from roboshard.shards.schema import MAX_MEMBER_BYTES

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)
MAX_PAX_BYTES = 64 << 10
MAX_PADDING_BLOCKS = (
    1 << 11
)  # zero blocks that other writers put after the end: tar's default record is 20

ReadRange = Callable[[int, int], bytes]


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """A regular file in a tar."""

    name: str
    start: int
    """Offset of the first header block that belongs to the member."""
    offset: int
    """Offset of the member's payload."""
    size: int
    """Bytes of the member's payload."""

    @property
    def end(self) -> int:
        """Offset after the payload's padding: where the next member starts."""
        return self.offset + padded(self.size)


def padded(size: int) -> int:
    """Bytes that a payload of `size` takes up in a tar."""
    return -(-size // BLOCK) * BLOCK


def member_header(name: str, size: int) -> bytes:
    """The header blocks of a regular file."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def scan(read: ReadRange, size: int, what: str) -> Iterator[TarMember]:
    """The members of a tar of `size` bytes in order; `read(offset, length)` gives its bytes, `what`
    names it.

    Raises:
        FormatError: a member that is not a plainly named regular file, or a header that is none.
        DamageError: the archive ends before its end mark.
    """
    position = 0
    while True:
        start, pax = position, dict[str, str]()
        block = _block(read, position, size, what)
        if block == bytes(BLOCK):
            _check_end(read, position, size, what)
            return
        info = _header(block, position, what)
        if info.type == tarfile.XHDTYPE:
            pax, position = _pax_records(read, info, position, size, what)
            info = _header(_block(read, position, size, what), position, what)
        member = _member(info, pax, start, position, what)
        if member.end > size:
            raise DamageError(f"{what}: cut off inside member {member.name!r}")
        yield member
        position = member.end


def _block(read: ReadRange, position: int, size: int, what: str) -> bytes:
    if position + BLOCK > size:
        raise DamageError(f"{what}: ends at offset {size} without the tar's end mark")
    return read(position, BLOCK)


def _header(block: bytes, position: int, what: str) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise FormatError(f"{what}: no valid tar header at offset {position}: {error}") from None
    if not 0 <= info.size <= MAX_MEMBER_BYTES:
        raise FormatError(f"{what}: the header at offset {position} claims {info.size} bytes")
    return info


def _pax_records(
    read: ReadRange, info: tarfile.TarInfo, position: int, size: int, what: str
) -> tuple[dict[str, str], int]:
    """PAX extended header: its records, and the offset of the header that they apply to."""
    if info.size > MAX_PAX_BYTES:
        raise FormatError(f"{what}: PAX records at offset {position} claim {info.size} bytes")
    if position + BLOCK + padded(info.size) > size:
        raise DamageError(f"{what}: cut off inside the PAX records at offset {position}")
    data = read(position + BLOCK, info.size)
    records: dict[str, str] = {}
    while data.strip(b"\0"):
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) <= 6 else 0
        available = len(data)
        record, data = data[len(digits) + 1 : length], data[length:]
        name, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not (len(digits) + 1 < length <= available and equals and record.endswith(b"\n")):
            raise FormatError(f"{what}: malformed PAX records at offset {position}")
        try:
            records[name.decode()] = value.decode()
        except UnicodeDecodeError:
            raise FormatError(f"{what}: PAX records at offset {position} are not UTF-8") from None
    if any(
        name.startswith("GNU.sparse.") for name in records
    ):  # other readers would see another name and size
        raise FormatError(
            f"{what}: the header at offset {position} is of a sparse file; those are refused"
        )
    return records, position + BLOCK + padded(info.size)


def _member(
    info: tarfile.TarInfo, pax: dict[str, str], start: int, position: int, what: str
) -> TarMember:
    name = pax.get("path", info.name)
    size_text = pax.get("size", str(info.size))
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise FormatError(
            f"{what}: {name!r} is not a regular file (tar type {info.type!r}); links, folders and "
            "special files are refused"
        )
    plain = size_text.isascii() and size_text.isdigit() and len(size_text) <= 20
    if not (plain and int(size_text) <= MAX_MEMBER_BYTES):
        raise FormatError(f"{what}: member {name!r} claims a size of {size_text[:40]!r}")
    try:
        split_member_name(name)
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from None
    return TarMember(name=name, start=start, offset=position + BLOCK, size=int(size_text))


def _check_end(read: ReadRange, position: int, size: int, what: str) -> None:
    """Check that the tar has two blocks at least from `position` on, and nothing but zeros."""
    rest = size - position
    if rest < 2 * BLOCK:
        raise DamageError(f"{what}: cut off inside the tar's end mark")
    if rest > MAX_PADDING_BLOCKS * BLOCK or read(position, rest).strip(b"\0"):
        raise DamageError(f"{what}: data after the tar's end mark at offset {position}")

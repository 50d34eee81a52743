"""Tar bytes put together by hand, so that they can say what no honest writer would."""

from __future__ import annotations

from dataclasses import dataclass, field

from roboshard.shards.tar import BLOCK, END_OF_ARCHIVE, TarMember, padded, scan

KEY = "ep-000000000"


def raw_header(
    name: bytes | str,
    size: int | bytes = 0,
    *,
    kind: bytes = b"0",
    linkname: bytes = b"",
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """Return one header block with a right checksum.

    `size`: a number, or the field's 12 bytes as they shall be.
    """
    field_of_size = (
        size if isinstance(size, bytes) else b"%011o\0" % size if size < 8**11 else base256(size)
    )
    head = name.encode() if isinstance(name, str) else name
    block = bytearray(
        head.ljust(100, b"\0")
        + b"0000644\0" + b"0000000\0" * 2
        + field_of_size + b"00000000000\0"
        + b" " * 8 + kind + linkname.ljust(100, b"\0")
        + magic + bytes(32) * 2 + b"0000000\0" * 2
        + prefix.ljust(155, b"\0") + bytes(12)
    )  # fmt: skip
    assert len(block) == BLOCK
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def base256(value: int) -> bytes:
    """A size field in GNU's binary form, negative numbers included."""
    return (b"\xff" if value < 0 else b"\x80") + (value % (1 << 88)).to_bytes(11, "big")


def pad(payload: bytes) -> bytes:
    """The payload filled up to whole blocks."""
    return payload.ljust(padded(len(payload)), b"\0")


def member(name: str, payload: bytes = b"") -> bytes:
    """Return a regular file of a tar: its header, and its payload padded."""
    return raw_header(name, len(payload)) + pad(payload)


def pax_record(name: str, value: str) -> bytes:
    """`LENGTH NAME=VALUE` and a newline, the length counting itself."""
    body = f" {name}={value}\n".encode()
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def pax(payload: bytes, *, size: int | bytes | None = None) -> bytes:
    """A PAX extended header for the next member, of records as `pax_record` makes them."""
    return raw_header("./PaxHeaders/x", len(payload) if size is None else size, kind=b"x") + pad(
        payload
    )


def archive(*parts: bytes) -> bytes:
    """Return members and the end mark as an archive."""
    return b"".join(parts) + END_OF_ARCHIVE


@dataclass
class CountingReader:
    """Bytes behind the scanner's `read`, which notes every read and allows none that leaves the
    data.
    """

    data: bytes
    reads: list[int] = field(default_factory=list)

    def __call__(self, offset: int, length: int) -> bytes:
        """Give the bytes, as storage would."""
        assert 0 <= offset <= offset + length <= len(self.data), "read outside the archive"
        self.reads.append(length)
        return self.data[offset : offset + length]


def scanned(data: bytes) -> list[TarMember]:
    """What the format's scanner finds."""
    return list(scan(CountingReader(data), len(data), "a.tar"))

"""Tar headers are written for every reader, and read as if an enemy had written them."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tars import (
    KEY,
    CountingReader,
    archive,
    base256,
    member,
    pad,
    pax,
    pax_record,
    raw_header,
    scanned,
)

from roboshard.common.errors import DamageError, FormatError, RoboshardError
from roboshard.shards.schema import MAX_MEMBER_BYTES
from roboshard.shards.tar import (
    BLOCK,
    END_OF_ARCHIVE,
    MAX_PADDING_BLOCKS,
    MAX_PAX_BYTES,
    TarMember,
    member_header,
    padded,
    scan,
)

LONG = f"{KEY}.observation.images.{'wrist' * 30}.mp4"
SCRIPTS = f"{KEY}.observación.画像🧊.mp4"
suffixes = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"),
    min_size=1,
    max_size=120,
).filter(lambda text: len(text.encode()) < 240)


def written(payloads: dict[str, bytes]) -> bytes:
    return archive(*(member_header(name, len(data)) + pad(data) for name, data in payloads.items()))


def contents(data: bytes) -> dict[str, bytes]:
    return {found.name: data[found.offset : found.offset + found.size] for found in scanned(data)}


# -- Writing ---------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        suffixes.map(lambda suffix: f"{KEY}.{suffix}"), st.binary(max_size=1200), max_size=4
    )
)
def test_what_is_written_is_what_python_and_the_scan_read(payloads: dict[str, bytes]) -> None:
    data = written(payloads)
    assert contents(data) == payloads
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {info.name: tar.extractfile(info) for info in tar}
        assert {name: file and file.read() for name, file in found.items()} == payloads
        assert all((info.mode, info.uid, info.gid, info.mtime) == (0o644, 0, 0, 0) for info in tar)
        assert [info.offset_data for info in tar] == [found.offset for found in scanned(data)]
    assert written(payloads) == data


def test_gnu_tar_reads_long_names_and_names_in_any_script(tmp_path: Path) -> None:
    payloads = {
        f"{KEY}.json": b"{}",
        LONG: b"v" * 700,
        SCRIPTS: b"w" * 512,
        f"{KEY}.empty.mp4": b"",
    }
    (tmp_path / "a.tar").write_bytes(written(payloads))
    command = ["tar", "--quoting-style=literal", "-tvf", "a.tar"]
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/bin:/usr/bin"}
    listing = subprocess.run(
        command, cwd=tmp_path, check=True, capture_output=True, env=environment
    )
    assert listing.stderr == b""
    rows = [line.split(maxsplit=5) for line in listing.stdout.decode().splitlines()]
    assert [(row[0], int(row[2]), row[5]) for row in rows] == [
        ("-rw-r--r--", len(data), name) for name, data in payloads.items()
    ]


def test_a_plain_name_takes_one_header_block_and_other_names_three() -> None:
    assert len(member_header(f"{KEY}.json", 1)) == BLOCK
    assert len(member_header(LONG, 1)) == len(member_header(SCRIPTS, 1)) == 3 * BLOCK
    assert [found.start for found in scanned(written({LONG: b"a", SCRIPTS: b"b"}))] == [
        0,
        4 * BLOCK,
    ]


def test_a_member_of_8_gib_and_more_has_its_size_in_a_pax_record() -> None:
    size = 9 << 30
    header = member_header(f"{KEY}.mp4", size)
    assert pax_record("size", str(size)) in header
    reader = CountingReader(header + bytes(BLOCK))
    found = next(scan(reader, len(header) + size + 2 * BLOCK, "a.tar"))
    assert found == TarMember(name=f"{KEY}.mp4", start=0, offset=len(header), size=size)


@pytest.mark.parametrize(
    ("size", "blocks"), [(0, 0), (1, 1), (511, 1), (512, 1), (513, 2), (1 << 36, 1 << 27)]
)
def test_payloads_are_padded_to_whole_blocks(size: int, blocks: int) -> None:
    assert padded(size) == blocks * BLOCK


# -- Scanning --------------------------------------------------------------------------------------


def test_a_tar_of_gnu_tar_is_read_with_its_record_padding(tmp_path: Path) -> None:
    payloads = {f"{KEY}.json": b"{}", LONG: b"v" * 700}
    for name, data in payloads.items():
        (tmp_path / name).write_bytes(data)
    for kind in ("ustar", "pax", "v7"):
        names = [name for name in payloads if kind == "pax" or len(name) < 100]
        subprocess.run(
            ["tar", f"--format={kind}", "-cf", "a.tar", *names], cwd=tmp_path, check=True
        )
        assert contents((tmp_path / "a.tar").read_bytes()) == {
            name: payloads[name] for name in names
        }


def test_reads_are_headers_only_and_few() -> None:
    data = written({f"{KEY}.{i}.mp4": bytes([i]) * 50_000 for i in range(20)})
    reader = CountingReader(data)
    assert len(list(scan(reader, len(data), "a.tar"))) == 20
    assert reader.reads == [BLOCK] * 21 + [2 * BLOCK]


@pytest.mark.parametrize(
    ("kind", "what"),
    {
        b"1": "hard link", b"2": "symbolic link", b"3": "character device", b"4": "block device", b"5": "folder",
        b"6": "FIFO", b"7": "contiguous file", b"L": "GNU long name", b"K": "GNU long link", b"S": "GNU sparse file",
        b"V": "volume label", b"M": "continued file", b"g": "global PAX header", b"X": "Solaris header",
        b"Z": "unknown",
    }.items(),
)  # fmt: skip
def test_only_regular_files_are_accepted(kind: bytes, what: str) -> None:
    del what
    data = archive(raw_header(f"{KEY}.json", 3, kind=kind, linkname=b"/etc/passwd") + pad(b"{}\n"))
    with pytest.raises(FormatError, match=r"^a\.tar: .*not a regular file"):
        scanned(data)
    with pytest.raises(FormatError, match="not a regular file"):
        scanned(archive(pax(pax_record("path", f"{KEY}.json")) + data))


@pytest.mark.parametrize(
    "name",
    [
        "../ep-000000000.json", "/etc/passwd", "./ep-000000000.json", "shards/ep-000000000.json", "..", ".", "",
        "ep-0", ".json", "ep-0.", "ep-0.\\x.mp4", "ep-0.a\nb", "ep-0.a\x7f", "ep-000000000.json/", "C:\\ep-0.json",
    ],
)  # fmt: skip
def test_only_plain_names_are_accepted(name: str) -> None:
    for data in (
        archive(member(name)),
        archive(pax(pax_record("path", name)) + member(f"{KEY}.json")),
    ):
        with pytest.raises(FormatError, match=r"^a\.tar: "):
            scanned(data)


def test_a_prefix_field_makes_a_path_and_is_refused() -> None:
    with pytest.raises(FormatError, match=r"'\.\./ep-000000000\.json' is not a plain"):
        scanned(archive(raw_header(f"{KEY}.json", prefix=b"..")))


@pytest.mark.parametrize(
    "size",
    [
        base256(-512), base256(-1), base256(-(1 << 87)), base256(1 << 62), base256(MAX_MEMBER_BYTES + 1),
        b"77777777777\0", b"777777777777", b"-0000001000\0", b"0x000000010\0", b"99999999999\0", b"\xfe" * 12,
    ],
)  # fmt: skip
def test_sizes_that_no_member_can_have_are_refused_at_once(size: bytes) -> None:
    for data in (
        archive(raw_header(f"{KEY}.mp4", size)),
        archive(pax(b"", size=size), member(f"{KEY}.mp4")),
    ):
        reader = CountingReader(data)
        with pytest.raises(RoboshardError, match=r"^a\.tar: "):
            list(scan(reader, len(data), "a.tar"))
        assert len(reader.reads) <= 2
        assert max(reader.reads) <= BLOCK


@pytest.mark.parametrize(
    "value",
    [
        "-1", "-512", "", "x", "1.0", "1e3", "0x10", " 1", "1_0", "+1", "٣",
        str(1 << 62), "0" * 20 + "9" * 5000, "9" * 60_000,
    ],
)  # fmt: skip
def test_a_pax_size_that_is_no_plain_number_is_refused(value: str) -> None:
    with pytest.raises(FormatError, match="claims a size of"):
        scanned(archive(pax(pax_record("size", value)), member(f"{KEY}.mp4", b"abc")))


def test_a_pax_size_past_the_end_is_damage() -> None:
    with pytest.raises(DamageError, match=r"cut off inside member 'ep-000000000\.mp4'"):
        scanned(archive(pax(pax_record("size", "4096")), member(f"{KEY}.mp4", b"abc")))


@pytest.mark.parametrize(
    "payload",
    [
        b"1", b"99 path=a.json\n", b"0 path=a.json\n", b"-5 path=a\n", b"13 path=a.json", b"8 path\n\n\n",
        b"path=a.json\n", b" =\n", b"3 \n", b"13 path\0a.json", b"11 path=\xff.j\n", b"16 \xff\xff\xff\xff=a.json\n",
        b"9999999 path=a\n",
        b"\xd9\xa3 p=\n", b"x" * 5000,
    ],
)  # fmt: skip
def test_malformed_pax_records_are_refused(payload: bytes) -> None:
    with pytest.raises(FormatError, match=r"^a\.tar: .*PAX records"):
        scanned(archive(pax(payload), member(f"{KEY}.json")))


def test_pax_records_of_other_writers_are_passed_over() -> None:
    records = b"".join(
        pax_record(name, "1.5") for name in ("mtime", "atime", "SCHILY.dev", "comment")
    )
    assert contents(archive(pax(records), member(f"{KEY}.json", b"{}"))) == {f"{KEY}.json": b"{}"}


@pytest.mark.parametrize(
    "name", ["GNU.sparse.major", "GNU.sparse.name", "GNU.sparse.size", "GNU.sparse.map"]
)
def test_sparse_files_by_pax_are_refused_since_other_readers_see_another_file(name: str) -> None:
    with pytest.raises(FormatError, match="sparse"):
        scanned(archive(pax(pax_record(name, "1")), member(f"{KEY}.json")))


def test_pax_records_are_bounded_before_they_are_read() -> None:
    for claimed in (MAX_PAX_BYTES + 1, MAX_MEMBER_BYTES, MAX_PAX_BYTES, 3 * BLOCK + 1):
        data = archive(pax(b"", size=claimed), member(f"{KEY}.json"))
        reader = CountingReader(data)
        with pytest.raises((FormatError, DamageError), match=r"PAX records at offset 0"):
            list(scan(reader, len(data), "a.tar"))
        assert reader.reads == [BLOCK]


def test_more_pax_records_than_any_name_needs_are_refused() -> None:
    records = b"5 a=\n" * (MAX_PAX_BYTES // 5 + 1)
    with pytest.raises(FormatError, match=f"PAX records at offset 0 claim {len(records)} bytes"):
        scanned(archive(pax(records), member(f"{KEY}.json", b"{}")))


def test_as_many_pax_records_as_fit_are_read_in_no_time() -> None:
    records = b"5 a=\n" * (MAX_PAX_BYTES // 5)
    data = archive(pax(records), member(f"{KEY}.json", b"{}"))
    start = time.process_time()
    assert contents(data) == {f"{KEY}.json": b"{}"}
    assert time.process_time() - start < 10


def test_a_pax_header_needs_a_member_to_follow() -> None:
    records = pax_record("path", f"{KEY}.json")
    with pytest.raises(FormatError, match="not a regular file"):
        scanned(archive(pax(records), pax(records), member(f"{KEY}.json")))
    with pytest.raises(FormatError, match="no valid tar header"):
        scanned(archive(pax(records)))
    with pytest.raises(DamageError, match="without the tar's end mark"):
        scanned(pax(records))


# -- Damage ----------------------------------------------------------------------------------------

HONEST = written({f"{KEY}.json": b"{}", LONG: b"v" * 700, f"{KEY}.empty.mp4": b""})
BOUNDARIES = list(range(0, len(HONEST), BLOCK))


@pytest.mark.parametrize(
    "length", sorted(boundary + n for boundary in BOUNDARIES for n in (0, 1, 300, 511))
)
def test_a_tar_cut_off_anywhere_is_damage(length: int) -> None:
    with pytest.raises(DamageError, match=r"^a\.tar: "):
        scanned(HONEST[:length])


@given(st.integers(0, len(HONEST) * 8 - 1))
def test_a_flipped_bit_is_an_error_or_moves_no_member(bit: int) -> None:
    data = bytearray(HONEST)
    data[bit // 8] ^= 1 << bit % 8
    try:
        found = scanned(bytes(data))
    except (FormatError, DamageError):
        pass
    else:  # of a payload or a PAX name: checksums and records hold those
        assert [(m.offset, m.size) for m in found] == [(m.offset, m.size) for m in scanned(HONEST)]


@given(st.binary(max_size=3 * BLOCK))
def test_noise_is_an_error(noise: bytes) -> None:
    with pytest.raises((FormatError, DamageError)):
        scanned(noise)


def test_nothing_but_a_bounded_run_of_zeros_may_follow_the_end_mark() -> None:
    body = member(f"{KEY}.json", b"{}")
    assert scanned(body + bytes(MAX_PADDING_BLOCKS * BLOCK))
    zeros = bytes(MAX_PADDING_BLOCKS * BLOCK + 1)
    for tail in (zeros, END_OF_ARCHIVE + b"x", END_OF_ARCHIVE + body, bytes(BLOCK) + body):
        with pytest.raises(DamageError, match="after the tar's end mark"):
            scanned(body + tail)


def test_members_neither_overlap_nor_leave_gaps() -> None:
    found = scanned(HONEST)
    assert found[0].start == 0
    assert all(one.end == two.start for one, two in pairwise(found))

"""Matroska slices: what is written is read, and nothing but one track of plain blocks is."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st

from roboshard.common.errors import FormatError
from roboshard.shards import ebml
from roboshard.shards.matroska import read_matroska, rounded_ticks
from roboshard.shards.matroska_track import Stream, codings, track_entry, with_frame_duration
from roboshard.shards.matroska_writer import FINE_NS, MatroskaWriter
from roboshard.shards.sample import plan_sample
from roboshard.shards.schema import CameraRecord, MemberEntry, SampleEntry
from roboshard.shards.slices import read_slice

VP8 = Stream(
    codec="vp8",
    tag=bytes(4),
    extradata=b"",
    width=96,
    height=64,
    pix_fmt="yuv420p",
    bits_per_coded_sample=0,
    sample_aspect_ratio=Fraction(4, 3),
    color_range=1,
    color_primaries=2,
    color_trc=2,
    colorspace=5,
    is_reordered=False,
)
TRACK = track_entry(VP8, next(codings(VP8)), 40_000_000)
Packet = tuple[bytes, int, bool]
PACKETS: list[Packet] = [
    (bytes([n % 4 > 0]) + bytes([n]) * (n + 15), 4000 * n, n % 4 == 0) for n in range(12)
]
"""The lowest bit of VP8's first byte says that a picture is no keyframe, and FFmpeg looks at it."""


def written(packets: list[Packet] = PACKETS, track: bytes = TRACK) -> bytes:
    buffer = io.BytesIO()
    writer = MatroskaWriter(buffer, track, scale_ns=FINE_NS)
    for payload, tick, is_keyframe in packets:
        writer.add(payload, tick, is_keyframe=is_keyframe)
    writer.finish()
    return buffer.getvalue()


def read(data: bytes) -> list[Packet]:
    file = read_matroska(data)
    facts = zip(file.tables.pts.tolist(), file.tables.is_sync.tolist(), strict=True)
    return [(file.packet(data, i), tick, is_key) for i, (tick, is_key) in enumerate(facts)]


@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=300), st.integers(0, 1 << 20), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_what_is_written_is_read(packets: list[Packet]) -> None:
    data = written(packets)
    assert read(data) == packets
    assert data == written(packets)


def test_a_demuxer_finds_the_same() -> None:
    with av.open(io.BytesIO(written()), format="matroska") as container:
        (stream,) = container.streams
        context = stream.codec_context
        assert (context.name, stream.time_base) == ("vp8", Fraction(FINE_NS, 10**9))
        assert (int(context.color_range), int(context.colorspace)) == (1, 5)
        assert isinstance(stream, VideoStream)
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        found = [(bytes(p), p.pts, p.is_keyframe) for p in container.demux(stream) if p.size]
        assert found == PACKETS
        for payload, tick, is_keyframe in PACKETS:
            if is_keyframe:
                container.seek(tick, stream=stream)
                assert bytes(next(iter(container.demux(stream)))) == payload


def test_wherever_it_is_cut_off_nothing_is_read() -> None:
    data = written()
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"."):
            read_matroska(data[:length])


def test_no_changed_byte_is_read_as_a_file_of_other_structure() -> None:
    """It is refused, or there are as many blocks, none of them outside the file."""
    data = written()
    for position in range(len(data)):
        for change in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[position] ^= change
            try:
                tables = read_matroska(bytes(changed), len(PACKETS)).tables
            except ValueError:
                continue
            assert len(tables.sizes) == len(PACKETS)
            assert tables.lie_within(bytes(changed))


def put_in_segment(kind: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = data.index(ebml.identifier(ebml.SEGMENT))
        size = int.from_bytes(data[at + 5 : at + 12], "big")
        more = ebml.element(kind, b"\0" * 8)
        return data[:at] + ebml.long_header(ebml.SEGMENT, size + len(more)) + data[at + 12 :] + more

    return change


def in_track(*more: bytes) -> Callable[[bytes], bytes]:
    return lambda _: written(track=TRACK + b"".join(more))


def replaced(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    assert len(before) == len(after)

    def change(data: bytes) -> bytes:
        assert before in data
        return data.replace(before, after, 1)

    return change


def endless(data: bytes) -> bytes:
    """Its segment is of unknown size."""
    at = data.index(ebml.identifier(ebml.SEGMENT)) + 4
    return data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 :]


ENCODINGS, BLOCK_ADDITIONS, AUDIO = 0x6D80, 0x55EE, 0xE1
FIRST_BLOCK = bytes([0xA3, 0x94, 0x81, 0, 0, 0x80])
BREAKS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "attachments": (put_in_segment(0x1941A469), "not expected in a segment"),
    "chapters": (put_in_segment(0x1043A770), "not expected in a segment"),
    "tags": (put_in_segment(0x1254C367), "not expected in a segment"),
    "second tracks": (put_in_segment(ebml.TRACKS), "not expected in a segment"),
    "compression": (in_track(ebml.element(ENCODINGS, b"\0")), "not expected"),
    "data beside blocks": (in_track(ebml.integer(BLOCK_ADDITIONS, 1)), "not expected"),
    "sound": (in_track(ebml.element(AUDIO, b"")), "not expected"),
    "two codecs": (in_track(ebml.element(ebml.CODEC_ID, b"V_VP9")), "or not twice"),
    "not video": (replaced(ebml.integer(ebml.TRACK_TYPE, 1), ebml.integer(ebml.TRACK_TYPE, 2)), "not one of video"),
    "another document": (replaced(b"matroska", b"whatever"), "document type"),
    "lacing": (replaced(FIRST_BLOCK, FIRST_BLOCK[:5] + b"\x82"), "several packets"),
    "not shown": (replaced(FIRST_BLOCK, FIRST_BLOCK[:5] + b"\x88"), "not shown"),
    "another track": (replaced(FIRST_BLOCK, FIRST_BLOCK[:2] + b"\x82\0\0\x80"), "another track"),
    "before the start": (replaced(FIRST_BLOCK, FIRST_BLOCK[:2] + b"\x81\xff\xff\x80"), "before the file's start"),
    "unknown size": (endless, "unknown size"),
    "more after it": (lambda d: d + d, "not one EBML header"),
    "nothing": (lambda d: b"", "not one EBML header"),
    "an MP4 file": (lambda d: b"\0\0\0\x18ftypisom" + d, "."),
    "a playlist": (lambda d: b"#EXTM3U\n" + d, "."),
    "odd ticks": (replaced(ebml.integer(ebml.TIMESTAMP_SCALE, FINE_NS), b"\x2a\xd7\xb1\x82\x27\x11"), "ns"),
    "seeks elsewhere": (
        replaced(b"\x53\xab\x84\x16\x54\xae\x6b", b"\x53\xab\x84\x19\x41\xa4\x69"),
        "seek head leads elsewhere",
    ),
    "cues elsewhere": (
        replaced(ebml.integer(ebml.CUE_TIME, 16000), ebml.integer(ebml.CUE_TIME, 16001)),
        "cues lead elsewhere",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_anything_else_than_one_plain_track_is_refused(name: str) -> None:
    change, message = BREAKS[name]
    data = change(written())
    with pytest.raises(ValueError, match=message):
        read_matroska(data)


def test_blocks_are_counted_before_they_are_kept() -> None:
    with pytest.raises(ValueError, match="more than 11 blocks"):
        read_matroska(written(), 11)
    with pytest.raises(ValueError, match="12 frames in the slice, 13 in its record"):
        read_matroska(written(), 13)


def record(**changes: object) -> CameraRecord:
    fields: dict[str, object] = {
        "key": "observation.images.top",
        "member": "observation.images.top.mkv",
        "codec": "vp8",
        "width": 96,
        "height": 64,
        "pix_fmt": "yuv420p",
        "num_frames": len(PACKETS),
        "skip_frames": 0,
        "keyframes": [0, 4, 8],
        "time_base": (1, 25),
        "pts": [(0, 1, len(PACKETS))],
        "rows": [(0, 0, len(PACKETS))],
    }
    return CameraRecord.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": "vp9"}, "its codec is 'V_VP8', vp9 in its record"),
        ({"codec": "text"}, "codec 'text'"),
        ({"time_base": (1, 30)}, "shown at other times"),
        ({"pts": [(1, 1, len(PACKETS))]}, "shown at other times"),
        ({"num_frames": 11, "pts": [(0, 1, 11)], "rows": [(0, 0, 11)]}, "not a Matroska slice"),
        ({"member": "observation.images.top.mp4"}, "not an MP4 slice"),
    ],
)
def test_a_slice_is_what_its_record_says(changes: dict[str, object], message: str) -> None:
    data = memoryview(written())
    assert len(read_slice(data, record()).tables.pts) == len(PACKETS)
    with pytest.raises(FormatError, match=message):
        read_slice(data, record(**changes))


def test_times_are_rounded_to_the_nearest_tick() -> None:
    ticks = rounded_ticks(np.arange(4), Fraction(1, 30), FINE_NS)
    assert ticks.tolist() == [0, 3333, 6667, 10000]
    times = Fraction(1, 1000)
    assert rounded_ticks(np.array([0, 33, 67]), times, 1_000_000).tolist() == [0, 33, 67]


def test_a_track_with_another_duration_of_frames_is_otherwise_the_same() -> None:
    without = with_frame_duration(TRACK, 0)
    assert ebml.integer(ebml.DEFAULT_DURATION, 40_000_000) not in without
    assert len(read(written(track=with_frame_duration(without, 1)))) == len(PACKETS)
    again = with_frame_duration(without, 40_000_000)
    assert sorted(again) == sorted(TRACK)


def test_a_camera_in_matroska_is_read_at_once_with_its_record() -> None:
    names = ["json", "parquet", "a.mkv", "b.mp4"]
    members = [
        MemberEntry(name=f"ep-000000000.{name}", offset=512 + 1024 * i, size=5, crc32c="0" * 8)
        for i, name in enumerate(names)
    ]
    sample = SampleEntry(
        key="ep-000000000",
        episode_index=0,
        length=1,
        tasks=[],
        offset=0,
        size=4096,
        crc32c="0" * 8,
        members=members,
    )
    read = plan_sample(0, sample, "here", ("a",), {"a": "a.mp4", "b": "b.mp4"})
    found = [piece.members[0].name.removeprefix("ep-000000000.") for piece in read.pieces]
    assert found == ["json", "parquet", "a.mkv"]

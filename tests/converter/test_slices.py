"""A slice that is not what was copied is never used; what is read without FFmpeg is what FFmpeg
reads.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from roboshard.converter.video import mp4_file, slice_file
from roboshard.converter.video.alignment import RowTimes
from roboshard.converter.video.keyframes import has_av1_frame_types, is_av1_keyframe
from roboshard.converter.video.packets import Packets
from roboshard.converter.video.slice_file import VideoSlice
from roboshard.converter.video.video_file import VideoFile
from roboshard.shards import SourceError
from roboshard.shards.mp4 import read_sample_tables

VIDEOS = sorted((Path(__file__).parents[1] / "data/pusht_sim").rglob("*.mp4"))
ROWS = RowTimes(
    from_s=0.0, to_s=2.0, timestamps=np.arange(20, dtype=np.float32) / 10, fps=10, tolerance_s=0.01
)

every_video = pytest.mark.parametrize(
    "path", VIDEOS, ids=[path.parent.parent.name + path.stem for path in VIDEOS]
)


@pytest.fixture
def video() -> Iterator[VideoFile]:
    file = VideoFile(VIDEOS[0])
    yield file
    file.close()


def cut(video: VideoFile) -> VideoSlice:
    return video.cut(ROWS, key="observation.image", member="observation.image.mp4")


def last_byte_of(data: bytes, box: bytes) -> int:
    name = data.index(box)
    return name - 4 + int.from_bytes(data[name - 4 : name], "big") - 1


@pytest.mark.parametrize("box", [b"mdat", b"stsz", b"stts", b"stss", b"stsc", b"stco"])
def test_one_changed_bit_is_an_error(
    video: VideoFile, monkeypatch: pytest.MonkeyPatch, box: bytes
) -> None:
    mux = mp4_file._mux
    assert cut(video).data

    def damaged(source: object, packets: Packets) -> bytes:
        data = bytearray(mux(source, packets))
        data[last_byte_of(data, box)] ^= 1
        return bytes(data)

    monkeypatch.setattr(mp4_file, "_mux", damaged)
    with pytest.raises(SourceError):
        cut(video)


@pytest.mark.parametrize("box", [b"stsz", b"stts", b"stss", b"stsc", b"stco", b"mdhd"])
def test_without_a_table_or_with_a_short_one_nothing_is_read(video: VideoFile, box: bytes) -> None:
    data = cut(video).data
    name = data.index(box)
    if box != b"stss":  # without it, every sample is a keyframe
        with pytest.raises(ValueError, match="table"):
            read_sample_tables(data[:name] + b"free" + data[name + 4 :])
    if box != b"mdhd":
        longer = data[: name + 11] + bytes([data[name + 11] + 1]) + data[name + 12 :]
        with pytest.raises(ValueError, match=r"table|samples"):
            read_sample_tables(longer)


def test_tables_are_what_ffmpeg_reads(video: VideoFile) -> None:
    data = cut(video).data
    tables = read_sample_tables(data)
    with av.open(io.BytesIO(data)) as copy:
        packets = [packet for packet in copy.demux(video=0) if packet.size]
    assert tables.pts.tolist() == [packet.pts for packet in packets]
    assert tables.dts.tolist() == [packet.dts for packet in packets]
    assert tables.sizes.tolist() == [packet.size for packet in packets]
    assert tables.offsets.tolist() == [packet.pos for packet in packets]
    assert tables.is_sync.tolist() == [packet.is_keyframe for packet in packets]


@every_video
def test_av1_keyframes_are_those_that_ffmpeg_finds(path: Path) -> None:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert has_av1_frame_types(bytes(container.streams.video[0].codec_context.extradata or b""))
    for packet in packets:
        assert is_av1_keyframe(memoryview(packet), not packet.is_keyframe) == packet.is_keyframe


def test_a_packet_that_is_cut_short_is_what_its_flag_says() -> None:
    for data in (b"", b"\x0a", b"\x32\x80", b"\x0a\x05\x00"):
        assert is_av1_keyframe(memoryview(data), True)
        assert not is_av1_keyframe(memoryview(data), False)


def test_a_codec_that_slices_cannot_hold_is_refused(
    video: VideoFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is written: no reader would load it."""
    monkeypatch.setattr(slice_file, "DECODERS", {"vp9": "vp9"})
    with pytest.raises(
        SourceError,
        match="its codec av1 is none that slices may have",
    ):
        cut(video)

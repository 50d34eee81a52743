"""Keyframes are what packets are, whatever the file says of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from support.lerobot_source import Camera, Source, build, render
from support.recordings import record

from roboshard.converter import ConversionReport
from roboshard.converter.video.keyframes import keyframe_check
from roboshard.loader import open_dataset
from roboshard.shards import ShardedDataset

TOP = "observation.images.top"
SIZE, GOP, LENGTHS = (64, 96), 4, (6, 6, 6)
Run = Callable[..., ConversionReport]
X265 = (
    f"bframes=0:scenecut=0:pools=none:frame-threads=1:log-level=none:keyint={GOP}:min-keyint={GOP}"
)
KINDS = {
    "libx264": {"x264-params": f"bframes=0:scenecut=0:threads=1:keyint={GOP}:min-keyint={GOP}"},
    "libx265": {"x265-params": X265},
    "libvpx-vp9": {"g": str(GOP), "keyint_min": str(GOP)},
    "libsvtav1": {"g": str(GOP), "crf": "20", "preset": "9"},
    "mpeg4": {"g": str(GOP), "sc_threshold": "1000000000"},
    "mpeg2video": {"g": str(GOP), "sc_threshold": "1000000000", "bf": "0"},
}


@pytest.mark.parametrize("encoder", KINDS)
def test_a_file_without_a_table_of_keyframes_is_read_right(
    tmp_path: Path, run: Run, encoder: str
) -> None:
    """Without that box all packets count as keyframes (ISO/IEC 14496-12, 8.6.2)."""
    camera = Camera(key=TOP, episodes_per_file=len(LENGTHS), size=SIZE)
    built = build(tmp_path / "source", Source(lengths=LENGTHS, cameras=(camera,)))
    path = built.clips[TOP, 0].path
    frames = [render(key=TOP, episode=0, frame=i, size=SIZE) for i in range(sum(LENGTHS))]
    record(path, frames, encoder, KINDS[encoder])
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"free"))
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    run(built.root, tmp_path / "shards")
    first = ShardedDataset.open(str(tmp_path / "shards")).read_episode(0).record.cameras[0]
    assert first.keyframes == [0, GOP]
    samples = open_dataset(str(tmp_path / "shards"))
    order = list(range(len(expected)))
    random.Random(0).shuffle(order)
    for number in order:
        frame = np.asarray(samples[number][TOP]).transpose(1, 2, 0)
        assert np.abs(frame.astype(int) - expected[number]).max() <= 2, number


@pytest.mark.parametrize(
    ("codec", "packet", "expected"),
    [
        ("vp8", b"\x10\x02\x00\x9d\x01\x2a", True),
        ("vp8", b"\x11\x02\x00", False),
        ("vp9", b"\x82\x49\x83\x42", True),
        ("vp9", b"\x86\x00\x40", False),
        ("vp9", b"\x88", False),  # a frame shown again
        ("theora", b"\x30\x00", True),
        ("theora", b"\x70\x00", False),
        ("theora", b"", False),  # the frame before it again
        ("mpeg4", b"\0\0\1\xb6\x10\x60", True),
        ("mpeg4", b"\0\0\1\xb3\0\x10\7\0\0\1\xb6\x50", False),
        ("mpeg1video", b"\0\0\1\0\0\x0f\xff\xf8", True),
        ("mpeg2video", b"\0\0\1\0\0\x57\xff\xfb", False),
    ],
)
def test_pictures_say_what_they_are(codec: str, packet: bytes, expected: bool) -> None:
    check = keyframe_check(codec, b"")
    assert check is not None
    assert check(memoryview(packet)) == expected


@pytest.mark.parametrize("codec", ["vp8", "vp9", "mpeg4", "mpeg2video", "h263"])
def test_what_a_packet_that_is_cut_short_is_only_the_file_knows(codec: str) -> None:
    check = keyframe_check(codec, b"")
    assert check is not None
    assert check(memoryview(b""))


@pytest.mark.parametrize("codec", ["png", "prores", "h264", "hevc"])
def test_the_file_is_believed_where_packets_do_not_say(codec: str) -> None:
    assert keyframe_check(codec, b"\0\0\0\1") is None

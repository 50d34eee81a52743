"""Pictures of several sizes in one file: each slice has its own, and no episode that converted has
two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from support.lerobot_source import Built, Camera, Source, build, render
from support.recordings import join, record

from roboshard.converter import ConversionReport, ReencodeConfig
from roboshard.converter.video.picture_headers import picture_header
from roboshard.loader import open_dataset
from roboshard.shards import ShardedDataset, SourceError
from roboshard.tools.verify import VerifyConfig, verify

TOP = "observation.images.top"
SMALL, LARGE = (64, 96), (128, 160)
NUM_FRAMES = 6
Run = Callable[..., ConversionReport]


@dataclass(frozen=True)
class Kind:
    """An encoder and where its packets lie."""

    encoder: str
    container: str = "mp4"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: {"g": "3"})


X264 = {"x264-params": "keyint=3:bframes=0:threads=1"}
KINDS = (
    Kind("libvpx-vp9"),
    Kind("libvpx-vp9", "matroska"),
    Kind("libvpx", "matroska"),
    Kind("libsvtav1"),
    Kind("mjpeg", "mov", "yuvj420p", {}),
    Kind("mjpeg", "avi", "yuvj422p", {}),
    Kind("prores_ks", "mov", "yuv422p10le", {}),
    Kind("libx264", options=X264),
)
BETWEEN_START_CODES = Kind("libx264", "mpegts", options=X264)
"""Packets that no slice holds as they are."""


def every(kinds: tuple[Kind, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "kind", kinds, ids=lambda kind: f"{kind.encoder} {kind.container}"
    )


def pixels(number: int, size: tuple[int, int]) -> np.ndarray:
    return render(key=TOP, episode=0, frame=number, size=size)


def source_of(
    folder: Path, kind: Kind, lengths: tuple[int, ...], timescale: int | None = None
) -> Built:
    """A dataset whose one video file has small pictures, and then large ones."""
    camera = Camera(key=TOP, episodes_per_file=len(lengths), size=SMALL)
    built = build(folder / "source", Source(lengths=lengths, cameras=(camera,)))
    parts = [folder / "small", folder / "large"]
    for part, size in zip(parts, (SMALL, LARGE), strict=True):
        frames = [pixels(number, size) for number in range(NUM_FRAMES)]
        where = {"pix_fmt": kind.pix_fmt, "container": kind.container}
        record(part, frames, kind.encoder, kind.options, **where)
    join(built.clips[TOP, 0].path, parts, container=kind.container, timescale=timescale)
    return built


@every(KINDS)
def test_each_slice_has_the_size_of_its_own_pictures(tmp_path: Path, run: Run, kind: Kind) -> None:
    built = source_of(tmp_path, kind, (NUM_FRAMES, NUM_FRAMES))
    root = str(tmp_path / "shards")
    run(built.root, root)
    dataset = ShardedDataset.open(root)
    cameras = [dataset.read_episode(i).record.cameras[0] for i in range(2)]
    assert [(each.height, each.width) for each in cameras] == [SMALL, LARGE]
    samples = open_dataset(root)
    for number in (7, 0, 11, 5, 6):
        frame = np.asarray(samples[number][TOP])
        size = SMALL if number < NUM_FRAMES else LARGE
        expected = pixels(number % NUM_FRAMES, size)
        assert frame.shape == (3, *size)
        assert np.abs(frame.transpose(1, 2, 0).astype(int) - expected).mean() < 12
    report = verify(VerifyConfig(url=root, against=str(built.root), frames=3))
    assert report.ok, report.as_json()


@every((*KINDS, BETWEEN_START_CODES))
def test_an_episode_of_two_sizes_is_refused_with_both(tmp_path: Path, run: Run, kind: Kind) -> None:
    built = source_of(tmp_path, kind, (2 * NUM_FRAMES,))
    with pytest.raises(SourceError, match=r"episode 0.*from 96.* to 160.*--video reencode.*--size"):
        run(built.root, tmp_path / "shards")
    if kind.pix_fmt.endswith("10le"):
        return  # only 8 bits are encoded again
    run(built.root, tmp_path / "again", video="reencode", reencode=ReencodeConfig(size=SMALL))
    samples = open_dataset(str(tmp_path / "again"))
    for number in (9, 2):
        frame = np.asarray(samples[number][TOP])
        assert frame.shape == (3, *SMALL)
        expected = pixels(number % NUM_FRAMES, LARGE if number >= NUM_FRAMES else SMALL)
        assert abs(frame.mean() - expected.mean()) < 12


def test_a_coarse_time_base_is_kept_where_parameters_are_a_slices_own(
    tmp_path: Path, run: Run
) -> None:
    """FFmpeg's muxer doubles time scales below 10,000."""
    built = source_of(tmp_path, Kind("libx264", options=X264), (NUM_FRAMES, NUM_FRAMES), 600)
    run(built.root, tmp_path / "shards")
    report = verify(VerifyConfig(url=str(tmp_path / "shards"), against=str(built.root), frames=3))
    assert report.ok, report.as_json()


# -- VP9, whose other frames may have a size of their own ------------------------------------------


def vp9(*fields: tuple[int, int]) -> memoryview:
    """A frame of these (value, bits), each after the frame marker and profile 0."""
    bits = "1000" + "".join(f"{value:0{count}b}" for value, count in fields)
    return memoryview(int(bits.ljust(256, "0"), 2).to_bytes(32, "big"))


def size_of(width: int, height: int) -> tuple[tuple[int, int], ...]:
    return (width - 1, 16), (height - 1, 16)


KEY = vp9((0, 1), (0, 1), (1, 1), (0, 1), (0x498342, 24), (2, 3), (0, 1), *size_of(96, 64))
SHOWN, HIDDEN = ((0, 1), (1, 1), (1, 1), (0, 1), (0, 2)), ((0, 1), (1, 1), (0, 1), (1, 1))
REFERENCES = ((1, 8), (0, 12))


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (vp9(*SHOWN, *REFERENCES, (0, 3), *size_of(48, 32)), (48, 32)),
        (vp9(*SHOWN, *REFERENCES, (0, 3), *size_of(96, 64)), (96, 64)),
        (vp9(*SHOWN, *REFERENCES, (1, 3)), None),
        (vp9(*HIDDEN, (1, 1), (0x498342, 24), (1, 8), *size_of(48, 32)), (48, 32)),
        (vp9((1, 1), (3, 3)), None),
    ],
    ids=("own size", "own, the same", "that of a reference", "intra-only", "shown again"),
)
def test_vp9_frames_say_their_size_where_it_is_their_own(
    frame: memoryview, size: tuple[int, int] | None
) -> None:
    before = picture_header("vp9", KEY, None)
    assert before is not None
    same = picture_header("vp9", KEY, before)
    assert same == before
    found = picture_header("vp9", frame, before)
    if size is None:
        assert found is None
        return
    assert found is not None
    assert (found == before) == (size == (96, 64))
    assert (int.from_bytes(found[-4:-2], "big") + 1, int.from_bytes(found[-2:], "big") + 1) == size


@pytest.mark.parametrize(
    "codec", ["vp8", "vp9", "av1", "mjpeg", "mpeg4", "prores", "dnxhd", "h264"]
)
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xd8\xff", b"\x80", b"\x0a\xff", b"\0\0\1"])
def test_packets_that_are_cut_short_say_nothing(codec: str, data: bytes) -> None:
    assert not picture_header(codec, memoryview(data), None)


def test_encoded_again_without_a_size_each_episode_keeps_its_own(tmp_path: Path, run: Run) -> None:
    built = source_of(tmp_path, KINDS[0], (NUM_FRAMES, NUM_FRAMES))
    run(built.root, tmp_path / "shards", video="reencode")
    samples = open_dataset(str(tmp_path / "shards"))
    assert [np.asarray(samples[i][TOP]).shape[1:] for i in (0, 7)] == [SMALL, LARGE]

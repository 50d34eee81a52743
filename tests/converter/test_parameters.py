"""Codec parameters that change within a file: each slice decodes alone to what its file decodes to
in order.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from support.lerobot_source import Built, Camera, Color, Source, build, render
from support.mp4_boxes import join_as_two_descriptions
from support.recordings import join, record

from roboshard.converter import ConversionReport
from roboshard.converter.video import side_data
from roboshard.shards import ShardedDataset, SourceError
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.verify import VerifyConfig, verify

TOP = "observation.images.top"
SIZE = (64, 96)
LENGTHS = (6, 6, 6, 6)
Run = Callable[..., ConversionReport]
Setting = dict[str, str]

X264 = "bframes=0:scenecut=0:threads=1:keyint=3:min-keyint=3"
X265 = "bframes=0:scenecut=0:pools=none:frame-threads=1:log-level=none:keyint=3:min-keyint=3"
KINDS: dict[str, tuple[str, Setting, Setting]] = {
    "chroma offset": (
        "libx264",
        {"x264-params": f"{X264}:chroma-qp-offset=0"},
        {"x264-params": f"{X264}:chroma-qp-offset=6"},
    ),
    "profile": ("libx264", {"x264-params": X264}, {"x264-params": X264, "profile": "baseline"}),
    "range": ("libx264", {"x264-params": X264}, {"x264-params": X264, "color_range": "pc"}),
    "HEVC": (
        "libx265",
        {"x265-params": f"{X265}:cbqpoffs=0"},
        {"x265-params": f"{X265}:cbqpoffs=6:crqpoffs=-6:amp=1:rect=1:ctu=32"},
    ),
    "AV1": ("libsvtav1", {"g": "3", "crf": "20"}, {"g": "3", "crf": "40", "preset": "9"}),
}


def encode(path: Path, codec: str, setting: Setting, pix_fmt: str = "yuv420p") -> None:
    frames = [render(key=TOP, episode=i // 6, frame=i % 6, size=SIZE) for i in range(12)]
    record(path, frames, codec, setting, pix_fmt=pix_fmt)


def in_order(file: Any) -> list[NDArray[Any]]:
    """Every frame of a file, decoded from its start by one thread."""
    with av.open(file) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def slices(root: Path) -> Iterator[list[NDArray[Any]]]:
    dataset = ShardedDataset.open(str(root))
    for position in range(len(dataset.index)):
        episode = dataset.read_episode(position)
        camera = episode.record.cameras[0]
        frames = in_order(io.BytesIO(bytes(episode.videos[TOP])))
        yield [frames[i] for i in camera.frames().tolist()]


@pytest.fixture
def built(tmp_path: Path) -> Built:
    camera = Camera(key=TOP, episodes_per_file=4, size=SIZE)
    return build(tmp_path / "source", Source(lengths=LENGTHS, cameras=(camera,)))


def check(built: Built, root: Path) -> None:
    expected = in_order(str(built.clips[TOP, 0].path))
    found = list(slices(root))
    assert [len(each) for each in found] == list(LENGTHS)
    for one, other in zip(chain.from_iterable(found), expected, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_every_slice_decodes_alone_as_its_file_does(
    built: Built, tmp_path: Path, run: Run, kind: str, order: tuple[int, int]
) -> None:
    codec, *settings = KINDS[kind]
    parts = [tmp_path / "0.mp4", tmp_path / "1.mp4"]
    for part, number in zip(parts, order, strict=True):
        encode(part, codec, settings[number])
    join(built.clips[TOP, 0].path, parts)
    run(built.root, tmp_path / "shards")
    check(built, tmp_path / "shards")
    report = verify(VerifyConfig(url=str(tmp_path / "shards"), against=str(built.root), frames=3))
    assert report.ok, report.as_json()
    export(ExportConfig(source=str(tmp_path / "shards"), destination=str(tmp_path / "exported")))
    run(tmp_path / "exported", tmp_path / "again")
    check(built, tmp_path / "again")


@pytest.fixture(params=["told by FFmpeg", "read from the file"])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV 15 does not show what FFmpeg tells of a packet."""
    if request.param == "read from the file":
        monkeypatch.setattr(side_data, "_IS_SHOWN", False)


@pytest.mark.usefixtures("told")
def test_a_second_sample_description_becomes_its_slices_own(
    built: Built, tmp_path: Path, run: Run
) -> None:
    parts = [tmp_path / "0.mp4", tmp_path / "1.mp4"]
    codec, *settings = KINDS["profile"]
    for part, setting in zip(parts, settings, strict=True):
        encode(part, codec, setting)
    path = built.clips[TOP, 0].path
    path.write_bytes(join_as_two_descriptions(*(part.read_bytes() for part in parts)))
    run(built.root, tmp_path / "shards")
    check(built, tmp_path / "shards")
    report = verify(VerifyConfig(url=str(tmp_path / "shards"), against=str(built.root)))
    assert report.ok, report.as_json()


@pytest.mark.usefixtures("told")
def test_an_episode_over_two_sample_descriptions_is_refused(tmp_path: Path, run: Run) -> None:
    camera = Camera(key=TOP, episodes_per_file=1, size=SIZE)
    built = build(tmp_path / "source", Source(lengths=(24,), cameras=(camera,)))
    parts = [tmp_path / "0.mp4", tmp_path / "1.mp4"]
    codec, *settings = KINDS["profile"]
    for part, setting in zip(parts, settings, strict=True):
        encode(part, codec, setting)
    path = built.clips[TOP, 0].path
    path.write_bytes(join_as_two_descriptions(*(part.read_bytes() for part in parts)))
    with pytest.raises(SourceError, match=r"changes within the episode.*--video reencode"):
        run(built.root, tmp_path / "shards")


def test_a_slice_has_the_colors_of_its_own_sample_description(tmp_path: Path, run: Run) -> None:
    camera = Camera(key=TOP, gop=5)
    sources = (
        Source(lengths=(10,), cameras=(camera,)),
        Source(lengths=(10,), cameras=(replace(camera, color=Color()),)),
    )
    parts = [
        build(tmp_path / str(i), source).clips[TOP, 0].path for i, source in enumerate(sources)
    ]
    built = build(tmp_path / "robot", Source(lengths=(10, 5, 5), cameras=(camera,)))
    path = built.clips[TOP, 0].path
    path.write_bytes(join_as_two_descriptions(*(part.read_bytes() for part in parts)))
    run(built.root, tmp_path / "shards")
    expected = in_order(str(path))
    for one, other in zip(chain.from_iterable(slices(tmp_path / "shards")), expected, strict=True):
        assert np.array_equal(one, other)
    dataset = ShardedDataset.open(str(tmp_path / "shards"))
    found = [
        color
        for position in range(3)
        for color in colors(io.BytesIO(bytes(dataset.read_episode(position).videos[TOP])))
    ]
    assert found == colors(str(path))


def colors(file: Any) -> list[tuple[int, int]]:
    """(matrix, range) of every frame as FFmpeg gives it out, decoded in order."""
    with av.open(file) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [(frame.colorspace, frame.color_range) for frame in container.decode(video=0)]

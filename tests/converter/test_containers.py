"""Sources in other containers and codecs than MP4's: copied into a slice that can hold them, and
loaded exactly.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from support.containers import LENGTHS, TOP, Video, build
from support.converting import converted
from support.encode import sequential_rgb
from support.slowly import slowly

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import open_dataset
from roboshard.shards import ShardedDataset, SourceError, rebuild
from roboshard.shards.slices import read_slice
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.verify import VerifyConfig, verify

B_FRAMES = {"x264-params": "b-adapt=0:scenecut=0"}
QUIET = {"x265-params": "log-level=none:b-adapt=0:scenecut=0:open-gop=1", "color_range": "tv"}
FFV1 = (
    Video(encoder="ffv1", pix_fmt="yuv420p10le"),
    Video(encoder="ffv1", pix_fmt="bgr0", extension="avi"),
)
MP4_HOLDS_FFV1 = av.library_versions["libavformat"] >= (62,)
IN_MATROSKA = (
    *(() if MP4_HOLDS_FFV1 else FFV1),
    Video(encoder="libvpx", extension="webm", gop=5),
    Video(encoder="libvpx", extension="webm", gop=100),
    Video(encoder="libx264", gop=6, bframes=2, options=B_FRAMES | {"color_range": "tv"}),
    Video(encoder="prores_ks", pix_fmt="yuv422p10le", extension="mov"),
    Video(encoder="prores_ks", pix_fmt="yuva444p10le", extension="mov"),
    Video(encoder="huffyuv", pix_fmt="yuv422p", extension="avi"),
    Video(encoder="huffyuv", pix_fmt="rgb24", extension="avi"),
    Video(encoder="ffvhuff", extension="avi"),
    Video(encoder="rawvideo", extension="avi"),
    Video(encoder="rawvideo", pix_fmt="rgb24", extension="mov"),
    Video(encoder="rawvideo", pix_fmt="uyvy422", extension="avi"),
    Video(encoder="utvideo", extension="avi"),
    Video(encoder="h263p", extension="avi", gop=4),
    Video(
        encoder="dnxhd",
        pix_fmt="yuv422p",
        extension="mov",
        size=(120, 256),
        options={"profile": "dnxhr_sq"},
    ),
)
IN_MP4 = (
    Video(encoder="libx264", gop=6, bframes=2, options=B_FRAMES),
    Video(encoder="libx265", pix_fmt="yuv420p10le", gop=6, bframes=2, options=QUIET),
    Video(encoder="mpeg4", gop=6, bframes=2),
    Video(encoder="libvpx-vp9", extension="webm", gop=5),
    *(FFV1 if MP4_HOLDS_FFV1 else ()),
    Video(encoder="mjpeg", pix_fmt="yuvj422p", extension="mov"),
    Video(encoder="mpeg4", extension="avi", gop=5),
    Video(encoder="png", pix_fmt="rgb24", extension="mov"),
)
"""Of the sources in other containers, those that an MP4 slice holds all the same."""


@pytest.fixture(scope="module", params=IN_MATROSKA + IN_MP4, ids=lambda video: video.name)
def video(request: pytest.FixtureRequest) -> Video:
    found: Video = request.param
    return found


@pytest.fixture(scope="module")
def source(video: Video, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source") / "robot"
    build(root, video)
    return root


@pytest.fixture(scope="module")
def root(source: Path) -> Path:
    return Path(converted(source, source.parent / "shards"))


def in_order(source: Path) -> NDArray[np.uint8]:
    """(18, H, W, 3): the source's frames, decoded without a seek, in LeRobot's colors."""
    (path,) = (path for path in (source / "videos").rglob("*") if path.is_file())
    return sequential_rgb(path)


def documents(root: Path) -> Iterator[dict[str, object]]:
    yield json.loads((root / "dataset.json").read_bytes())
    for path in sorted((root / "shards").glob("*.json")):
        yield json.loads(path.read_bytes())
    for path in sorted((root / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if member.name.endswith(".json") and file is not None:
                    yield json.loads(file.read())


def members(root: Path) -> set[str]:
    dataset = ShardedDataset.open(str(root))
    records = [dataset.read_episode(i).record for i in range(len(dataset.index))]
    return {camera.member for record in records for camera in record.cameras}


def test_a_slice_is_mp4_where_that_holds_it_and_matroska_otherwise(
    video: Video, root: Path
) -> None:
    is_matroska = video in IN_MATROSKA
    assert members(root) == {TOP + (".mkv" if is_matroska else ".mp4")}
    assert {document["version"] for document in documents(root)} == {
        "1.1" if is_matroska else "1.0"
    }


def test_every_frame_comes_in_any_order(source: Path, root: Path) -> None:
    expected, dataset = in_order(source), open_dataset(str(root))
    numbers = list(range(len(expected)))
    assert len(dataset) == len(expected) == sum(LENGTHS)
    for order in (numbers, numbers[::-1], random.Random(0).sample(numbers * 2, 2 * len(numbers))):
        for number in order:
            picture = dataset[number][TOP].numpy().transpose(1, 2, 0)
            assert np.array_equal(picture, expected[number]), number


def test_packets_are_those_of_the_source(source: Path, root: Path) -> None:
    (path,) = (path for path in (source / "videos").rglob("*") if path.is_file())
    with av.open(str(path)) as container:
        theirs = {bytes(packet) for packet in container.demux(video=0) if packet.size}
    dataset = ShardedDataset.open(str(root))
    for position in range(len(dataset.index)):
        episode = dataset.read_episode(position)
        (camera,) = episode.record.cameras
        found = read_slice(episode.videos[TOP], camera)
        for start, end in zip(found.tables.offsets, found.tables.ends, strict=True):
            assert bytes(found.payload[start:end]) in theirs


def test_it_verifies_against_its_source(source: Path, root: Path) -> None:
    report = verify(VerifyConfig(url=str(root), against=str(source), frames=3))
    assert report.ok, report.as_json()


@pytest.mark.parametrize(
    "video",
    [IN_MATROSKA[0], IN_MP4[0], *map(slowly, IN_MATROSKA[1:] + IN_MP4[1:])],
    indirect=True,
    ids=lambda video: video.name,
)
def test_bytes_are_the_same_for_any_number_of_workers(source: Path, root: Path) -> None:
    again = Path(converted(source, source.parent / "again", workers=2))
    names = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    assert names == {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    for name in names:
        assert (root / name).read_bytes() == (again / name).read_bytes(), name


def test_manifests_can_be_made_again_from_the_shards(root: Path) -> None:
    files = [root / "dataset.json", root / "episodes.parquet", *(root / "shards").glob("*.json")]
    before = [path.read_bytes() for path in files]
    rebuild(root)
    assert [path.read_bytes() for path in files] == before


def test_it_comes_back_from_a_round_trip(
    video: Video, source: Path, root: Path, tmp_path: Path
) -> None:
    exported = tmp_path / "exported"
    export(ExportConfig(source=str(root), destination=str(exported)))
    extension = ".mkv" if video in IN_MATROSKA else ".mp4"
    files = [path for path in (exported / "videos").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {extension}
    assert json.loads((exported / "meta/info.json").read_text())["video_path"].endswith(extension)
    dataset = open_dataset(converted(exported, tmp_path / "again"))
    for number, expected in enumerate(in_order(source)):
        assert np.array_equal(dataset[number][TOP].numpy().transpose(1, 2, 0), expected)


def test_times_in_whole_milliseconds_need_a_larger_tolerance(tmp_path: Path) -> None:
    """Thirty frames a second are not a whole number of milliseconds apart, to which Matroska
    rounds: LeRobot refuses them within its tolerance, and so does a conversion, which says what to
    do.
    """
    build(tmp_path / "source", Video(encoder="libvpx"), fps=30)
    with pytest.raises(SourceError, match="--tolerance-s"):
        converted(tmp_path / "source", tmp_path / "shards")
    convert(
        ConvertConfig(
            source=str(tmp_path / "source"),
            destination=str(tmp_path / "shards"),
            tolerance_s=0.001,
            workers=1,
        )
    )
    dataset = open_dataset(str(tmp_path / "shards"))
    for number, expected in enumerate(in_order(tmp_path / "source")):
        assert np.array_equal(dataset[number][TOP].numpy().transpose(1, 2, 0), expected)


def test_turned_pictures_that_mp4_cannot_hold_are_an_error(tmp_path: Path) -> None:
    path = build(
        tmp_path / "source",
        Video(encoder="prores_ks", pix_fmt="yuv422p10le", extension="mov", rotation=90),
    )
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation
    with pytest.raises(SourceError, match=r"pictures are turned.*--video reencode"):
        converted(tmp_path / "source", tmp_path / "shards")

"""`verify --against` where video was encoded again: pictures instead of packets, and every fault
has its name.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from support.damage import Forgery
from support.lerobot_source import Camera, Source, build

from roboshard.common.jsonio import dump
from roboshard.converter import ConvertConfig, ReencodeConfig, convert
from roboshard.converter.reencoding.encoder import UNTAGGED, Clip, encode
from roboshard.converter.reencoding.reencode import reencode
from roboshard.converter.reencoding.settings import Encoding
from roboshard.converter.video.alignment import RowTimes
from roboshard.converter.video.video_file import VideoFile
from roboshard.tools.verify import Problem, VerifyConfig, verify
from roboshard.tools.verify.problems import Place, Problems
from roboshard.tools.verify.reencoded import Original, compare_pictures

TOP, WRIST = "observation.images.top", "observation.images.wrist"
GOP = 3
Order = Callable[[int], list[int]]
ENDLESS = {
    "mode": "reencode",
    "codec": "libx264",
    "gop": float("inf"),
    "crf": 30,
    "size": None,
    "cameras": [TOP],
}


@pytest.fixture(scope="module")
def reencoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes, one camera encoded again and smaller, the other copied.

    The source lies beside it.
    """
    folder = tmp_path_factory.mktemp("reencoded")
    cameras = (
        Camera(key=TOP, gop=20, bframes=2, stream="continuous"),
        Camera(key=WRIST, codec="hevc", gop=8, bframes=3, open_gop=True, stream="continuous"),
    )
    built = build(folder / "source", Source(lengths=(20, 11), cameras=cameras))
    options = ReencodeConfig(codec="libx264", gop=GOP, size=(48, 72), cameras=TOP)
    convert(
        ConvertConfig(
            source=str(built.root),
            destination=str(folder / "shards"),
            workers=1,
            video="reencode",
            reencode=options,
        )
    )
    return folder / "shards"


@pytest.fixture
def forgery(reencoded: Path, tmp_path: Path) -> Forgery:
    return Forgery(reencoded, tmp_path / "forged")


def problems(root: Path | str, source: Path) -> tuple[Problem, ...]:
    return verify(VerifyConfig(url=str(root), against=str(source))).problems


def again(
    data: bytes, order: Order, gop: int = GOP, change: Callable[[Any], None] = lambda _: None
) -> bytes:
    """A slice of these frames of another, at the same times."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
        ticks, time_base = (
            np.arange(len(frames)) * round(Fraction(1, 10) / Fraction(stream.time_base or 1)),
            stream.time_base,
        )
        clip = Clip(
            ticks=ticks, time_base=Fraction(time_base or 1), fps=10, like=stream.codec_context
        )
        chosen = [frames[i].copy() for i in order(len(frames))]
        change(chosen)
        pictures = [av.VideoFrame.from_ndarray(pixels, format="yuv420p") for pixels in chosen]
        return encode(
            pictures, clip, Encoding(codec="libx264", gop=gop, crf=20, size=None, cameras=())
        )


def forge(forgery: Forgery, order: Order, **options: Any) -> str:
    def change(members: dict[str, bytes]) -> None:
        members[f"{TOP}.mp4"] = again(members[f"{TOP}.mp4"], order, **options)

    forgery.put_members(0, 0, change)
    return forgery.seal()


def test_a_sound_dataset_has_no_problem(reencoded: Path) -> None:
    assert problems(reencoded, reencoded.parent / "source") == ()


def test_nor_has_one_that_was_encoded_once_more(forgery: Forgery, reencoded: Path) -> None:
    """So what the next tests find is their fault, not the second encoding."""
    assert problems(forge(forgery, lambda n: list(range(n))), reencoded.parent / "source") == ()


@pytest.mark.parametrize(
    ("order", "what"),
    [
        # its place at the end is filled, so that counts and times fit
        (
            lambda n: [*range(7), *range(8, n), n - 1],
            "12 rows, first row 7, show the frame after their own: a frame was dropped",
        ),
        (
            lambda n: [*range(1, n), n - 1],
            "19 rows, first row 0, show the frame after their own: a frame was dropped",
        ),
        (
            lambda n: [*range(5), 4, *range(5, n - 1)],
            "15 rows, first row 5, show the frame before their own: a frame was added",
        ),
        (
            lambda n: [0, 0, *range(1, n - 1)],
            "19 rows, first row 1, show the frame before their own: a frame was added",
        ),
    ],
    ids=["one dropped", "the first dropped", "one repeated", "the first repeated"],
)
def test_frames_that_moved_are_found_and_named(
    forgery: Forgery, reencoded: Path, order: Order, what: str
) -> None:
    (problem,) = problems(forge(forgery, order), reencoded.parent / "source")
    assert what in problem.what
    assert (problem.episode, problem.member) == (0, f"ep-000000000.{TOP}.mp4")


# -- Sound, though hard to tell --------------------------------------------------------------------


def found_in(tmp_path: Path, lumas: list[NDArray[np.uint8]], encoding: Encoding) -> list[str]:
    """What is said of grey pictures that were encoded again."""
    height, width = lumas[0].shape
    clip = Clip(
        ticks=np.arange(len(lumas)) * 512, time_base=Fraction(1, 5120), fps=10, like=UNTAGGED
    )
    grey = np.full((height // 2, width), 128, np.uint8)
    pictures = (
        av.VideoFrame.from_ndarray(np.vstack([luma, grey]), format="yuv420p") for luma in lumas
    )
    path = tmp_path / "source.mp4"
    path.write_bytes(
        encode(pictures, clip, Encoding(codec="libx264", gop=30, crf=1, size=None, cameras=()))
    )
    times = np.arange(len(lumas), dtype=np.float32) / np.float32(10)
    rows = RowTimes(from_s=0, to_s=len(lumas) / 10, timestamps=times, fps=10, tolerance_s=1e-4)
    problems = Problems()
    with closing(VideoFile(path)) as video:
        cut = reencode(video, rows, encoding, key=TOP, member=f"{TOP}.mp4")
        original = Original(video=video, rows=rows, encoding=encoding)
        compare_pictures(cut.camera, cut.data, original, Place(problems=problems, file="shard"))
    return [problem.what for problem in problems.sorted()]


def test_keyframes_have_nothing_of_their_neighbours(tmp_path: Path) -> None:
    """A faint blob that moves over a smooth ground: SVT-AV1's temporal filter would move it by a
    frame.
    """
    y, x = np.mgrid[:240, :320]
    blobs = [np.exp(-((x - 96 - 2 * i) ** 2 + (y - 120) ** 2) / 128) for i in range(18)]
    lumas = [(100 + 30 * blob).astype(np.uint8) for blob in blobs]
    assert (
        found_in(
            tmp_path, lumas, Encoding(codec="libsvtav1", gop=15, crf=40, size=None, cameras=())
        )
        == []
    )


def test_noise_that_the_encoder_leaves_out_is_no_fault(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-60, 61, (8, 96, 128))
    lumas = list((np.linspace(60, 180, 128) + noise).clip(0, 255).astype(np.uint8))
    assert (
        found_in(tmp_path, lumas, Encoding(codec="libx264", gop=4, crf=51, size=None, cameras=()))
        == []
    )


def test_a_dropped_frame_shows_without_the_source(forgery: Forgery) -> None:
    found = verify(VerifyConfig(url=forge(forgery, lambda n: [*range(7), *range(8, n)]))).problems
    assert any(
        "19 frames in the slice where the record counts 20: a frame was dropped" in p.what
        for p in found
    )


def test_a_picture_of_something_else(forgery: Forgery, reencoded: Path) -> None:
    def blacken(frames: list[Any]) -> None:
        for frame in frames[9:11]:
            frame[:] = 16

    found = problems(
        forge(forgery, lambda n: list(range(n)), change=blacken), reencoded.parent / "source"
    )
    assert [p.what for p in found] == [
        "2 rows, first row 9, show no frame like their own in the source (below 20 dB)"
    ]


def test_a_grey_picture_is_a_picture_of_something_else(forgery: Forgery, reencoded: Path) -> None:
    def bleach(frames: list[Any]) -> None:
        frames[9][:48] = round(float(frames[9][:48].mean()))

    (problem,) = problems(
        forge(forgery, lambda n: list(range(n)), change=bleach), reencoded.parent / "source"
    )
    assert problem.what.startswith("1 rows, first row 9, show no frame like their own")


def test_keyframes_that_are_too_far_apart(forgery: Forgery, reencoded: Path) -> None:
    def rarely(members: dict[str, bytes]) -> None:
        members[f"{TOP}.mp4"] = again(members[f"{TOP}.mp4"], lambda n: list(range(n)), gop=20)
        record = json.loads(members["json"])
        record["cameras"][0]["keyframes"] = [0]
        members["json"] = dump(record)

    forgery.put_members(0, 0, rarely)
    (problem,) = problems(forgery.seal(), reencoded.parent / "source")
    assert problem.what == "keyframes are more than 3 frames apart, the conversion's gop"


def test_features_that_do_not_fit_the_options(forgery: Forgery, reencoded: Path) -> None:
    def claim(dataset: dict[str, Any]) -> None:
        dataset["features"][TOP]["shape"] = [64, 96, 3]

    found = problems(forgery.seal(claim), reencoded.parent / "source")
    assert any(p.what == "features differ from the source's" for p in found)


@pytest.mark.parametrize(
    "video", [{"mode": "dream"}, 5, {"mode": "reencode", "cameras": []}, ENDLESS]
)
def test_options_that_say_nothing(forgery: Forgery, reencoded: Path, video: Any) -> None:
    def claim(dataset: dict[str, Any]) -> None:
        dataset["conversion"]["options"]["video"] = video

    found = problems(forgery.seal(claim), reencoded.parent / "source")
    assert any("conversion.options.video says nothing" in p.what for p in found)

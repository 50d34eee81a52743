"""`verify --against` where video was encoded again: pictures instead of packets, and every fault has its name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.damage import Forgery
from support.lerobot_source import Camera, Source, build

from roboshard.converter import ConvertConfig, ReencodeConfig, convert
from roboshard.converter.encoder import Clip, encode
from roboshard.converter.encoding import Encoding
from roboshard.inspector import Problem, VerifyConfig, verify
from roboshard.shards.jsonio import dump

TOP, WRIST = "observation.images.top", "observation.images.wrist"
GOP = 3
Order = Callable[[int], list[int]]


@pytest.fixture(scope="module")
def reencoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes, one camera encoded again and smaller, the other copied. The source lies beside it."""
    folder = tmp_path_factory.mktemp("reencoded")
    cameras = (
        Camera(key=TOP, gop=20, bframes=2, stream="continuous"),
        Camera(key=WRIST, codec="hevc", gop=8, bframes=3, open_gop=True, stream="continuous"),
    )
    built = build(folder / "source", Source(lengths=(20, 11), cameras=cameras))
    options = ReencodeConfig(codec="libx264", gop=GOP, size=(48, 72), cameras=TOP)
    convert(
        ConvertConfig(
            source=str(built.root), destination=str(folder / "shards"), workers=1, video="reencode", reencode=options
        )
    )
    return folder / "shards"


@pytest.fixture
def forgery(reencoded: Path, tmp_path: Path) -> Forgery:
    return Forgery(reencoded, tmp_path / "forged")


def problems(root: Path | str, source: Path) -> tuple[Problem, ...]:
    return verify(VerifyConfig(url=str(root), against=str(source))).problems


def again(data: bytes, order: Order, gop: int = GOP, change: Callable[[Any], None] = lambda _: None) -> bytes:
    """A slice of these frames of another, at the same times."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
        ticks, time_base = (
            np.arange(len(frames)) * round(Fraction(1, 10) / Fraction(stream.time_base or 1)),
            stream.time_base,
        )
        clip = Clip(ticks=ticks, time_base=Fraction(time_base or 1), fps=10, like=stream.codec_context)
        chosen = [frames[i].copy() for i in order(len(frames))]
        change(chosen)
        pictures = [av.VideoFrame.from_ndarray(pixels, format="yuv420p") for pixels in chosen]
        return encode(pictures, clip, Encoding(codec="libx264", gop=gop, crf=20, size=None, cameras=()))


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
def test_frames_that_moved_are_found_and_named(forgery: Forgery, reencoded: Path, order: Order, what: str) -> None:
    (problem,) = problems(forge(forgery, order), reencoded.parent / "source")
    assert what in problem.what
    assert (problem.episode, problem.member) == (0, f"ep-000000000.{TOP}.mp4")


def test_a_dropped_frame_shows_without_the_source(forgery: Forgery) -> None:
    found = verify(VerifyConfig(url=forge(forgery, lambda n: [*range(7), *range(8, n)]))).problems
    assert any("19 frames in the slice where the record counts 20: a frame was dropped" in p.what for p in found)


def test_a_picture_of_something_else(forgery: Forgery, reencoded: Path) -> None:
    def blacken(frames: list[Any]) -> None:
        for frame in frames[9:11]:
            frame[:] = 16

    found = problems(forge(forgery, lambda n: list(range(n)), change=blacken), reencoded.parent / "source")
    assert [p.what for p in found] == [
        "2 rows, first row 9, show no frame like their own in the source (below 20 dB)"
    ]


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


@pytest.mark.parametrize("video", [{"mode": "dream"}, 5, {"mode": "reencode", "cameras": []}])
def test_options_that_say_nothing(forgery: Forgery, reencoded: Path, video: Any) -> None:
    def claim(dataset: dict[str, Any]) -> None:
        dataset["conversion"]["options"]["video"] = video

    found = problems(forgery.seal(claim), reencoded.parent / "source")
    assert any("conversion.options.video says nothing" in p.what for p in found)

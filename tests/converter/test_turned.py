"""Video that is turned before it is shown (a display matrix) is shown turned, however it is
converted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from support.broken_source import BrokenSource
from support.decoders import TURNING, decode_with
from support.lerobot_source import Camera, Source, build
from support.mp4_boxes import turn
from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]

from roboshard.converter import ConversionReport, ReencodeConfig
from roboshard.loader import open_dataset
from roboshard.loader.decoding import decode
from roboshard.shards import OptionError
from roboshard.tools.verify import VerifyConfig, verify

TOP = "observation.images.top"
CASE = Path(__file__).parents[1] / "data/cases/reencode_rotated/src"
Run = Callable[..., ConversionReport]
Pictures = NDArray[np.uint8]


def pictures(root: Path) -> Pictures:
    dataset = open_dataset(str(root))
    return np.stack([dataset[i][TOP].numpy() for i in range(len(dataset))])


def psnr(some: Pictures, other: Pictures) -> float:
    error = float(np.mean((some.astype(np.float64) - other) ** 2))
    return 10 * np.log10(255**2 / max(error, 1e-9))


def reencode(**options: Any) -> dict[str, Any]:
    return {"video": "reencode", "reencode": ReencodeConfig(**options)}


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_encoded_again_it_is_what_a_copy_is(tmp_path: Path, run: Run, codec: str) -> None:
    run(CASE, tmp_path / "copy")
    run(CASE, tmp_path / "again", **reencode(codec=codec, crf=10))
    copied, again = pictures(tmp_path / "copy"), pictures(tmp_path / "again")
    assert copied.shape == again.shape == (18, 3, 96, 64)
    assert psnr(copied, again) > 30
    for name in ("copy", "again"):
        report = verify(VerifyConfig(url=str(tmp_path / name), against=str(CASE), frames=4))
        assert report.ok, report.as_json()


def test_size_is_that_of_the_picture_as_it_is_shown(tmp_path: Path, run: Run) -> None:
    run(CASE, tmp_path / "small", **reencode(size=(48, 32)))
    dataset = open_dataset(str(tmp_path / "small"))
    assert dataset[0][TOP].shape == (3, 48, 32)
    assert sorted(dataset.meta.features[TOP]["shape"]) == [3, 32, 48]
    report = verify(VerifyConfig(url=str(tmp_path / "small"), against=str(CASE)))
    assert report.ok, report.as_json()
    with pytest.raises(OptionError, match="larger than camera"):
        run(CASE, tmp_path / "large", **reencode(size=(64, 96)))


@TURNING
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_each_turn_is_torchcodecs(tmp_path: Path, run: Run, degrees: int) -> None:
    built = build(
        tmp_path / "source",
        Source(lengths=(4, 3), cameras=(Camera(key=TOP, episodes_per_file=2),)),
    )
    path = built.clips[TOP, 0].path
    turned = tmp_path / "turned.mp4"
    with av.open(str(path)) as source, av.open(str(turned), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream, opaque=True)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    turned.replace(path)
    turn(path, degrees)
    decoder = VideoDecoder(str(path))
    expected = np.stack([decoder.get_frame_at(i).data.numpy() for i in range(7)])
    assert expected.shape[2:] == ((96, 64)[:: 1 if degrees % 180 else -1])
    run(built.root, tmp_path / "copy")
    assert np.abs(pictures(tmp_path / "copy").astype(int) - expected).max() <= 2
    run(built.root, tmp_path / "again", **reencode(codec="libx264", crf=5))
    assert psnr(pictures(tmp_path / "again"), expected) > 30


def test_a_slice_that_is_not_turned_as_its_source_is_found(tmp_path: Path, run: Run) -> None:
    run(CASE, tmp_path / "turned")
    other = BrokenSource.copy_of(CASE, tmp_path / "other")
    data = other.video().read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # the matrix (ISO/IEC 14496-12, 8.3.2)
    upright = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    assert data[at : at + 36] != upright
    other.video().write_bytes(data[:at] + upright + data[at + 36 :])
    run(other.root, tmp_path / "upright")
    for shards, source, words in (
        ("turned", other.root, "turned by 90 degrees, by 0 in the source"),
        ("upright", CASE, "turned by 0 degrees, by 90 in the source"),
    ):
        report = verify(VerifyConfig(url=str(tmp_path / shards), against=str(source)))
        assert [words in problem.what for problem in report.problems] == [True] * 3


def test_a_camera_that_info_says_null_of_is_encoded_and_described(tmp_path: Path, run: Run) -> None:
    source = BrokenSource.copy_of(CASE, tmp_path / "source")
    source.info.write_text(
        source.info.read_text().replace(
            '"info": {\n        "video.codec": "h264",\n        "video.pix_fmt": "yuv420p"\n      }',
            '"info": null',
        )
    )
    assert '"info": null' in source.info.read_text()
    run(source.root, tmp_path / "shards", **reencode(gop=2))
    features = open_dataset(str(tmp_path / "shards")).meta.features
    assert features[TOP]["info"]["video.codec"] == "av1"
    report = verify(VerifyConfig(url=str(tmp_path / "shards"), against=str(source.root)))
    assert report.ok, report.as_json()


@TURNING
def test_the_picture_is_the_sources(tmp_path: Path, run: Run) -> None:
    run(CASE, tmp_path / "again", **reencode(codec="libx264", crf=5))
    decoder = VideoDecoder(str(next(CASE.rglob("*.mp4"))))
    expected = np.stack([decoder.get_frame_at(i).data.numpy() for i in range(18)])
    assert psnr(pictures(tmp_path / "again"), expected) > 30


def test_a_torchcodec_that_turns_nothing_is_given_no_turned_slice(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Releases before 0.11: a GPU would give the pictures as they lie."""
    run(CASE, tmp_path / "copy")
    expected = pictures(tmp_path / "copy")
    asked: list[object] = []
    decode_with("torchcodec", monkeypatch)
    monkeypatch.setattr(decode, "TorchcodecDecoder", lambda *args: asked.append(args))
    monkeypatch.setattr(decode, "turns_pictures", lambda: False)
    assert np.array_equal(pictures(tmp_path / "copy"), expected)
    assert not asked

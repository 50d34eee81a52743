"""Video that is encoded again shows the same frames at the same times, nearly as they were; the
rest is a copy.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from support.lerobot_source import (
    FURTHER_CASES,
    HARD_CASES,
    Built,
    Camera,
    Source,
    build,
    read_stamp,
)
from support.slowly import some_quickly

from roboshard.converter import (
    ConversionReport,
    ConvertConfig,
    ReencodeConfig,
    make_plan,
    survey_videos,
)
from roboshard.converter.reencoding import encoder
from roboshard.converter.reencoding import reencode as converter_reencode
from roboshard.converter.reencoding.encoder import (
    UNTAGGED,
    Clip,
    check_encoder,
    encode,
    library_versions,
)
from roboshard.converter.reencoding.settings import Encoding, encoded_features
from roboshard.converter.video.video_file import VideoFile
from roboshard.loader import make_loader
from roboshard.shards import OptionError, ShardedDataset, SourceError, StorageError, rebuild
from roboshard.shards.mp4 import read_sample_tables
from roboshard.shards.schema import CameraRecord

TOP, WRIST = "observation.images.top", "observation.images.wrist"
Run = Callable[..., ConversionReport]
ReadTree = Callable[[Path], dict[str, str]]
Frames = NDArray[np.uint8]
CODECS = {
    "open_gop_hevc": "libsvtav1",
    "open_gop_h264": "libx264",
    "edit_list": "libx264",
    "edit_list_av1": "libx264",
    "one_frame_episodes": "libx265",
    "start_offset_bframes": "libx264",
    "color_full_range": "libx264",
    "color_tags": "libsvtav1",
    "yuv444p": "libx265",
}
NOT_ENCODED = ("dropped_frames", "ten_bit_hevc", "no_cameras", "image_features")
CASES = {
    name: case for name, case in (HARD_CASES | FURTHER_CASES).items() if name not in NOT_ENCODED
}


def reencode(**options: Any) -> dict[str, Any]:
    return {"video": "reencode", "reencode": ReencodeConfig(**options)}


def psnr(some: Frames, other: Frames) -> float:
    error = float(np.mean((some.astype(np.float64) - other) ** 2))
    return 10 * np.log10(255**2 / max(error, 1e-9))


def decoded(data: bytes) -> tuple[list[Fraction], Frames]:
    """(times in seconds, pictures) of a slice, by PyAV alone."""
    with av.open(io.BytesIO(data), "r") as container:
        frames = list(container.decode(video=0))
        times = [Fraction(frame.pts or 0) * Fraction(frame.time_base or 0) for frame in frames]
        return times, np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def shown_times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [
            packet for packet in container.demux(stream) if packet.size and not packet.is_discard
        ]
        return sorted(
            Fraction(packet.pts or 0) * Fraction(stream.time_base or 0) for packet in packets
        )


def slices(root: Path) -> Iterator[tuple[int, CameraRecord, bytes]]:
    dataset = ShardedDataset.open(str(root))
    for position in range(len(dataset.index)):
        episode = dataset.read_episode(position)
        for camera in episode.record.cameras:
            yield episode.record.episode_index, camera, bytes(episode.videos[camera.key])


# -- Frames and times ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    some_quickly(
        CASES, {"open_gop_hevc", "edit_list", "one_frame_episodes", "yuv444p", "color_tags"}
    ),
)
def test_every_row_keeps_its_frame_and_its_time(name: str, tmp_path: Path, run: Run) -> None:
    built = build(tmp_path / "source", CASES[name])
    codec = CODECS.get(name, "libsvtav1")
    run(built.root, tmp_path / "shards", **reencode(codec=codec, gop=3, crf=20))
    count = 0
    for episode, camera, data in slices(tmp_path / "shards"):
        clip = built.clips[camera.key, episode]
        times, pictures = decoded(data)
        expected = built.frames(camera.key, episode)
        source = shown_times(clip.path)[clip.first_frame : clip.first_frame + clip.num_frames]
        assert [time - times[0] for time in times] == [time - source[0] for time in source]
        assert (camera.rows, camera.skip_frames) == ([(0, 0, len(expected))], 0)
        assert camera.keyframes == list(range(0, len(expected), 3))
        assert (camera.height, camera.width, 3) == pictures.shape[1:]
        assert [read_stamp(picture) for picture in pictures] == [
            (episode, row) for row in range(len(expected))
        ]
        if name != "yuv444p":  # whose chroma has four times the samples
            assert min(map(psnr, pictures, expected)) > 24
        count += 1
    assert count == len(built.clips)


def test_rows_without_a_frame_of_their_own_repeat_the_same_one(tmp_path: Path, run: Run) -> None:
    build(tmp_path / "source", FURTHER_CASES["dropped_frames"])
    run(tmp_path / "source", tmp_path / "copy", tolerance_s=0.21)
    run(tmp_path / "source", tmp_path / "shards", tolerance_s=0.21, **reencode(codec="libx264"))
    copies = [camera.rows for _, camera, _ in slices(tmp_path / "copy")]
    assert [camera.rows for _, camera, _ in slices(tmp_path / "shards")] == copies
    assert copies[0] == [(0, 0, 10), (10, 9, 1), (11, 9, 1)]


def test_a_damaged_frame_is_an_error_and_not_a_picture(tmp_path: Path, run: Run) -> None:
    built = build(tmp_path / "source", Source(lengths=(12,), cameras=(Camera(key=TOP, gop=12),)))
    path = built.clips[TOP, 0].path
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size]
    data = bytearray(path.read_bytes())
    start, size = packets[6]
    data[start + 6 : start + size] = bytes(size - 6)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=rf"episode 0, camera '{TOP}', .*(damaged|decoded)"):
        run(built.root, tmp_path / "shards", **reencode(codec="libx264"))


# -- What the dataset says -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_cameras(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Eight episodes of two cameras, of which the first has keyframes far apart."""
    cameras = (
        Camera(key=TOP, gop=60, bframes=2, stream="continuous", episodes_per_file=8),
        Camera(key=WRIST, codec="av1", gop=2),
    )
    root = tmp_path_factory.mktemp("reencode") / "robot"
    return build(root, Source(lengths=(12, 9, 15, 7, 11, 3, 8, 10), cameras=cameras, state_dim=160))


@pytest.fixture(scope="module")
def smaller(two_cameras: Built, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The first of the two cameras is encoded again."""
    root = tmp_path_factory.mktemp("reencode") / "shards"
    run(two_cameras.root, root, **reencode(size=(48, 72), cameras=TOP))
    return root


def test_manifest_and_features_say_what_was_done(two_cameras: Built, smaller: Path) -> None:
    manifest = ShardedDataset.open(str(smaller)).manifest
    assert manifest.conversion.options["video"] == {
        "mode": "reencode",
        "codec": "libsvtav1",
        "gop": 2,
        "crf": 30,
        "size": [48, 72],
        "cameras": [TOP],
    }
    assert manifest.conversion.versions.items() >= library_versions().items()
    info = json.loads((two_cameras.root / "meta/info.json").read_bytes())
    assert manifest.info == info
    assert manifest.features[WRIST] == info["features"][WRIST]
    top = manifest.features[TOP]
    assert top["shape"] == [48, 72, 3]
    described = {
        name: top["info"][f"video.{name}"]
        for name in ("height", "width", "codec", "pix_fmt", "g", "crf")
    }
    assert described == {
        "height": 48,
        "width": 72,
        "codec": "av1",
        "pix_fmt": "yuv420p",
        "g": 2,
        "crf": 30,
    }


def test_a_copy_says_nothing_of_it(two_cameras: Built) -> None:
    plan = make_plan(ConvertConfig(source=str(two_cameras.root), destination="/nowhere"))
    assert plan.encoding is None
    assert "video" not in plan.provenance.conversion.options
    assert "ffmpeg" not in plan.provenance.conversion.versions


def test_another_ffmpeg_makes_another_conversion(
    two_cameras: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(video: Any) -> str:
        found = make_plan(
            ConvertConfig(source=str(two_cameras.root), destination="/nowhere", video=video)
        )
        return found.provenance.conversion.id

    before = [plan("copy"), plan("reencode")]
    monkeypatch.setattr(encoder.av, "ffmpeg_version_info", "another")
    assert [plan("copy") == before[0], plan("reencode") == before[1]] == [True, False]


def test_the_other_camera_is_copied(
    two_cameras: Built, smaller: Path, tmp_path: Path, run: Run
) -> None:
    run(two_cameras.root, tmp_path / "copy")
    copies = {
        (episode, camera.key): (camera, data) for episode, camera, data in slices(tmp_path / "copy")
    }
    for episode, camera, data in slices(smaller):
        if camera.key == WRIST:
            assert (camera, data) == copies[episode, WRIST]
        else:
            assert (camera.height, camera.width, camera.num_frames) == (48, 72, camera.num_rows)


def test_a_loader_gives_pictures_of_the_features_shape(two_cameras: Built, smaller: Path) -> None:
    loader = make_loader(str(smaller), batch_size=12, shuffle=False, cameras=[TOP])
    batch = next(iter(loader))
    loader.close()
    assert tuple(loader.meta.features[TOP]["shape"]) == (48, 72, 3)
    assert batch[TOP].shape == (12, 3, 48, 72)
    pictures = batch[TOP].numpy().transpose(0, 2, 3, 1)
    assert [read_stamp(picture) for picture in pictures] == [(0, row) for row in range(12)]


def test_manifests_can_be_made_again(smaller: Path, tmp_path: Path, tree: ReadTree) -> None:
    root = Path(shutil.copytree(smaller, tmp_path / "shards"))
    for path in [root / "dataset.json", root / "episodes.parquet", *root.glob("shards/*.json")]:
        path.unlink()
    rebuild(root)
    assert tree(root) == tree(smaller)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ({"shape": [64, 96, 3], "names": ["height", "width", "channels"]}, [32, 48, 3]),
        ({"shape": [3, 64, 96], "names": ["channels", "height", "width"]}, [3, 32, 48]),
        ({"shape": [3, 64, 96], "names": None, "video_info": {"video.fps": 10}}, [3, 32, 48]),
        ({"shape": [64, 96, 3]}, [32, 48, 3]),
    ],
)
def test_height_and_width_are_where_the_source_has_them(
    spec: dict[str, Any], shape: list[int]
) -> None:
    encoding = Encoding(codec="libx264", gop=2, crf=30, size=(32, 48), cameras=(TOP,))
    before = json.dumps(spec)
    features = encoded_features({TOP: spec, "action": {"shape": [2]}}, encoding)
    assert features[TOP]["shape"] == shape
    assert features[TOP]["video_info" if "video_info" in spec else "info"]["video.codec"] == "h264"
    assert features["action"] == {"shape": [2]}
    assert json.dumps(spec) == before
    assert Encoding.of_json(json.loads(json.dumps(encoding.as_json()))) == encoding


# -- The same bytes --------------------------------------------------------------------------------


def test_the_number_of_workers_does_not_show(
    two_cameras: Built, smaller: Path, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    run(two_cameras.root, tmp_path / "shards", workers=2, **reencode(size=(48, 72), cameras=TOP))
    assert tree(tmp_path / "shards") == tree(smaller)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_nor_does_when_it_was_done(
    two_cameras: Built, tmp_path: Path, run: Run, tree: ReadTree, codec: str
) -> None:
    for name in ("one", "other"):
        run(
            two_cameras.root,
            tmp_path / name,
            episodes="0:2",
            **reencode(codec=codec, gop=5, cameras=TOP),
        )
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_an_unfinished_conversion_is_completed_with_the_same_options_alone(
    two_cameras: Built, smaller: Path, tmp_path: Path, run: Run, tree: ReadTree
) -> None:
    root = Path(shutil.copytree(smaller, tmp_path / "shards"))
    names = sorted(path.name for path in root.glob("shards/*.tar"))
    (root / "dataset.json").unlink()
    (root / "shards" / names[0]).unlink()
    (root / "shards" / names[1]).with_suffix(".json").unlink()
    options: list[dict[str, Any]] = [
        {"size": (48, 72)},
        {"size": (48, 72), "cameras": TOP, "gop": 3},
    ]
    for others in [{}, *(reencode(**each) for each in options)]:
        with pytest.raises(OptionError, match="holds shards of another conversion"):
            run(two_cameras.root, root, **others)
    report = run(two_cameras.root, root, **reencode(size=(48, 72), cameras=TOP))
    assert report.reused_shards == len(names) - 2
    assert tree(root) == tree(smaller)


# -- The encoder -----------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds threads in /proc")
@pytest.mark.parametrize("codec", ["libsvtav1", "libx264", "libx265"])
def test_encoders_say_nothing_and_take_no_priority(
    codec: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    def policies() -> set[int]:
        return {os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task")}

    found = []

    def frames() -> Iterator[av.VideoFrame]:
        for i in range(3):
            yield av.VideoFrame.from_ndarray(np.full((64, 96, 3), 40 * i, np.uint8), format="rgb24")
            found.append(policies())

    like = av.CodecContext.create("h264", "r")
    clip = Clip(ticks=np.array([0, 512, 2048]), time_base=Fraction(1, 5120), fps=10, like=like)
    data = encode(frames(), clip, Encoding(codec=codec, gop=2, crf=30, size=None, cameras=()))
    assert decoded(data)[0] == [Fraction(0), Fraction(1, 10), Fraction(4, 10)]
    assert capfd.readouterr() == ("", "")
    assert found == [{os.SCHED_OTHER}] * 3
    if os.geteuid() != 0:
        pytest.skip("priority not tried: only root's threads could take any")


def noise(count: int, size: tuple[int, int]) -> Iterator[av.VideoFrame]:
    """Pictures with detail of every kind."""
    values = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    yield from (av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in values)


def encoded_noise(
    codec: Any, gop: int = 4, count: int = 6, size: tuple[int, int] = (64, 96)
) -> bytes:
    clip = Clip(ticks=np.arange(count), time_base=Fraction(1, 10), fps=10, like=UNTAGGED)
    return encode(
        noise(count, size), clip, Encoding(codec=codec, gop=gop, crf=30, size=None, cameras=())
    )


def test_x264_gives_the_same_bytes_whatever_the_processor_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, options = encoded_noise("libx264"), encoder._options

    def of_a_plain_processor(encoding: Encoding) -> dict[str, str]:
        given = options(encoding)
        return given | {"x264-params": given["x264-params"] + ":asm=0"}

    monkeypatch.setattr(encoder, "_options", of_a_plain_processor)
    assert encoded_noise("libx264") == here


@pytest.mark.parametrize("size", [(63, 96), (64, 97), (33, 47)])
def test_the_default_encoder_takes_odd_sizes(size: tuple[int, int]) -> None:
    times, pictures = decoded(encoded_noise("libsvtav1", size=size))
    assert (len(times), pictures.shape[1:]) == (6, (*size, 3))


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264", "libx265"])
@pytest.mark.parametrize("count", [1, 3])
def test_every_frame_can_be_a_keyframe(codec: str, count: int) -> None:
    tables = read_sample_tables(encoded_noise(codec, gop=1, count=count))
    assert tables.is_sync.tolist() == [True] * count


@pytest.mark.parametrize(
    ("codec", "size", "why"),
    [
        ("libx264", (63, 96), "both must be even; choose --size, or --codec libsvtav1"),
        ("libx265", (64, 97), "both must be even"),
        ("libx265", (30, 40), "both must be at least 64; choose --codec libsvtav1 or libx264"),
        ("libx265", (62, 96), "both must be at least 64"),
        ("libx265", (64, 18), "both must be at least 64"),
    ],
)
def test_sizes_that_an_encoder_must_not_see_never_reach_it(
    codec: Any, size: tuple[int, int], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "_options", lambda _: pytest.fail("it was tried"))
    encoding = Encoding(codec=codec, gop=2, crf=30, size=None, cameras=())
    message = f"codec {codec} does not take pictures of height {size[0]} and width {size[1]}: {why}"
    with pytest.raises(OptionError, match=message):
        check_encoder(encoding, size)
    with pytest.raises(OptionError, match=message):
        check_encoder(replace(encoding, size=size), (480, 640))
    with pytest.raises(ValueError, match=message):
        encoded_noise(codec, size=size)


# -- What cannot be done ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gop": 0}, "gop is a number of frames and must be at least 1, not 0"),
        ({"crf": -1}, "crf must not be negative"),
        ({"size": (47, 72)}, r"size is HEIGHT WIDTH in pixels, both even, not \(47, 72\)"),
        ({"size": (0, 72)}, "size is HEIGHT WIDTH"),
    ],
)
def test_options_that_mean_nothing_are_refused_at_once(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        ReencodeConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": (96, 64)},
            rf"size: 96 64 \(height, width\) is larger than camera '{TOP}', 64 96",
        ),
        (
            {"cameras": "top"},
            rf"cameras: \['top'\] not among the dataset's videos \['{TOP}', '{WRIST}'\]",
        ),
        (
            {"crf": 99},
            "codec libsvtav1 does not take gop 2, crf 99 and pictures of height 64 and width 96",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    two_cameras: Built, tmp_path: Path, run: Run, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        run(two_cameras.root, tmp_path / "shards", **reencode(**options))
    assert list(tmp_path.iterdir()) == []


def test_how_to_encode_needs_encoding() -> None:
    with pytest.raises(OptionError, match="they need video reencode"):
        ConvertConfig(source="s", destination="d", reencode=ReencodeConfig(gop=3))


def test_an_encoder_that_is_not_there(
    two_cameras: Built, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder.av, "codecs_available", {"libx264"})
    with pytest.raises(
        OptionError, match="codec libsvtav1: PyAV's FFmpeg has no such encoder here; it has libx264"
    ):
        run(two_cameras.root, tmp_path / "shards", **reencode())
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_a_later_file_are_not_enlarged(tmp_path: Path, run: Run) -> None:
    built = build(
        tmp_path / "source", Source(lengths=(4, 6), cameras=(Camera(key=TOP, episodes_per_file=1),))
    )
    built.clips[TOP, 1].path.write_bytes(encoded_noise("libx264", size=(48, 72)))
    with pytest.raises(
        SourceError, match=r"smaller than in other files .*, 48 72 .*, and not enlarged to 64 96"
    ):
        run(built.root, tmp_path / "shards", **reencode(codec="libx264", size=(64, 96)))


def test_a_storage_that_fails_is_not_taken_for_a_bad_video(
    two_cameras: Built, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = list[object]()

    def fail_once(path: Path) -> VideoFile:
        if not failed:
            failed.append(path)
            raise StorageError("the bucket is away")
        return VideoFile(path)

    monkeypatch.setattr(converter_reencode, "VideoFile", fail_once)
    with pytest.raises(StorageError, match="the bucket is away"):
        run(two_cameras.root, tmp_path / "shards", **reencode())


def test_depth_and_more_than_eight_bits_are_copied(tmp_path: Path, run: Run) -> None:
    deep = Camera(key="observation.images.deep", codec="hevc", pix_fmt="yuv420p10le")
    built = build(
        tmp_path / "source",
        Source(lengths=(5, 6), cameras=(Camera(key=TOP), Camera(key=WRIST), deep)),
    )
    path = built.root / "meta/info.json"
    info = json.loads(path.read_bytes())
    info["features"][WRIST]["info"]["video.is_depth_map"] = True
    path.write_text(json.dumps(info))
    run(built.root, tmp_path / "copy")
    run(built.root, tmp_path / "shards", **reencode(codec="libx264"))
    options = ShardedDataset.open(str(tmp_path / "shards")).manifest.conversion.options
    assert options["video"]["cameras"] == [TOP]
    for copy, other in zip(slices(tmp_path / "copy"), slices(tmp_path / "shards"), strict=True):
        assert (copy == other) == (copy[1].key != TOP)
    for key, reason in (
        (WRIST, "it holds depth"),
        (deep.key, "its pixels are yuv420p10le, not YUV of 8 bits"),
    ):
        with pytest.raises(
            OptionError, match=f"cameras: '{key}' is only copied, never encoded again: {reason}"
        ):
            run(built.root, tmp_path / "other", **reencode(cameras=key))
    assert not (tmp_path / "other").exists()


# -- The report ------------------------------------------------------------------------------------


def test_a_survey_tells_keyframes_and_costs_and_writes_nothing(
    two_cameras: Built, tmp_path: Path
) -> None:
    destination = tmp_path / "shards"
    top, wrist = survey_videos(
        ConvertConfig(source=str(two_cameras.root), destination=str(destination))
    )
    assert (top.key, top.codec, top.size, top.pix_fmt) == (TOP, "h264", "96x64", "yuv420p")
    assert (wrist.key, wrist.codec, wrist.gop < 2.2, wrist.longest_gop) == (WRIST, "av1", True, 2)
    assert 1.3 < wrist.random_cost <= 1.5
    # keyframes 0 and 60 of 75 frames: slices of 12, 21, 36, 43, 54, 57, 5 and 15 frames, each with
    # one
    assert top.longest_gop == 60
    assert 10 < top.random_cost < 31
    assert not destination.exists()

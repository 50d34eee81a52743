"""Packets from memory against torchcodec: the same pictures, in any order, and nothing written
elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.encode import sequential_rgb
from support.lerobot_source import Camera, Source, build
from support.spec import Color

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader
from roboshard.loader.decoding import by_packets, codec
from roboshard.loader.decoding.by_packets import (
    CHEAP_TO_BEGIN,
    DECODED_AT_ONCE,
    PacketDecoder,
)
from roboshard.loader.decoding.colors import interpolation_for, reformatted
from roboshard.loader.decoding.decode import decode_frames, open_decoder
from roboshard.loader.decoding.pictures import Picture, copy_picture
from roboshard.loader.decoding.rgb import RgbConverter, planes_of
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import InMemory
from roboshard.shards import FormatError, ShardedDataset
from roboshard.shards.gop import decode_cost, last_keyframe, mean_random_cost
from roboshard.shards.schema import CameraRecord
from roboshard.shards.slices import read_slice

LENGTHS = (24, 17, 20)
STREAMS = (
    Camera(key="h264.near", gop=2),
    Camera(key="h264.reordered", gop=12, bframes=3),
    Camera(key="h264.open", gop=6, bframes=2, open_gop=True, stream="continuous"),
    Camera(key="h264.far", gop=40, bframes=2, stream="continuous"),
    Camera(key="hevc.near", codec="hevc", gop=3, bframes=1),
    Camera(key="hevc.open", codec="hevc", gop=8, bframes=3, open_gop=True),
    Camera(key="av1.near", codec="av1", gop=2, size=(64, 80)),
    Camera(key="av1.far", codec="av1", gop=30),
    Camera(key="av1.every", codec="av1", gop=1),
)
FORMATS = (
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuvj422p",
    "yuv444p",
    "yuvj444p",
    "yuv420p10le",
    "gbrp",
)
FULL = Color(range="pc")
LOOKS = (
    *(
        Camera(key=f"{height}x{width}", size=(height, width))
        for height, width in [(64, 96), (84, 84), (90, 98)]
    ),
    Camera(key="444", pix_fmt="yuv444p"),
    Camera(key="422", pix_fmt="yuv422p"),
    Camera(key="odd", pix_fmt="yuv444p", size=(65, 67)),
    Camera(key="709", color=Color()),
    Camera(key="601", color=Color(colorspace="smpte170m")),
    Camera(key="full", color=FULL),
    Camera(key="full.444", color=FULL, pix_fmt="yuv444p", size=(72, 100)),
    Camera(key="hevc.full", codec="hevc", color=replace(FULL, colorspace="smpte170m")),
    Camera(key="av1.709", codec="av1", color=Color()),
    Camera(key="av1.full", codec="av1", color=FULL),
    Camera(key="av1.full.narrow", codec="av1", color=FULL, size=(64, 98)),
    Camera(key="av1.odd", codec="av1", size=(65, 97)),
    Camera(key="hevc.10", codec="hevc", pix_fmt="yuv420p10le"),
    Camera(key="hevc.10.narrow", codec="hevc", pix_fmt="yuv420p10le", size=(72, 100)),
)


class Slice(NamedTuple):
    data: memoryview
    camera: CameraRecord
    expected: NDArray[np.uint8]
    """(frames, H, W, 3), by torchcodec."""


def slices_of(cameras: Sequence[Camera], folder: Path) -> dict[tuple[int, str], Slice]:
    """(episode, camera) -> its slice."""
    build(folder / "source", Source(lengths=LENGTHS, cameras=tuple(cameras)))
    convert(
        ConvertConfig(source=str(folder / "source"), destination=str(folder / "shards"), workers=1)
    )
    dataset = ShardedDataset.open(str(folder / "shards"))
    found: dict[tuple[int, str], Slice] = {}
    for episode in range(len(LENGTHS)):
        data = dataset.read_episode(episode)
        for camera in data.record.cameras:
            file = folder / f"{episode}.{camera.key}.mp4"
            file.write_bytes(data.videos[camera.key])
            expected = sequential_rgb(file)
            found[episode, camera.key] = Slice(data.videos[camera.key], camera, expected)
    return found


def pixels(picture: Picture) -> NDArray[Any]:
    assert not isinstance(picture, torch.Tensor)
    target = np.empty(picture.shape, dtype=picture.dtype)
    copy_picture(picture, target)
    return target


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Slice]:
    return slices_of(STREAMS, tmp_path_factory.mktemp("streams"))


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Slice]:
    return slices_of(LOOKS, tmp_path_factory.mktemp("looks"))


def open_slice(slot: Slice, settings: PictureSettings | None = None) -> PacketDecoder:
    decoder = open_decoder(InMemory(slot.data), slot.camera, settings or PictureSettings(), "here")
    assert isinstance(decoder, PacketDecoder)
    return decoder


def check(decoder: PacketDecoder, slot: Slice, frames: Sequence[int]) -> None:
    found = [pixels(picture) for picture in decoder.frames(frames)]
    assert len(found) == len(frames)
    for frame, picture in zip(frames, found, strict=True):
        assert np.array_equal(picture, slot.expected[frame]), frame


# -- Pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", LOOKS, ids=lambda camera: camera.key)
def test_pictures_of_any_size_format_and_color_are_those_of_torchcodec(
    looks: dict[tuple[int, str], Slice], camera: Camera
) -> None:
    slot = looks[0, camera.key]
    check(open_slice(slot), slot, range(slot.camera.num_frames))


@pytest.mark.parametrize("camera", LOOKS, ids=lambda camera: camera.key)
def test_pictures_as_levels_of_0_to_1(looks: dict[tuple[int, str], Slice], camera: Camera) -> None:
    slot = looks[0, camera.key]
    target = np.empty(slot.expected.shape[1:], dtype=np.float32)
    for frame, picture in enumerate(open_slice(slot).frames(range(5))):
        assert not isinstance(picture, torch.Tensor)
        copy_picture(picture, target)
        assert np.array_equal(target, slot.expected[frame] / np.float32(255))


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize(
    "size", [(64, 96), (2, 2), (1, 1), (65, 67), (3, 33), (64, 90), (63, 32)], ids=str
)
def test_nothing_is_written_beside_a_picture(pixel_format: str, size: tuple[int, int]) -> None:
    height, width = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=pixel_format)
    memory = np.full((5, height, width, 3), 77, dtype=np.uint8)
    converter = RgbConverter(
        width, height, pixel_format, int(frame.colorspace), int(frame.color_range)
    )
    converter.into(planes_of(frame), memory[2])
    assert np.array_equal(memory[2], reformatted(frame, interpolation_for(pixel_format, height)))
    assert np.all(memory[[0, 1, 3, 4]] == 77)
    assert np.array_equal(converter.pixels(planes_of(frame)), memory[2])


def test_a_picture_is_not_written_to_where_it_does_not_fit() -> None:
    """The same number of bytes in another shape: rows would end beyond the next ones."""
    frame = av.VideoFrame(64, 32, "yuv420p")
    converter = RgbConverter(64, 32, "yuv420p", 2, 0)
    with pytest.raises(ValueError, match=r"does not fit \(64, 32, 3\)"):
        converter.into(planes_of(frame), np.zeros((64, 32, 3), dtype=np.uint8))
    with pytest.raises((TypeError, BufferError, ValueError)):
        converter.into(planes_of(frame), np.zeros((32, 128, 3), dtype=np.uint8)[:, ::2])


@pytest.mark.parametrize("pixel_format", ["pal8", "vaapi", "none such"])
def test_a_pixel_format_that_is_not_converted_here_is_refused(pixel_format: str) -> None:
    with pytest.raises(ValueError, match=f"{pixel_format} are not converted"):
        RgbConverter(64, 64, pixel_format, 2, 0)


# -- Any order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", STREAMS, ids=lambda camera: camera.key)
def test_each_frame_alone_from_the_last_to_the_first(
    streams: dict[tuple[int, str], Slice], camera: Camera
) -> None:
    for episode in range(len(LENGTHS)):
        slot = streams[episode, camera.key]
        decoder = open_slice(slot)
        for frame in reversed(range(slot.camera.num_frames)):
            check(decoder, slot, [frame])


visits = st.lists(
    st.tuples(
        st.integers(0, len(LENGTHS) - 1),
        st.sampled_from([camera.key for camera in STREAMS]),
        st.lists(st.integers(0, max(LENGTHS) - 1), max_size=9, unique=True).map(sorted),
        st.booleans(),
    ),
    max_size=14,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(visits=visits)
def test_slices_share_codecs_and_each_visit_gets_its_frames(
    streams: dict[tuple[int, str], Slice], visits: list[tuple[int, str, list[int], bool]]
) -> None:
    """Some visits end early, as they do when a loader is closed or fails elsewhere."""
    shared = PictureSettings()
    decoders = {place: open_slice(slot, shared) for place, slot in streams.items()}
    for episode, key, wanted, ends_early in visits:
        slot, decoder = streams[episode, key], decoders[episode, key]
        frames = [frame for frame in wanted if frame < slot.camera.num_frames]
        if ends_early and frames:
            assert np.array_equal(pixels(next(decoder.frames(frames))), slot.expected[frames[0]])
            continue
        before, cost = (
            decoder.num_decoded,
            decode_cost(frames, slot.camera.keyframes, decoder.last_frame),
        )
        check(decoder, slot, frames)
        assert decoder.num_decoded - before == cost


@pytest.mark.parametrize("camera", STREAMS, ids=lambda camera: camera.key)
def test_no_more_packets_are_decoded_than_counted_but_for_those_in_flight(
    streams: dict[tuple[int, str], Slice], camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = streams[0, camera.key]
    sizes = read_slice(slot.data, slot.camera).tables.sizes.tolist()
    num_fed, feed = 0, codec.Codec.feed

    def counted(self: codec.Codec, data: Any, pts: int, dts: int, **options: Any) -> Any:
        nonlocal num_fed
        packets = itertools.accumulate(sizes[dts:])  # of which several may come in one piece
        num_fed += 1 + list(packets).index(len(data))
        return feed(self, data, pts, dts, **options)

    monkeypatch.setattr(codec.Codec, "feed", counted)
    decoder, frames = open_slice(slot), range(0, slot.camera.num_frames, 3)
    for frame in frames:
        check(decoder, slot, [frame])
    if not camera.bframes:
        assert num_fed == decoder.num_decoded
    assert num_fed <= decoder.num_decoded + len(frames) * camera.bframes


def test_a_codec_stays_with_a_slice_only_where_keyframes_are_far_apart(
    streams: dict[tuple[int, str], Slice],
) -> None:
    for camera in STREAMS:
        slot = streams[0, camera.key]
        shared = PictureSettings()
        decoder = open_slice(slot, shared)
        check(decoder, slot, [0, 4])
        stays = mean_random_cost(slot.camera.keyframes, slot.camera.num_frames) > CHEAP_TO_BEGIN
        stays = stays and 5 not in slot.camera.keyframes
        assert decoder.last_frame == (4 if stays else None), camera.key
        assert len(shared.codecs._idle) == (0 if stays else 1)


def test_an_epoch_needs_as_many_codecs_as_there_are_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Noted(codec.Codec):
        def __init__(self, data: memoryview, camera: CameraRecord) -> None:
            super().__init__(data, camera)
            made.append(self)

    monkeypatch.setattr(by_packets, "Codec", Noted)
    cameras = (Camera(key="a", codec="av1", gop=2), Camera(key="b", codec="av1", gop=2))
    build(tmp_path / "source", Source(lengths=(9, 8, 7, 10, 9, 8, 11, 6), cameras=cameras))
    convert(
        ConvertConfig(
            source=str(tmp_path / "source"), destination=str(tmp_path / "shards"), workers=1
        )
    )
    loader = make_loader(str(tmp_path / "shards"), batch_size=4, decode_threads=2)
    for _ in range(3):
        list(loader)
    assert 0 < len(made) <= 3 * 2, "in each epoch"


# -- What cannot be decoded ------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["h264.reordered", "h264.near", "av1.far", "av1.near", "hevc.open"])
def test_a_packet_that_cannot_be_decoded_is_an_error_for_the_frames_after_it_in_its_gop_alone(
    streams: dict[tuple[int, str], Slice], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was asked for before, and together with which others."""
    slot, feed = streams[0, key], codec.Codec.feed
    tables = read_slice(slot.data, slot.camera).tables
    bad = int(tables.as_shown[7])
    payload = bytes(slot.data[tables.offsets[bad] : tables.ends[bad]])

    def failing(
        self: codec.Codec, data: bytes, *arguments: int, **options: bool
    ) -> list[av.VideoFrame]:
        if payload in bytes(data):
            raise av.error.InvalidDataError(1, "no such packet")
        return feed(self, data, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(codec.Codec, "feed", failing)
    following = [keyframe for keyframe in slot.camera.keyframes if keyframe > 7]
    end = following[0] if following else slot.camera.num_frames
    first = last_keyframe(slot.camera.keyframes, 7)
    packet_of = tables.as_shown.tolist()
    lost = {frame for frame in range(first, end) if packet_of[frame] >= bad}
    decoder = open_slice(slot)
    for frame in [*range(slot.camera.num_frames), *reversed(range(slot.camera.num_frames))]:
        if frame in lost:
            with pytest.raises(av.FFmpegError):
                check(decoder, slot, [frame])
        else:
            check(decoder, slot, [frame])
    kept = [frame for frame in range(slot.camera.num_frames) if frame not in lost]
    check(decoder, slot, kept)
    with pytest.raises(av.FFmpegError):
        check(decoder, slot, range(slot.camera.num_frames))


def test_packets_that_go_to_their_codec_in_one_piece_are_few_pieces(
    streams: dict[tuple[int, str], Slice], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces, feed = [], codec.Codec.feed

    def noted(self: codec.Codec, data: Any, *arguments: int, **options: bool) -> Any:
        pieces.append(len(data))
        return feed(self, data, *arguments, **options)

    monkeypatch.setattr(codec.Codec, "feed", noted)
    slot = streams[0, "av1.near"]
    check(open_slice(slot), slot, range(slot.camera.num_frames))
    assert len(pieces) == -(-slot.camera.num_frames // DECODED_AT_ONCE[0])


@pytest.mark.parametrize("lost", [2, 3, 7, 8])
def test_a_packet_without_a_frame_is_an_error_for_its_frames_alone(
    streams: dict[tuple[int, str], Slice], lost: int
) -> None:
    """Whatever it goes to the codec together with: no other frame takes the place of its own."""
    slot = streams[0, "av1.near"]
    tables = read_slice(slot.data, slot.camera).tables
    begin, end = int(tables.offsets[lost]), int(tables.ends[lost])
    packet = bytes(slot.data[begin:end])
    header = packet[: 2 + packet[1]] if lost in slot.camera.keyframes else b""  # AV1 5.3
    left = len(packet) - len(header)
    padding = bytes([15 << 3 | 2, (left - 3) & 127 | 128, (left - 3) >> 7])
    data = bytearray(slot.data)
    data[begin:end] = header + padding + bytes(left - len(padding) - 1) + b"\x80"
    broken = slot._replace(data=memoryview(bytes(data)))
    decoder = open_slice(broken)
    gone = {lost, lost + 1} if lost in slot.camera.keyframes else {lost}
    others = [frame for frame in range(slot.camera.num_frames) if frame not in gone]
    check(decoder, broken, others)
    with pytest.raises((FormatError, av.FFmpegError)):
        check(decoder, broken, range(slot.camera.num_frames))
    check(decoder, broken, others)


def test_a_frame_that_never_comes_is_an_error(
    streams: dict[tuple[int, str], Slice], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = codec.Codec.feed

    def without_the_third(*arguments: Any, **options: Any) -> Iterator[Any]:
        return (frame for frame in feed(*arguments, **options) if frame.pts != 3)

    monkeypatch.setattr(codec.Codec, "feed", without_the_third)
    slot = streams[0, "av1.far"]
    decoder = open_slice(slot)
    with pytest.raises(FormatError, match="frame 3 was not decoded"):
        check(decoder, slot, [2, 3, 4])
    check(decoder, slot, [4, 5])


def test_a_slice_that_is_not_what_its_record_says_is_refused(
    streams: dict[tuple[int, str], Slice],
) -> None:
    data, camera, _ = streams[0, "h264.near"]
    lies: dict[str, dict[str, Any]] = {
        "at other times than": {"pts": [(7, 1, camera.num_frames)]},
        "ticks a second": {"time_base": (1, 7)},
        "none of": {"codec": "bmp"},
        "its codec is h264, vp9 in its record": {"codec": "vp9"},
    }
    for problem, lie in lies.items():
        with pytest.raises(FormatError, match=f"^here: .*{problem}"):
            decode_first(data, camera.model_copy(update=lie))
    with pytest.raises(FormatError, match=r"here: .*not an MP4 slice"):
        decode_first(memoryview(b"no file"), camera)


def decode_first(data: memoryview, camera: CameraRecord) -> None:
    wanted = PictureSettings()
    decoder = open_decoder(InMemory(data), camera, wanted, "here")
    list(decode_frames(decoder, camera, [0], wanted, "here"))

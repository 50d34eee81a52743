"""Packets from memory against torchcodec and PyAV: the same pictures, in any order, and nothing written elsewhere."""

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
from support.decoders import decode_with
from support.lerobot_source import Camera, Source, build
from support.spec import Color

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader
from roboshard.loader.decoding import by_packets, codec
from roboshard.loader.decoding.by_packets import CHEAP_TO_BEGIN, PacketDecoder, packet_decoder
from roboshard.loader.decoding.by_pyav import upright
from roboshard.loader.decoding.decode import FrameDecoder, open_decoder
from roboshard.loader.decoding.pictures import Picture, copy_picture
from roboshard.loader.decoding.rgb import FORMATS, RgbConverter
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.shards import ShardedDataset
from roboshard.shards.gop import decode_cost, mean_random_cost
from roboshard.shards.schema import CameraRecord

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
            with pytest.MonkeyPatch.context() as patch:
                decode_with("torchcodec", patch)
                decoder = open_decoder(data.videos[camera.key], camera, PictureSettings(), "here")
            frames = range(camera.num_frames)
            expected = np.stack([pixels(picture) for picture in decoder.frames(frames)])
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
    decoder = packet_decoder(slot.data, slot.camera, settings or PictureSettings())
    assert decoder is not None
    return decoder


def open_with_replacement(slot: Slice) -> FrameDecoder:
    return open_decoder(slot.data, slot.camera, PictureSettings(), "here")


def check(decoder: PacketDecoder, slot: Slice, frames: Sequence[int]) -> None:
    found = [pixels(picture) for picture in decoder.frames(frames)]
    assert len(found) == len(frames)
    for frame, picture in zip(frames, found, strict=True):
        assert np.array_equal(picture, slot.expected[frame]), frame


# -- Pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", LOOKS, ids=lambda camera: camera.key)
def test_pictures_of_any_size_format_and_color_are_those_of_torchcodec(
    looks: dict[tuple[int, str], Slice], camera: Camera
) -> None:
    slot = looks[0, camera.key]
    assert slot.camera.pix_fmt in FORMATS
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
    converter.into(frame.planes, memory[2])
    assert np.array_equal(memory[2], upright(frame))
    assert np.all(memory[[0, 1, 3, 4]] == 77)
    assert np.array_equal(converter.pixels(frame.planes), memory[2])


def test_a_picture_is_not_written_to_where_it_does_not_fit() -> None:
    """The same number of bytes in another shape: rows would end beyond the next ones."""
    frame = av.VideoFrame(64, 32, "yuv420p")
    converter = RgbConverter(64, 32, "yuv420p", 2, 0)
    with pytest.raises(ValueError, match=r"does not fit \(64, 32, 3\)"):
        converter.into(frame.planes, np.zeros((64, 32, 3), dtype=np.uint8))
    with pytest.raises((TypeError, BufferError, ValueError)):
        converter.into(frame.planes, np.zeros((32, 128, 3), dtype=np.uint8)[:, ::2])


def test_a_pixel_format_that_is_not_converted_here_is_refused() -> None:
    with pytest.raises(ValueError, match="yuv420p10le are not converted"):
        RgbConverter(64, 64, "yuv420p10le", 2, 0)


# -- Any order -------------------------------------------------------------------------------------------------


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
    fed, feed = itertools.count(), codec.Codec.feed
    monkeypatch.setattr(codec.Codec, "feed", lambda *arguments: (next(fed), feed(*arguments))[1])
    slot = streams[0, camera.key]
    decoder, frames = open_slice(slot), range(0, slot.camera.num_frames, 3)
    for frame in frames:
        check(decoder, slot, [frame])
    num_fed = next(fed)
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
        def __init__(self, data: memoryview) -> None:
            super().__init__(data)
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


# -- Where something else decodes --------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_at", [0, 1, 4, 9])
@pytest.mark.parametrize("key", ["h264.reordered", "av1.near", "hevc.open"])
def test_pyav_takes_over_where_a_packet_cannot_be_decoded(
    streams: dict[tuple[int, str], Slice], key: str, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed, feed = itertools.count(), codec.Codec.feed

    def failing(*arguments: Any) -> Any:
        if next(fed) == fails_at:
            raise av.error.InvalidDataError(1, "no such packet")
        return feed(*arguments)

    monkeypatch.setattr(codec.Codec, "feed", failing)
    slot, frames = streams[0, key], [0, 1, 5, 6, 7, 8, 11, 15]
    decoder = open_with_replacement(slot)
    found = [pixels(picture) for picture in decoder.frames(frames)]
    assert np.array_equal(found, slot.expected[frames])
    assert decoder.last_frame == 15
    assert decoder.num_decoded >= len(frames)


def test_a_slice_of_another_pixel_format_than_its_record_says_is_left_to_pyav(
    streams: dict[tuple[int, str], Slice], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise ValueError("not converted here")

    monkeypatch.setattr(by_packets, "CodedPicture", refused)
    slot = streams[0, "h264.near"]
    decoder = open_with_replacement(slot)
    found = [pixels(picture) for picture in decoder.frames([2, 3])]
    assert np.array_equal(found, slot.expected[2:4])


def test_a_frame_that_never_comes_is_left_to_pyav(
    streams: dict[tuple[int, str], Slice], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = codec.Codec.feed

    def without_the_third(*arguments: Any) -> Iterator[Any]:
        return (frame for frame in feed(*arguments) if frame.pts != slot.camera.ticks()[3])

    monkeypatch.setattr(codec.Codec, "feed", without_the_third)
    slot = streams[0, "av1.far"]
    decoder = open_with_replacement(slot)
    found = [pixels(picture) for picture in decoder.frames([2, 3, 4])]
    assert np.array_equal(found, slot.expected[2:5])


def test_packets_serve_only_what_they_can(
    streams: dict[tuple[int, str], Slice], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, camera, _ = streams[0, "h264.near"]
    assert packet_decoder(data, camera, PictureSettings()) is not None
    assert packet_decoder(data, camera, PictureSettings(device="cuda")) is None
    for lie in ({"codec": "vp9"}, {"pix_fmt": "yuv420p10le"}, {"pts": [(7, 1, camera.num_frames)]}):
        assert packet_decoder(data, camera.model_copy(update=lie), PictureSettings()) is None
    assert packet_decoder(memoryview(b"no file"), camera, PictureSettings()) is None
    monkeypatch.setattr(by_packets, "swscale", lambda: None)
    assert packet_decoder(data, camera, PictureSettings()) is None

"""Colors are torchcodec's, to the bit, for every pixel format, size and tag, whichever way frames
are converted.
"""

from __future__ import annotations

import io
import sys
from functools import cache
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.decoders import decode_with
from torchcodec.decoders import VideoDecoder

from roboshard.loader.decoding import colors, rgb
from roboshard.loader.decoding.pictures import copy_picture
from roboshard.loader.decoding.rgb import DecodedFrame, picture_of
from roboshard.loader.decoding.torchcodec_module import torchcodec

FORMATS = (
    *("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "nv12", "yuyv422"),
    *("yuv420p10le", "yuv422p10le", "yuv444p12le", "yuva420p", "yuva444p10le"),
    *("gray", "gray10le", "gray12le", "gray16le", "ya8"),
    *("gbrp", "gbrp10le", "rgb24", "bgr0", "rgba", "rgb555le"),
)
SIZES = ((64, 96), (63, 96), (64, 98), (63, 97), (48, 34))
TAGS = (
    (None, None),
    (0, 1),
    (1, 1),
    (1, 2),
    (5, 2),
    (6, 1),
    (8, 1),
    (9, 1),
    (9, 2),
    (10, 1),
    (14, 1),
)
"""(matrix, range) by FFmpeg's numbers."""


def clip(pixel_format: str, size: tuple[int, int], tags: tuple[int | None, int | None]) -> bytes:
    """A video of one frame that keeps every bit of it."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    shades = np.stack([columns * 3, rows * 5, (rows + columns) * 2], axis=-1) % 256
    noise = np.random.default_rng(1).integers(-20, 20, shades.shape)
    pixels = np.clip(shades + noise, 0, 255).astype(np.uint8)
    codec, container = ("ffv1", "matroska") if pixel_format in FFV1 else ("rawvideo", "nut")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
        frame: Any = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format=pixel_format)
        for tagged in (stream.codec_context, frame):
            if tags[0] is not None:
                tagged.colorspace, tagged.color_range = tags
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


FFV1 = {
    *("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "yuv420p10le", "yuva420p"),
    *("yuv422p10le", "yuv444p12le", "yuva444p10le", "gray", "gray10le", "gray12le", "gray16le"),
    *("ya8", "gbrp10le", "bgr0"),
}


def as_torchcodec(video: bytes) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = VideoDecoder(video, dimension_order="NHWC")[0].numpy()
    return pixels


def as_here(video: bytes) -> tuple[NDArray[np.uint8], bool]:
    """(RGB, whether libswscale was called here)."""
    with av.open(io.BytesIO(video)) as container:
        picture = picture_of(next(container.decode(video=0)))
    target = np.empty(picture.shape, dtype=np.uint8)
    copy_picture(picture, target)
    return target, isinstance(picture, DecodedFrame)


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_colors_are_those_of_torchcodec(pixel_format: str) -> None:
    for size in SIZES:
        for tags in TAGS:
            video = clip(pixel_format, size, tags)
            found, is_called_here = as_here(video)
            assert is_called_here
            assert np.array_equal(found, as_torchcodec(video)), (size, tags)


PYAV_DIFFERS = {"gray10le", "gray12le", "gray16le", "ya8"}
"""Of which PyAV takes the range for full whatever it is told."""


@pytest.mark.parametrize("pixel_format", [name for name in FORMATS if name not in PYAV_DIFFERS])
def test_colors_by_pyav_are_nearly_those(
    pixel_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_with("pyav", monkeypatch)
    for size in SIZES[1:3]:
        for tags in TAGS:
            video = clip(pixel_format, size, tags)
            found, is_called_here = as_here(video)
            assert not is_called_here
            far = np.abs(found.astype(np.int64) - as_torchcodec(video)).max()
            assert far <= 2, (size, tags, far)


def test_the_interpolation_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what torchcodec returns: releases differ."""

    class Other:
        @staticmethod
        def VideoDecoder(video: bytes, **_: Any) -> list[Any]:
            with av.open(io.BytesIO(video)) as container:
                frame = next(container.decode(video=0))
                assert torch_like(frame, "BICUBIC").tolist() != torch_like(frame, wanted).tolist()
                return [Tensor(torch_like(frame, wanted))]

    def torch_like(frame: av.VideoFrame, name: str) -> NDArray[np.uint8]:
        return frame.reformat(format="rgb24", interpolation=name).to_ndarray()

    class Tensor:
        def __init__(self, array: NDArray[np.uint8]) -> None:
            self.numpy = lambda: array

    wanted = "BILINEAR"
    monkeypatch.setattr(colors, "torchcodec", lambda: Other)
    assert colors.interpolation.__wrapped__() == "BILINEAR"
    monkeypatch.setattr(colors, "torchcodec", lambda: None)
    assert colors.interpolation.__wrapped__() == "BICUBIC"
    monkeypatch.undo()
    assert colors.interpolation.__wrapped__() in colors.INTERPOLATIONS


@pytest.mark.parametrize("believes", [False, True])
def test_a_range_is_believed_as_by_the_torchcodec_that_is_installed(
    believes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.17 does, wherever libswscale is called; releases before it do not."""

    class Other:
        @staticmethod
        def VideoDecoder(video: bytes, **_: Any) -> list[torch.Tensor]:
            with av.open(io.BytesIO(video)) as container:
                luma = next(container.decode(video=0)).to_ndarray()[:32]
            return [torch.from_numpy(luma if believes else luma - 16)]

    monkeypatch.setattr(colors, "torchcodec", lambda: Other)
    asked = cache(colors.believes_range.__wrapped__)
    assert asked() is believes
    monkeypatch.setattr(colors, "believes_range", asked)
    monkeypatch.setattr(rgb, "_converters", rgb._Converters())
    frame = av.VideoFrame.from_ndarray(
        np.full((96, 64), 128, dtype=np.uint8) - DARKER, format="yuv420p"
    )
    frame.color_range = colors.FULL_RANGE
    target = np.empty((64, 64, 3), dtype=np.uint8)
    copy_picture(picture_of(frame), target)
    assert np.all(target == (16 if believes else 0))
    assert np.array_equal(colors.reformatted(frame, "BICUBIC"), target)
    monkeypatch.setattr(colors, "torchcodec", lambda: None)
    assert colors.believes_range.__wrapped__(), "as the newest"


DARKER = np.repeat(np.array([[112], [0]], dtype=np.uint8), (64, 32), axis=0)
"""Of a frame of 64 x 64: black, unless its values fill the full range."""


def test_frames_are_converted_where_torchcodec_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # as where it is for another torch
    monkeypatch.setattr(colors, "torchcodec", cache(torchcodec.__wrapped__))
    monkeypatch.setattr(colors, "interpolation", cache(colors.interpolation.__wrapped__))
    monkeypatch.setattr(rgb, "_converters", rgb._Converters())
    video = clip("yuv420p", (63, 96), (None, None))
    with pytest.warns(RuntimeWarning, match="the release for the installed torch") as told:
        found, _ = as_here(video)
    assert [type(one.message) for one in told] == [RuntimeWarning]
    again, _ = as_here(video)  # which warns no more
    assert np.array_equal(found, again)
    with av.open(io.BytesIO(video)) as container:
        expected = colors.reformatted(next(container.decode(video=0)), "BICUBIC")
    assert np.abs(found.astype(np.int64) - expected).max() <= 2

"""Images of the rows are what LeRobot makes of them, by few formats, within bounds, and with one
kind of error.
"""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from PIL import __version__ as PILLOW

from roboshard.common.errors import FormatError
from roboshard.shards.images import MAX_PIXELS, check_image, most_pixels, read_image

WHERE = "shard, episode 3, feature 'x', row 1"
MOST = 1 << 21
NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)


def image_of(mode: str) -> Image.Image:
    """A picture with something else in every pixel, in a mode of Pillow's."""
    if mode == "I;16":
        return Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(NOISE[..., 0].astype(np.int32) * 70_000 - 5)
    if mode == "F":
        return Image.fromarray(NOISE[..., 0].astype(np.float32) / 7)
    if mode == "P":
        return Image.fromarray(NOISE[..., :3]).quantize(17)
    if mode in ("RGBA", "CMYK"):
        return Image.frombytes(mode, (40, 24), NOISE.tobytes())
    if mode in ("LA", "PA"):
        return Image.fromarray(NOISE).convert(mode)
    return Image.fromarray(NOISE[..., :3]).convert(mode)


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def lerobots(data: bytes) -> np.ndarray[Any, Any]:
    """(C, H, W) of LeRobot: `datasets` opens and turns it, torchvision's ToTensor takes it as it
    is.
    """
    image = datasets.Image().decode_example({"bytes": data, "path": None})
    if image.mode in ("I;16", "I;16B", "I;16L", "F"):
        return np.asarray(image, dtype=np.float32)[None]
    if image.mode == "I":
        return np.asarray(image, dtype=np.int32)[None]
    pixels = np.array(image, dtype=np.uint8)
    if image.mode == "1":
        pixels *= 255
    channels = pixels.reshape(image.height, image.width, len(image.getbands()))
    return (channels.transpose(2, 0, 1) / np.float32(255)).astype(np.float32)


SAVED = [
    *[("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    *[("JPEG", mode) for mode in ("L", "RGB", "CMYK")],
    *[("WEBP", mode) for mode in ("L", "RGB", "RGBA", "P")],
    *[
        ("TIFF", mode)
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB")
    ],
    *[("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")],
]


@pytest.mark.parametrize(("kind", "mode"), SAVED, ids=str)
def test_every_mode_is_what_lerobot_makes_of_it(kind: str, mode: str) -> None:
    data = file_of(image_of(mode), kind)
    if (kind, mode) == ("TIFF", "YCbCr") and int(PILLOW.split(".")[0]) < 13:
        pytest.skip("older releases of Pillow cannot read the file that they write")
    found = read_image(data, MOST, WHERE)
    as_loaded = found / np.float32(255) if found.dtype == np.uint8 else found
    expected = lerobots(data)
    assert as_loaded.dtype == expected.dtype
    assert np.array_equal(as_loaded.transpose(2, 0, 1), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_images_are_turned_as_their_exif_says(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(image_of("RGB"), kind, exif=exif)
    found = read_image(data, MOST, WHERE)
    assert np.array_equal(found.transpose(2, 0, 1) / np.float32(255), lerobots(data))
    assert found.shape[:2] == ((40, 24) if orientation in (5, 6, 7, 8) else (24, 40))


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"\xff" * 40, b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_a_good_image_with_broken_exif_is_good(exif: bytes) -> None:
    for kind in ("PNG", "JPEG"):
        data = file_of(image_of("RGB"), kind, exif=exif)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_image(data, MOST, WHERE).shape == (24, 40, 3)


# -- What is not opened ----------------------------------------------------------------------------

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    "kind", ["GIF", "PPM", "ICO", "TGA", "PCX", "SGI", "PDF", "JPEG2000", "EPS"]
)
def test_other_formats_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "subprocess.Popen.__init__", lambda *_, **__: pytest.fail("a program is started")
    )
    data = EPS if kind == "EPS" else file_of(image_of("RGB"), kind)
    for read in (read_image, check_image):
        with pytest.raises(FormatError, match=f"{WHERE}: not a readable image"):
            read(data, MOST, WHERE)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    packed = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1)))
    return png(8, 8, packed, chunk(b"IDAT", zlib.compress(bytes(8 * 25))))


def tiff(**tags: tuple[int, int]) -> bytes:
    """A TIFF of nothing but these tags, number_NNN=(type, value)."""
    entries = b"".join(
        struct.pack("<HHII", int(name[1:]), kind, 1, value) for name, (kind, value) in tags.items()
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


GREY = file_of(image_of("L"), "PNG")
JPEG = file_of(image_of("RGB"), "JPEG")
ODD: dict[str, bytes] = {
    "empty": b"",
    "no image": b"not an image",
    "cut header": GREY[:20],
    "cut data": GREY[:60],
    "overwritten": GREY[:-300] + bytes(288) + GREY[-12:],
    "another format's magic": b"\xff\xd8\xff\xe0" + GREY[4:],
    "magic alone": b"\x89PNG\r\n\x1a\n",
    "bad zlib": png(8, 8, chunk(b"IDAT", b"\x78\x9cnot zlib")),
    "no data": png(8, 8),
    "a chunk longer than the file": png(8, 8)[:33] + struct.pack(">I", 1 << 30) + b"IDAT",
    "a chunk with no name": png(8, 8, chunk(b"\0\0\0\0", b"")),
    "no size": png(0, 0, chunk(b"IDAT", zlib.compress(b""))),
    "negative size": png(1 << 31, 8, chunk(b"IDAT", zlib.compress(b""))),
    "huge size": png(60_000, 60_000, chunk(b"IDAT", zlib.compress(b""))),
    "large size": png(9_000, 9_000, chunk(b"IDAT", zlib.compress(bytes(1000)))),
    "bad palette": png(8, 8, chunk(b"PLTE", b"x"), chunk(b"tRNS", b"xyz")),
    "text bomb": text_bomb(),
    "JPEG without tables": JPEG[:20] + JPEG[-200:],
    "JPEG without a scan": JPEG[: JPEG.index(b"\xff\xda")] + b"\xff\xd9",
    "JPEG cut": JPEG[: len(JPEG) // 3],
    "TIFF without tags": tiff(),
    "TIFF without data": tiff(t256=(4, 8), t257=(4, 8), t258=(3, 8), t262=(3, 1)),
    "TIFF of odd tags": tiff(t256=(2, 8), t257=(12, 8), t258=(7, 99), t262=(5, 1), t259=(3, 77)),
    "TIFF with large tiles": tiff(
        t256=(4, 8),
        t257=(4, 8),
        t258=(3, 8),
        t262=(3, 1),
        t259=(3, 8),
        t322=(4, 60_000),
        t323=(4, 60_000),
        t324=(4, 8),
        t325=(4, 8),
    ),
    "TIFF in a circle": b"II*\0\x08\0\0\0\x01\0\x4a\x01\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
    "BMP cut": file_of(image_of("RGB"), "BMP")[:40],
    "BMP of negative size": file_of(image_of("L"), "BMP")[:18]
    + struct.pack("<ii", -8, -8)
    + bytes(30),
    "WebP cut": file_of(image_of("RGB"), "WEBP")[:30],
    "WebP of nothing": b"RIFF\x1a\0\0\0WEBPVP8 \x0e\0\0\0" + bytes(14),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_format_errors_with_their_place(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FormatError, match=f"{WHERE}: not a readable image"):
            read_image(ODD[name], MOST, WHERE)


@pytest.mark.parametrize("filter_", ["error", "ignore"])
def test_errors_do_not_depend_on_how_warnings_are_taken(filter_: Any) -> None:
    for data in ODD.values():
        with warnings.catch_warnings():
            warnings.simplefilter(filter_)
            with pytest.raises(FormatError):
                read_image(data, MOST, WHERE)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_read(kind: str) -> None:
    frames = [image_of("RGB"), image_of("RGB").transpose(Image.Transpose.ROTATE_180)]
    data = file_of(frames[0], kind, save_all=True, append_images=frames[1:])
    found = read_image(data, MOST, WHERE)
    assert np.array_equal(found.transpose(2, 0, 1) / np.float32(255), lerobots(data))


# -- How large -------------------------------------------------------------------------------------


def test_a_picture_larger_than_its_feature_is_refused_before_it_is_decoded() -> None:
    """8,000 x 4,000 pixels in 94 kB."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 3 * 8_000)) for _ in range(4_000)) + rows.flush()
    bomb = png(8_000, 4_000, chunk(b"IDAT", data))
    most = most_pixels({"dtype": "image", "shape": [480, 640, 3]})
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (read_image, check_image):
            with pytest.raises(FormatError, match="8000 x 4000 pixels, more than the 2097152"):
                read(bomb, most, WHERE)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("spec", "most"),
    [
        ({"shape": [480, 640, 3]}, 1 << 21),
        ({"shape": [3, 2000, 3000], "names": ["channels", "height", "width"]}, 24_000_000),
        ({"shape": [30_000, 30_000, 3]}, 1 << 24),
        ({"shape": [9_000, 9_000, 3]}, MAX_PIXELS),
        ({"shape": ["height", "width", 3]}, 1 << 24),
        ({"shape": None}, 1 << 24),
        ({}, 1 << 24),
    ],
    ids=str,
)
def test_how_many_pixels_a_feature_allows(spec: dict[str, Any], most: int) -> None:
    assert most_pixels(spec) == most


# -- Whatever comes --------------------------------------------------------------------------------


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A file with a few bytes changed, cut out, put in or repeated."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(changed) + 1)
        count = draw.choice((1, 2, 4, 16))
        how: Callable[[], bytes] = draw.choice(
            (
                lambda count=count: draw.randbytes(count),
                lambda: b"",
                lambda count=count: bytes(count),
                lambda count=count: b"\xff" * count,
                lambda at=at, count=count: bytes(changed[at : at + 8 * count]) * 2,
            )
        )
        changed[at : at + count] = how()
    return bytes(changed)


@pytest.mark.parametrize(("kind", "mode"), SAVED, ids=str)
def test_damaged_images_are_pictures_or_format_errors(kind: str, mode: str) -> None:
    data = file_of(image_of(mode), kind)
    draw = random.Random(f"{kind} {mode}")
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(120):
            try:
                found = read_image(mutated(data, draw), MOST, WHERE)
            except FormatError as error:
                refused += str(error).startswith(WHERE)
            else:
                assert found.ndim == 3
                assert found.shape[0] * found.shape[1] <= MOST
    assert refused > 0

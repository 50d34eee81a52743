"""Slices that are something else, with checksums that fit: an error that names the place, and
nothing is opened.
"""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from support.damage import Forgery, cheaply
from support.decoders import DECODERS, decode_with
from support.lerobot_source import Camera, Source, build

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader
from roboshard.shards import FormatError, RoboshardError, ShardedDataset
from roboshard.shards.mp4 import MAX_SAMPLES, read_sample_tables
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.verify import VerifyConfig, verify

TOP = "observation.images.top"
LENGTHS = (6, 5, 7)
BROKEN = 1


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    build(folder / "source", Source(lengths=LENGTHS, cameras=(Camera(key=TOP, gop=3),)))
    convert(
        ConvertConfig(source=str(folder / "source"), destination=str(folder / "shards"), workers=1)
    )
    return folder / "shards"


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64)).save(buffer, kind)
    return buffer.getvalue()


def avi() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as output:
        stream: Any = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        pixels = np.zeros((64, 96, 3), dtype=np.uint8)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def hls(secret: Path) -> bytes:
    return (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
    )


def remote_hls(_: Path) -> bytes:
    return (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )


def dash(secret: Path) -> bytes:
    return f"""<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">
<Representation id="1" bandwidth="1" width="96" height="64"><BaseURL>http://127.0.0.1:9{secret}</BaseURL>
<SegmentBase/></Representation></AdaptationSet></Period></MPD>""".encode()


def sdp(_: Path) -> bytes:
    session = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    return session + b"m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"


def ffconcat(secret: Path) -> bytes:
    return f"ffconcat version 1.0\nfile '{secret}'\n".encode()


HOSTILE: dict[str, Any] = {
    "hls": hls,
    "remote hls": remote_hls,
    "dash": dash,
    "sdp": sdp,
    "ffconcat": ffconcat,
    "avi": lambda _: avi(),
    "png": lambda _: picture("png"),
    "jpeg": lambda _: picture("jpeg"),
    "playlist after a box": lambda secret: struct.pack(">I4s", 8, b"free") + hls(secret),
    "nothing": lambda _: b"",
}


def forged(honest: Path, root: Path, data: bytes) -> str:
    forgery = Forgery(honest, root)
    forgery.put_members(0, BROKEN, lambda members: members.update({f"{TOP}.mp4": data}))
    return forgery.seal()


WATCHED: list[list[str]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHED and (event.startswith(("socket.", "subprocess.", "os.exec", "os.posix_spawn"))):
        WATCHED[-1].append(event)
    if WATCHED and event == "open" and "secret" in str(arguments[0]):
        WATCHED[-1].append(str(arguments[0]))


sys.addaudithook(_watch)


@contextmanager
def nothing_else_is_opened(secret: Path) -> Iterator[None]:
    """Fail if a socket, a process or the secret file is opened, by Python or by FFmpeg's own
    calls.
    """
    before = secret.stat().st_atime_ns
    WATCHED.append([])
    try:
        yield
        assert not WATCHED[-1]
        assert secret.stat().st_atime_ns == before
    finally:
        WATCHED.pop()


@pytest.fixture
def secret(honest: Path, tmp_path: Path) -> Path:
    """A video that a playlist names; its time of access would tell."""
    path = tmp_path / "secret.mp4"
    path.write_bytes(avi())
    return path


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_mp4_file_is_an_error_that_names_the_place(
    honest: Path,
    tmp_path: Path,
    secret: Path,
    kind: str,
    decoder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode_with(decoder, monkeypatch)
    root = forged(honest, tmp_path / "forged", HOSTILE[kind](secret))
    where = rf"shard-000000\.tar, episode {BROKEN}, camera '{TOP}': .*not an MP4 slice"
    with nothing_else_is_opened(secret), pytest.raises(FormatError, match=where):
        list(make_loader(root, shuffle=False, batch_size=2))


@pytest.mark.parametrize("kind", HOSTILE)
def test_export_and_verify_open_nothing_else_either(
    honest: Path, tmp_path: Path, secret: Path, kind: str
) -> None:
    root = forged(honest, tmp_path / "forged", HOSTILE[kind](secret))
    with nothing_else_is_opened(secret):
        assert not verify(VerifyConfig(url=root, frames=1)).ok
        with pytest.raises(RoboshardError, match=f"episode {BROKEN}"):
            export(ExportConfig(source=root, destination=str(tmp_path / "exported")))


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def with_table(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A slice with another body in one of its tables.

    Offsets stay: its packets come before its tables.
    """

    def rebuilt(start: int, end: int) -> bytes:
        parts = []
        while start < end:
            size, name = struct.unpack_from(">I4s", data, start)
            if name == kind:
                parts.append(box(name, body))
            elif name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
                parts.append(box(name, rebuilt(start + 8, start + size)))
            else:
                parts.append(data[start : start + size])
            start += size
        return b"".join(parts)

    return rebuilt(0, len(data))


@pytest.fixture(scope="module")
def slice_bytes(honest: Path) -> bytes:
    return bytes(ShardedDataset.open(str(honest)).read_episode(0).videos[TOP])


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


TABLES: dict[str, tuple[bytes, bytes]] = {
    "many samples of one size": (b"stsz", numbers(0, 1, 1 << 27)),
    "as many as there may be": (b"stsz", numbers(0, 1, MAX_SAMPLES)),
    "samples of no size": (b"stsz", numbers(0, 0, 1 << 31)),
    "large samples": (b"stsz", numbers(0, 1 << 31, 6)),
    "a long run": (b"stts", numbers(0, 1, 1 << 30, 1)),
    "many runs": (b"stts", numbers(0, 1 << 16, *[0, 1] * (1 << 16))),
    "a negative run": (b"stts", numbers(0, 2, (1 << 32) - 6, 1, 12, 1)),
    "a chunk of very many": (b"stsc", numbers(0, 1, 1, 1 << 30, 1)),
    "no chunk": (b"stsc", numbers(0, 0)),
    "chunks far away": (b"stsc", numbers(0, 2, 1, 1, 1, 1 << 30, 1, 1)),
    "a keyframe before the first": (b"stss", numbers(0, 1, 0)),
    "a negative keyframe": (b"stss", numbers(0, 1, (1 << 32) - 1)),
    "a keyframe after the last": (b"stss", numbers(0, 1, 7)),
    "many keyframes": (b"stss", numbers(0, 1 << 16, *[1] * (1 << 16))),
    "many boxes": (b"udta", b""),
}


@pytest.mark.parametrize("lie", TABLES)
def test_a_table_that_claims_too_much_is_refused_before_memory_is_taken(
    slice_bytes: bytes, lie: str
) -> None:
    kind, body = TABLES[lie]
    data = with_table(slice_bytes, kind, body)
    if lie == "many boxes":
        data += box(b"free") * 300
    else:
        assert data != slice_bytes
    padded = data + box(b"free", bytes((1 << 23) - len(data)))  # so that the bytes allow many
    tracemalloc.start()
    try:
        for num_samples in (None, 6):
            if num_samples is None and lie == "as many as there may be":
                continue
            with cheaply(seconds=2, megabytes=8), pytest.raises(ValueError, match=r"."):
                read_sample_tables(padded, num_samples)
    finally:
        tracemalloc.stop()


def test_a_slice_may_hold_as_many_frames_as_the_format_allows_and_no_more() -> None:
    assert MAX_SAMPLES == 4_194_304, "docs/format.md says so"

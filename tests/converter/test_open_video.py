"""Source videos are opened as a file of a known format, and the stream is the one that torchcodec
takes.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
from av.stream import Disposition
from support.lerobot_source import Camera, Source, build
from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]

from roboshard.converter import ConvertConfig, convert
from roboshard.converter.video.opening import OPENS_FLV, open_video, rotation_of
from roboshard.converter.video.video_file import VideoFile
from roboshard.loader import open_dataset
from roboshard.shards import SourceError
from roboshard.tools.verify import VerifyConfig, verify

TOP = "observation.images.top"


def write_levels(path: Path, levels: list[int], **streams: int) -> None:
    """A video whose picture number i is grey of 40 + 10 i, once for each stream, each of its own
    level on top.
    """
    with av.open(str(path), "w") as container:
        made = []
        for _ in levels:
            stream = container.add_stream("libx264", rate=10, options={"g": "2", "bf": "0"})
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            made.append(stream)
        for number, stream in enumerate(made):
            is_default = number == streams["default"]
            stream.disposition = (Disposition.default if is_default else Disposition(0)).value
        for i in range(60):
            for level, stream in zip(levels, made, strict=True):
                pixels = np.full((64, 96, 3), level + i, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 10)
                container.mux(stream.encode(frame))
        for stream in made:
            container.mux(stream.encode(None))


@pytest.mark.parametrize("default", [0, 1])
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_of_two_streams_the_default_one_is_taken(tmp_path: Path, default: int, suffix: str) -> None:
    path = tmp_path / f"two.{suffix}"
    write_levels(path, [20, 120], default=default)
    container, stream = open_video(path)
    with container:
        frame, index = next(container.decode(stream)).to_ndarray(format="rgb24"), stream.index
    decoder = VideoDecoder(str(path), dimension_order="NHWC")
    assert index == decoder.metadata.stream_index == default
    assert np.abs(frame.astype(int) - decoder.get_frame_at(0).data.numpy()).max() <= 2


@pytest.mark.parametrize("video", ["copy", "reencode"])
def test_a_file_of_two_streams_gives_the_pictures_of_the_default_one(
    tmp_path: Path, video: str
) -> None:
    built = build(tmp_path / "source", Source(cameras=(Camera(key=TOP, episodes_per_file=5),)))
    path = built.clips[TOP, 0].path
    write_levels(path, [20, 120], default=1)
    root = tmp_path / "shards"
    convert(
        ConvertConfig(
            source=str(built.root),
            destination=str(root),
            workers=1,
            video=video,  # type: ignore[arg-type]
        )
    )
    dataset, decoder = open_dataset(str(root)), VideoDecoder(str(path))
    for row in range(len(dataset)):
        shown = dataset[row][TOP].numpy().astype(int)
        assert np.abs(shown - decoder.get_frame_at(row).data.numpy()).max() <= 8
    report = verify(VerifyConfig(url=str(root), against=str(built.root)))
    assert report.ok, report.as_json()


def test_a_cover_picture_is_no_stream_to_show(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    write_levels(tmp_path / "plain.mp4", [20], default=0)
    with av.open(str(tmp_path / "plain.mp4")) as plain, av.open(str(path), "w") as target:
        source = plain.streams.video[0]
        cover = target.add_stream("png", rate=1)
        assert isinstance(cover, av.VideoStream)
        cover.height, cover.width, cover.pix_fmt = 200, 300, "rgb24"
        cover.disposition = Disposition.attached_pic.value
        copy = target.add_stream_from_template(source, opaque=True)
        picture = av.VideoFrame.from_ndarray(np.zeros((200, 300, 3), np.uint8), format="rgb24")
        target.mux(cover.encode(picture))
        for packet in plain.demux(source):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    container, stream = open_video(path)
    with container:
        assert len(container.streams.video) == 2
        assert stream.codec_context.codec.canonical_name == "h264"


# -- Formats ---------------------------------------------------------------------------------------


class _Counting(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """A server that has nothing and remembers who asked."""
    _Counting.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Counting) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">
<Representation id="1" bandwidth="1"><BaseURL>{0}</BaseURL></Representation></AdaptationSet></Period></MPD>"""
PLAYLISTS = {
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{0}\n#EXT-X-ENDLIST\n",
    "DASH": DASH,
    "ffconcat": "ffconcat version 1.0\nfile '{0}'\n",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\n"
    "t=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "RTSP": "RTSPtext\nrtsp://{0}\n",
    "ASX": '<asx version="3.0"><entry><ref href="{0}"/></entry></asx>',
    "text": "{0}\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("names", ["a file beside it", "a URL"])
def test_what_opens_other_files_is_refused_unopened(
    kind: str, names: str, tmp_path: Path, server: str
) -> None:
    write_levels(tmp_path / "real.mp4", [20], default=0)
    named = "real.mp4" if names == "a file beside it" else f"{server}/real.mp4"
    path = tmp_path / "playlist.mp4"
    path.write_text(PLAYLISTS[kind].format(named))
    for opened in (open_video, VideoFile, rotation_of):
        with pytest.raises(
            SourceError, match="no readable video stream: it is no MP4, MOV, Matroska"
        ):
            opened(path)
    assert not _Counting.asked


def test_a_numbered_name_is_a_name(tmp_path: Path) -> None:
    """FFmpeg reads such a name as that of many files, and a colon as the end of a protocol."""
    for name in ("picture-%03d.png", "concat:a.mp4|b.mp4"):
        path = tmp_path / name
        write_levels(tmp_path / "real.mp4", [20], default=0)
        path.write_bytes((tmp_path / "real.mp4").read_bytes())
        VideoFile(path).close()


def test_a_title_in_latin_1_is_no_reason_to_fail(tmp_path: Path) -> None:
    write_levels(tmp_path / "plain.mp4", [20], default=0)
    with (
        av.open(str(tmp_path / "plain.mp4")) as plain,
        av.open(str(tmp_path / "titled.mp4"), "w") as target,
    ):
        target.metadata["title"] = "caf\u00e9"
        copied = target.add_stream_from_template(plain.streams.video[0])
        for packet in plain.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    data = (tmp_path / "titled.mp4").read_bytes()
    assert data.count(b"caf\xc3\xa9") == 1
    (tmp_path / "latin.mp4").write_bytes(data.replace(b"caf\xc3\xa9", b"caf\xe9 "))
    container, _ = open_video(tmp_path / "latin.mp4")
    container.close()


@pytest.mark.parametrize("suffix", ["mkv", "avi", "ts", "flv", "mov"])
def test_other_containers_open_as_what_they_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file.{suffix}"
    write_levels(path, [20], default=0)
    renamed = path.rename(tmp_path / "file.mp4")  # the name says nothing
    if suffix == "flv" and not OPENS_FLV:
        with pytest.raises(SourceError, match="needs av 16"):
            open_video(renamed)
        return
    container, stream = open_video(renamed)
    with container:
        assert sum(packet.size > 0 for packet in container.demux(stream)) == 60

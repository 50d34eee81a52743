"""Sources whose video is in other containers and codecs than MP4 with H.264, HEVC or AV1."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.stream import VideoStream
from numpy.typing import NDArray

from .mp4_boxes import turn

TOP = "observation.images.top"
LENGTHS = (6, 5, 7)
FPS = 10
_BASE = Path(__file__).parents[1] / "data/cases/mkv/src"


@dataclass(frozen=True, kw_only=True)
class Video:
    """What a video file is to be."""

    encoder: str
    pix_fmt: str = "yuv420p"
    extension: str = "mkv"
    gop: int = 1
    bframes: int = 0
    size: tuple[int, int] = (64, 96)
    rotation: int = 0
    """Degrees by which pictures are to be turned before they are shown."""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return a name for test ids."""
        return f"{self.encoder}-{self.pix_fmt}-{self.extension}-gop{self.gop}-b{self.bframes}"


def pictures(count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(count, H, W, 3): smooth pictures, each unlike the others."""
    height, width = size
    found = np.zeros((count, height, width, 3), dtype=np.uint8)
    for number, picture in enumerate(found):
        picture[..., 0] = np.linspace(0, 200, width)[None]
        picture[..., 1] = np.linspace(0, 200, height)[:, None]
        picture[..., 2] = 255 * number // count
        left = number * (width - 16) // count
        picture[8:24, left : left + 16] = 255 - picture[8:24, left : left + 16]
    return found


def write(path: Path, video: Video, *, count: int, fps: int) -> None:
    """Encode `count` pictures into a file of the format that its name ends with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(video.encoder, rate=fps, options=dict(video.options))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = video.size
        stream.pix_fmt = video.pix_fmt
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = video.gop
        stream.codec_context.max_b_frames = video.bframes
        for number, pixels in enumerate(pictures(count, video.size)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format=video.pix_fmt
            )
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if video.rotation:
        turn(path, video.rotation)


def build(root: Path, video: Video, *, fps: int = FPS) -> Path:
    """Make a dataset of three episodes in one file of this video, and return the file's path."""
    shutil.copytree(_BASE, root)
    (file,) = (root / "videos").rglob("file-000.mkv")
    file.unlink()
    path = file.with_suffix(f".{video.extension}")
    write(path, video, count=sum(LENGTHS), fps=fps)
    if fps != FPS:
        _change_rate(root, fps)
    info = json.loads((root / "meta/info.json").read_text())
    info["video_path"] = info["video_path"].replace(".mkv", f".{video.extension}")
    info["fps"] = fps
    info["features"][TOP]["shape"] = [*video.size, 3]
    (root / "meta/info.json").write_text(json.dumps(info))
    return path


def _change_rate(root: Path, fps: int) -> None:
    """Let rows and episodes follow each other at another rate."""
    for path in (*(root / "data").rglob("*.parquet"), *(root / "meta/episodes").rglob("*.parquet")):
        table = pq.read_table(path)
        for number, name in enumerate(table.column_names):
            if name.endswith("timestamp"):
                times = table.column(name).to_numpy().astype(np.float64) * FPS
                values = pa.array(np.round(times) / fps).cast(table.schema.field(number).type)
                table = table.set_column(number, table.schema.field(number), values)
        pq.write_table(table, path)

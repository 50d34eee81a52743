"""Exports with slices in Matroska, as LeRobot reads them: by the approximate frame number, within
its tolerance.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from packaging.version import Version
from support import containers
from support.containers import FPS, LENGTHS, TOP, Video
from support.encode import sequential_rgb
from torchcodec.decoders import VideoDecoder

from roboshard.converter import ConvertConfig, convert
from roboshard.tools.export import ExportConfig, export

LEROBOT_TOLERANCE_S = 1e-4

pytestmark = pytest.mark.skipif(
    Version(version("torchcodec")) < Version("0.9"),
    reason="this torchcodec opens no Matroska file by approximate frame numbers",
)


@pytest.mark.parametrize(
    "video",
    [
        Video(encoder="libvpx", extension="webm", gop=5),
        Video(encoder="prores_ks", pix_fmt="yuv422p10le", extension="mov"),
        Video(encoder="huffyuv", pix_fmt="yuv422p", extension="avi"),
    ],
    ids=lambda video: video.name,
)
def test_lerobot_finds_every_frame(video: Video, tmp_path: Path) -> None:
    source = containers.build(tmp_path / "source", video)
    shards, exported = tmp_path / "shards", tmp_path / "exported"
    convert(ConvertConfig(source=str(tmp_path / "source"), destination=str(shards), workers=1))
    export(ExportConfig(source=str(shards), destination=str(exported)))
    template = json.loads((exported / "meta/info.json").read_text())["video_path"]
    path = exported / template.format(video_key=TOP, chunk_index=0, file_index=0)
    decoder = VideoDecoder(str(path), seek_mode="approximate", dimension_order="NHWC")
    assert decoder.metadata.average_fps == pytest.approx(FPS, abs=1e-3)
    (episodes,) = (exported / "meta/episodes").rglob("*.parquet")
    starts = pq.read_table(episodes).column(f"videos/{TOP}/from_timestamp").to_pylist()
    times = [
        start + np.float32(row / FPS)
        for start, length in zip(starts, LENGTHS, strict=True)
        for row in range(length)
    ]
    numbers = [round(float(time) * decoder.metadata.average_fps) for time in times]
    found = decoder.get_frames_at(numbers)
    assert np.abs(found.pts_seconds.numpy() - np.array(times)).max() <= LEROBOT_TOLERANCE_S
    assert np.array_equal(found.data.numpy(), sequential_rgb(source))

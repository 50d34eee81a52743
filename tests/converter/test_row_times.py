"""Rows beside video are at whatever times they say: each shows the frame nearest to its own, as in
LeRobot.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.lerobot_source import Built, Camera, Source, build, read_stamp

from roboshard.converter import ConversionReport, ReencodeConfig
from roboshard.loader import open_dataset
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.verify import VerifyConfig, verify

TOP = "observation.images.top"
Run = Callable[..., ConversionReport]
SHOWN = {
    "a frame twice": [0, 1, 2, 2, 4, 5],
    "backwards": [5, 4, 3, 2, 1, 0],
    "the first row late": [3, 1, 2, 3, 0, 5],
    "all the same": [4, 4, 4, 4, 4, 4],
    "not from the first": [2, 3, 4, 5, 5, 5],
}
COPY: dict[str, Any] = {}
REENCODE: dict[str, Any] = {
    "video": "reencode",
    "reencode": ReencodeConfig(codec="libx264", gop=2, crf=10),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    camera = Camera(key=TOP, episodes_per_file=2, stream="continuous", gop=4, bframes=2)
    return build(tmp_path_factory.mktemp("rows"), Source(lengths=(6, 6), cameras=(camera,)))


def put_times(built: Built, frames: list[int]) -> None:
    """Give the rows of both episodes the times of these frames."""
    path = built.data_files[0]
    table = pq.read_table(path)
    at = table.schema.get_field_index("timestamp")
    times = pa.array(np.tile(np.array(frames, np.float32) / built.source.fps, 2), pa.float32())
    pq.write_table(table.set_column(at, table.schema.field(at), times), path)


def shown(root: Path) -> list[tuple[int, int]]:
    """(episode, frame) stamped into each sample's picture."""
    dataset = open_dataset(str(root))
    pictures = (dataset[i][TOP].numpy().transpose(1, 2, 0) for i in range(len(dataset)))
    return [read_stamp(np.ascontiguousarray(picture)) for picture in pictures]


@pytest.mark.parametrize("kind", SHOWN)
@pytest.mark.parametrize("how", [COPY, REENCODE], ids=["copy", "reencode"])
def test_every_row_shows_the_frame_of_its_own_time(
    built: Built, tmp_path: Path, run: Run, kind: str, how: dict[str, Any]
) -> None:
    put_times(built, SHOWN[kind])
    expected = [(episode, frame) for episode in (0, 1) for frame in SHOWN[kind]]
    run(built.root, tmp_path / "shards", **how)
    assert shown(tmp_path / "shards") == expected
    report = verify(VerifyConfig(url=str(tmp_path / "shards"), against=str(built.root)))
    assert report.ok, report.as_json()


@pytest.mark.parametrize("kind", SHOWN)
def test_they_do_so_after_a_round_trip(built: Built, tmp_path: Path, run: Run, kind: str) -> None:
    put_times(built, SHOWN[kind])
    run(built.root, tmp_path / "shards")
    export(ExportConfig(source=str(tmp_path / "shards"), destination=str(tmp_path / "exported")))
    run(tmp_path / "exported", tmp_path / "again")
    assert shown(tmp_path / "again") == [(e, frame) for e in (0, 1) for frame in SHOWN[kind]]

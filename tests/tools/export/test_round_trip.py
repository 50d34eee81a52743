"""LeRobot -> shards -> LeRobot: rows, packets, tasks, statistics are equal, and so is what a loader
makes of both.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.lerobot_source import EVERY_KIND, FURTHER_CASES, HARD_CASES, Camera, Source, build

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import make_loader
from roboshard.shards import ShardedDataset
from roboshard.tools.export import ExportConfig, ExportReport, export

TOP, WRIST = "observation.images.top", "observation.images.wrist"
QUICK = {
    "many_at_once": Source(
        lengths=(6, 9, 5),
        cameras=(
            Camera(key=TOP, bframes=2, edit_list=True, episodes_per_file=2, file_numbers=(1, 4)),
            Camera(key=WRIST, codec="hevc", gop=8, bframes=3, open_gop=True, stream="continuous"),
        ),
        image_keys=("observation.images.side",),
        data_file_numbers=(1, 3),
        episodes_per_meta_file=2,
        extra_features=True,
        tasks=("pick", "place"),
    ),
    "every_kind": EVERY_KIND,
    "image_features": HARD_CASES["image_features"],
    "dropped_frames": FURTHER_CASES["dropped_frames"],
}
CASES = HARD_CASES | FURTHER_CASES | QUICK
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in CASES if name not in QUICK]
TOLERANCES = {"dropped_frames": 0.21}
PLACES = ("data/", "videos/", "meta/", "dataset_")
Json = dict[str, Any]


@dataclass(frozen=True)
class Trip:
    """A source, its shards, what was exported from them, and the shards of that."""

    source: Path
    shards: Path
    exported: Path
    again: Path
    report: ExportReport


def travel(source: Path, root: Path, tolerance_s: float = 1e-4) -> Trip:
    def to_shards(lerobot: Path, name: str) -> Path:
        options: Json = {"shard_size": "64KB", "workers": 1, "tolerance_s": tolerance_s}
        convert(ConvertConfig(source=str(lerobot), destination=str(root / name), **options))
        return root / name

    shards = to_shards(source, "shards")
    report = export(ExportConfig(source=str(shards), destination=str(root / "exported")))
    return Trip(source, shards, root / "exported", to_shards(root / "exported", "again"), report)


@pytest.fixture(scope="module", params=["pusht_sim", *QUICK, *SLOW])
def trip(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pusht_source: Path
) -> Iterator[Trip]:
    root = tmp_path_factory.mktemp("trip")
    source = pusht_source
    if request.param in CASES:
        source = build(root / "source", CASES[request.param]).root
    yield travel(source, root, TOLERANCES.get(request.param, 1e-4))
    shutil.rmtree(root)


@dataclass(frozen=True)
class Lerobot:
    """A LeRobot dataset on disk, read without roboshard."""

    root: Path

    @cached_property
    def info(self) -> Json:
        return read_json(self.root / "meta/info.json")

    @cached_property
    def episodes(self) -> list[Json]:
        paths = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]

    def rows_file(self, episode: Json) -> Path:
        place = {name: episode[f"data/{name}"] for name in ("chunk_index", "file_index")}
        return self.root / str(self.info["data_path"]).format(**place)

    def rows(self, episode: Json) -> pa.Table:
        table = pq.ParquetFile(self.rows_file(episode)).read()
        start = table.column("episode_index").to_pylist().index(episode["episode_index"])
        return table.slice(start, episode["length"])

    def video(self, episode: Json, key: str) -> Path:
        place = {name: episode[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
        return self.root / str(self.info["video_path"]).format(video_key=key, **place)

    @property
    def cameras(self) -> list[str]:
        return [key for key, spec in self.info["features"].items() if spec["dtype"] == "video"]


def read_json(path: Path) -> Json:
    value: Json = json.loads(path.read_text(encoding="utf-8"))
    return value


def payloads(file: Any) -> list[tuple[float, bool, bytes]]:
    """(seconds, keyframe, payload) of the packets in decode order."""
    with av.open(file) as container:
        found = [packet for packet in container.demux(video=0) if packet.size]
        return [
            (float(p.pts * p.time_base), p.is_keyframe, bytes(p))
            for p in found
            if p.pts is not None
        ]


def test_rows_are_equal_with_their_types_and_metadata(trip: Trip) -> None:
    source, exported = Lerobot(trip.source), Lerobot(trip.exported)
    assert len(exported.episodes) == len(source.episodes)
    # Each file of the source has metadata of its own (a fingerprint), and one that is exported has
    # those of its first episode; which episodes are in one depends on the bytes that pyarrow makes.
    metadata: dict[Path, Any] = {}
    for before, after in zip(source.episodes, exported.episodes, strict=True):
        expected, found = source.rows(before), exported.rows(after)
        first = metadata.setdefault(exported.rows_file(after), expected.schema.metadata)
        assert found.schema.equals(expected.schema.with_metadata(first), check_metadata=True)
        assert repr(found.to_pylist()) == repr(expected.to_pylist())
        assert {name: value for name, value in after.items() if not name.startswith(PLACES)} == {
            name: value for name, value in before.items() if not name.startswith(PLACES)
        }


def test_info_tasks_and_statistics_are_equal(trip: Trip) -> None:
    assert Lerobot(trip.exported).info == Lerobot(trip.source).info
    assert read_json(trip.exported / "meta/stats.json") == read_json(
        trip.source / "meta/stats.json"
    )
    before, after = (
        pq.read_table(root / "meta/tasks.parquet") for root in (trip.source, trip.exported)
    )
    assert after.to_pylist() == before.to_pylist()
    assert json.loads(after.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_packets_are_those_of_the_shards_episode_by_episode(trip: Trip) -> None:
    shards, exported = ShardedDataset.open(str(trip.shards)), Lerobot(trip.exported)
    taken: dict[Path, int] = {}
    for position, episode in enumerate(exported.episodes):
        data = shards.read_episode(position)
        for camera in data.record.cameras:
            path = exported.video(episode, camera.key)
            start = taken.get(path, 0)
            packets = payloads(path.as_posix())[start : start + camera.num_frames]
            expected = payloads(av_file(data.videos[camera.key]))
            assert [p[1:] for p in packets] == [p[1:] for p in expected]
            rows = np.concatenate(
                [np.arange(first, first + count) for _, first, count in camera.rows]
            )
            steps = [np.diff(np.sort([p[0] for p in side])[rows]) for side in (packets, expected)]
            assert np.allclose(*steps, atol=1e-6)
            taken[path] = start + camera.num_frames
    for path, count in taken.items():
        assert len(payloads(path.as_posix())) == count


def av_file(data: memoryview) -> Any:
    return pa.BufferReader(pa.py_buffer(data))


def test_a_loader_makes_the_same_samples_of_both(trip: Trip) -> None:
    before, after = (samples(root) for root in (trip.shards, trip.again))
    count = 0
    for expected, found in zip(before, after, strict=True):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert found[key].dtype == value.dtype
                assert torch.equal(found[key], value), key
            else:
                assert found[key] == value
        count += len(expected["index"])
    assert count == trip.report.frames == Lerobot(trip.source).info["total_frames"]


def samples(shards: Path) -> Iterator[Json]:
    loader = make_loader(str(shards), batch_size=16, shuffle=False, drop_last=False)
    yield from loader
    loader.close()


def test_rows_find_their_frames_by_time_as_lerobot_looks_for_them(trip: Trip) -> None:
    exported = Lerobot(trip.exported)
    for episode in exported.episodes:
        timestamps = exported.rows(episode).column("timestamp").to_numpy().astype(np.float64)
        for key in exported.cameras:
            times = np.sort([p[0] for p in payloads(exported.video(episode, key).as_posix())])
            wanted = timestamps + episode[f"videos/{key}/from_timestamp"]
            nearest = np.abs(times[None] - wanted[:, None]).argmin(axis=1)
            own = np.abs(times[nearest] - wanted) <= 1e-4
            assert own.mean() >= 0.8  # of some a few rows have no frame of their own
            period = np.diff(times).mean() if len(times) > 1 else 1.0
            by_number = np.round((wanted - times[0]) / period).astype(int)
            assert np.array_equal(by_number[own], nearest[own])
            assert episode[f"videos/{key}/to_timestamp"] >= times[nearest[-1]]

"""What an export can be told, where it writes, what it refuses, and what is left when it fails."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support.lerobot_source import Camera, Source, build, read_stamp
from support.lerobot_v21_source import write_v21
from support.servers import LocalHub, RangeServer, S3Server

from roboshard.cli.main import dispatch
from roboshard.common.jsonio import Json
from roboshard.converter import ConvertConfig, ReencodeConfig, convert
from roboshard.shards import OptionError, ShardedDataset, SourceError
from roboshard.tools.export import ExportConfig, ExportReport, export, run
from roboshard.tools.export.layout import Limits
from roboshard.tools.export.statistics import Statistics
from roboshard.tools.export.timing import evenly_spaced, period_of, span_of, start_of
from roboshard.tools.export.video import is_hevc_idr

pytest_plugins = ["support.servers.fixtures"]

KEY, TOP = "observation.image", "observation.images.top"


def go(source: Path | str, destination: Path, **options: Any) -> ExportReport:
    return export(ExportConfig(source=str(source), destination=str(destination), **options))


def tree(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read_json(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


def episodes_of(root: Path) -> list[dict[str, Any]]:
    paths = sorted((root / "meta/episodes").glob("*/*.parquet"))
    return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


# -- Which episodes --------------------------------------------------------------------------------


def test_fewer_episodes_are_numbered_anew(
    pusht_source: Path, pusht_shards: Path, tmp_path: Path
) -> None:
    report = go(pusht_shards, tmp_path / "out", episodes="2,5:7")
    assert (report.episodes, report.renumbered) == (3, True)
    before = {row["episode_index"]: row for row in episodes_of(pusht_source)}
    chosen, after = [before[i] for i in (2, 5, 6)], episodes_of(tmp_path / "out")
    lengths = [row["length"] for row in chosen]
    assert [row["episode_index"] for row in after] == [0, 1, 2]
    assert [row["length"] for row in after] == lengths
    assert [row["dataset_from_index"] for row in after] == [0, lengths[0], lengths[0] + lengths[1]]
    assert [row["stats/index/min"] for row in after] == [
        [row["dataset_from_index"]] for row in after
    ]
    assert [row["stats/action/mean"] for row in after] == [
        row["stats/action/mean"] for row in chosen
    ]
    info = read_json(tmp_path / "out/meta/info.json")
    assert (info["total_episodes"], info["total_frames"]) == (3, sum(lengths))
    assert info["splits"] == {"train": "0:3"}

    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    assert table.column("index").to_pylist() == list(range(sum(lengths)))
    assert table.column("episode_index").to_pylist() == np.repeat([0, 1, 2], lengths).tolist()
    stats = read_json(tmp_path / "out/meta/stats.json")
    actions = np.array(table.column("action").to_pylist())
    for name in ("mean", "std", "min", "max"):
        assert np.allclose(stats["action"][name], getattr(actions, name)(axis=0), rtol=1e-5)
    for name, level in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        assert np.allclose(stats["action"][name], np.quantile(actions, level, axis=0), rtol=1e-6)
    image = stats["observation.image"]
    assert np.all(
        np.diff([image[f"q{level}"] for level in ("01", "10", "50", "90", "99")], axis=0) >= 0
    )
    assert stats["action"]["count"] == [sum(lengths)]
    assert stats["index"]["max"] == [sum(lengths) - 1]
    convert(
        ConvertConfig(source=str(tmp_path / "out"), destination=str(tmp_path / "again"), workers=1)
    )


def test_statistics_of_all_episodes_are_those_of_the_rows_and_about_the_datasets_own(
    pusht_source: Path,
) -> None:
    expected = read_json(pusht_source / "meta/stats.json")
    features = read_json(pusht_source / "meta/info.json")["features"]
    rows = pq.read_table(pusht_source / "data")
    together = Statistics(features, rows.num_rows)
    for row in episodes_of(pusht_source):
        own = rows.filter(pc.equal(rows["episode_index"], row["episode_index"]))
        together.add(row, own)
    found = together.result()
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key].keys() == values.keys()
        for name in ("mean", "std", "min", "max", "count"):
            assert np.allclose(found[key][name], values[name], rtol=1e-6), (key, name)
        if features[key]["dtype"] != "video":
            numbers = np.asarray(rows[key].to_pylist(), dtype=np.float64)
            for name, level in (
                ("q01", 0.01),
                ("q10", 0.1),
                ("q50", 0.5),
                ("q90", 0.9),
                ("q99", 0.99),
            ):
                exact = np.quantile(numbers, level, axis=0)
                assert np.allclose(found[key][name], exact, rtol=1e-6), (key, name)


def test_a_source_of_an_older_version_becomes_a_v3_dataset(tmp_path: Path) -> None:
    built = build(tmp_path / "v3", Source(lengths=(6, 4), cameras=(Camera(key=TOP, bframes=2),)))
    write_v21(built.root, tmp_path / "v21")
    convert(
        ConvertConfig(source=str(tmp_path / "v21"), destination=str(tmp_path / "shards"), workers=1)
    )
    report = go(tmp_path / "shards", tmp_path / "out")
    assert (report.episodes, report.frames, report.renumbered, report.video_files) == (
        2,
        10,
        False,
        1,
    )
    expected, info = (
        read_json(built.root / "meta/info.json"),
        read_json(tmp_path / "out/meta/info.json"),
    )
    assert {name: info[name] for name in expected if name != "chunks_size"} == {
        name: value for name, value in expected.items() if name != "chunks_size"
    }
    assert "total_chunks" not in info
    for before, after in zip(episodes_of(built.root), episodes_of(tmp_path / "out"), strict=True):
        assert after["stats/action/mean"] == before["stats/action/mean"]
        assert after["tasks"] == before["tasks"]
    before, after = (read_json(root / "meta/stats.json") for root in (built.root, tmp_path / "out"))
    assert after.keys() == before.keys()
    assert after["action"].keys() == before["action"].keys()  # version 2.1 has no quantiles
    assert np.allclose(after["action"]["q99"], before["action"]["q99"], rtol=1e-6)
    assert (
        after["action"]["mean"]
        == ShardedDataset.open(str(tmp_path / "shards")).manifest.stats["action"]["mean"]
    )
    convert(
        ConvertConfig(source=str(tmp_path / "out"), destination=str(tmp_path / "again"), workers=1)
    )


# -- Files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "size"), [("libsvtav1", (48, 72)), ("libx265", (64, 96))])
def test_video_that_was_encoded_again_is_described_as_it_is_now(
    tmp_path: Path, codec: Any, size: tuple[int, int]
) -> None:
    camera = Camera(key=TOP, gop=30, bframes=2, stream="continuous")
    source = build(tmp_path / "source", Source(lengths=(6, 9, 5), cameras=(camera,))).root
    options = ReencodeConfig(codec=codec, gop=2, size=size)
    convert(
        ConvertConfig(
            source=str(source),
            destination=str(tmp_path / "shards"),
            workers=1,
            video="reencode",
            reencode=options,
        )
    )
    report = go(tmp_path / "shards", tmp_path / "out")
    assert report.video_files == 1
    feature = read_json(tmp_path / "out/meta/info.json")["features"][TOP]
    (path,) = (tmp_path / "out/videos").rglob("*.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert feature["shape"] == [context.height, context.width, 3] == [*size, 3]
        assert (feature["info"]["video.height"], feature["info"]["video.width"]) == size
        assert feature["info"]["video.codec"] == context.codec.canonical_name
        assert feature["info"]["video.pix_fmt"] == context.pix_fmt
        assert [
            read_stamp(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
        ] == [(episode, row) for episode, length in enumerate((6, 9, 5)) for row in range(length)]
    again = ConvertConfig(
        source=str(tmp_path / "out"), destination=str(tmp_path / "again"), workers=1
    )
    convert(again)
    before, after = (ShardedDataset.open(str(tmp_path / name)) for name in ("shards", "again"))
    for position in range(3):
        cameras = [each.read_episode(position).record.cameras[0] for each in (before, after)]
        assert cameras[0].model_dump(exclude={"pts"}) == cameras[1].model_dump(exclude={"pts"})


def test_files_are_closed_when_full_and_the_same_bytes_come_again(
    pusht_shards: Path, tmp_path: Path
) -> None:
    first = go(pusht_shards, tmp_path / "first")
    assert go(pusht_shards, tmp_path / "second").video_files == first.video_files
    assert tree(tmp_path / "first") == tree(tmp_path / "second")
    info = read_json(tmp_path / "first/meta/info.json")
    for path in (tmp_path / "first/videos").rglob("*.mp4"):
        assert path.stat().st_size <= info["video_files_size_in_mb"] * 2**20
    assert first.video_files == len(list((tmp_path / "first/videos").rglob("*.mp4"))) > 1


def test_folders_of_files_are_closed_when_full() -> None:
    limits = Limits.of(
        {"chunks_size": 2, "video_files_size_in_mb": 0.5, "data_files_size_in_mb": "many"}
    )
    assert [(limits.place(n).chunk, limits.place(n).file) for n in range(4)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert (limits.video_bytes, limits.data_bytes) == (2**19, 100 * 2**20)


def test_a_folder_that_holds_something_is_left_alone(pusht_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OptionError, match="is not empty"):
        go(pusht_shards, tmp_path)
    with pytest.raises(OptionError, match="is no folder"):
        go(pusht_shards, tmp_path / "mine")
    with pytest.raises(OptionError, match="local folder"):
        ExportConfig(source=str(pusht_shards), destination="s3://bucket/folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]
    with pytest.raises(OptionError, match="episode 14 was chosen"):
        go(pusht_shards, tmp_path / "out", episodes="14")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def killed_in_the_midst(shards: Path, destination: Path) -> None:
    def die(done: int, total: int) -> None:
        if done == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    export(ExportConfig(source=str(shards), destination=str(destination)), die)


def test_a_killed_run_leaves_nothing_at_the_destination_and_the_next_one_completes_it(
    pusht_shards: Path, tmp_path: Path
) -> None:
    process = multiprocessing.get_context("forkserver").Process(
        target=killed_in_the_midst, args=(pusht_shards, tmp_path / "out")
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    go(pusht_shards, tmp_path / "out")
    go(pusht_shards, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "whole"}


def test_an_error_leaves_nothing(pusht_shards: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(pusht_shards, tmp_path / "shards")
    shard = sorted((damaged / "shards").glob("*.tar"))[-1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(OSError, match="episode"):
        go(damaged, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [damaged]


def test_from_other_places_it_is_the_same(
    pusht_shards: Path,
    tmp_path: Path,
    range_server: RangeServer,
    this_hub: LocalHub,
    s3_server: S3Server,
) -> None:
    go(pusht_shards, tmp_path / "here")
    range_server.serve(pusht_shards)
    range_server.fault("truncate", r"\.tar$", after_bytes=1000)
    this_hub.add_bucket_folder("me/exported", pusht_shards, "v1")
    urls = {
        "http": range_server.url,
        "hub": "hf://buckets/me/exported/v1",
        "s3": s3_server.add_folder(pusht_shards, "exported/v1"),
    }
    for name, url in urls.items():
        go(url, tmp_path / name)
        assert tree(tmp_path / name) == tree(tmp_path / "here"), name


def test_what_cannot_be_put_back_is_an_error_with_episode_and_camera(
    pusht_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = run.timestamps_of
    monkeypatch.setattr(run, "timestamps_of", lambda table: read(table)[::-1] * 3)
    with pytest.raises(
        SourceError, match=rf"episode 0, camera '{KEY}': row \d+ shows frame \d+, to which another"
    ):
        go(pusht_shards, tmp_path / "out")


def test_the_command(
    pusht_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["export", str(pusht_shards), str(tmp_path / "out"), "--episodes", "0:2"]) == 0
    assert "2 episodes, numbered anew from 0, " in capsys.readouterr().out
    assert dispatch(["export", str(pusht_shards), str(tmp_path / "out")]) == 2
    assert "is not empty" in capsys.readouterr().err


# -- Arithmetic ------------------------------------------------------------------------------------


def test_an_episode_begins_where_its_first_row_shows_its_frame() -> None:
    times, timestamps = np.arange(10) / 10 + 3, np.arange(4) / 10
    span = span_of(times, np.arange(5, 9), timestamps, 10)
    assert (round(span.from_s, 9), round(span.to_s, 9)) == (3.5, 3.9)


def test_rows_without_a_frame_of_their_own_do_not_move_the_others() -> None:
    start, distance = start_of(
        np.arange(5) / 10, np.array([0, 1, 2, 3, 4, 4, 4]), np.arange(7) / 10, 10
    )
    assert (round(start, 9), round(distance, 9)) == (0, 0.2)


def test_frames_that_no_row_shows_follow_evenly() -> None:
    shown = np.array([0, 900, 1000, 1100, 1200, 1900])
    assert evenly_spaced(shown, 1, 4, 100.0).tolist() == [800, 900, 1000, 1100, 1200, 1300]
    assert period_of(np.array([0, 33, 67, 100]), float(Fraction(1000, 30))) == pytest.approx(
        100 / 3
    )
    assert period_of(np.array([0, 50, 100]), 100.0) == 50


def test_only_an_idr_picture_of_hevc_begins_anew() -> None:
    configuration = b"\1" + bytes(20) + b"\3" + bytes(5)
    for kind, begins in ((19, True), (20, True), (21, False), (1, False)):
        packet = b"\0\0\0\2" + bytes([39 << 1, 1]) + b"\0\0\0\3" + bytes([kind << 1, 1, 0])
        assert is_hevc_idr(memoryview(packet), configuration) is begins
    assert not is_hevc_idr(memoryview(b"\0\0"), configuration)
    assert not is_hevc_idr(memoryview(bytes(9)), b"")

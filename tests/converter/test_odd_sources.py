"""What is odd in a LeRobot v3 source is read as LeRobot reads it, and listed."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.broken_source import BrokenSource, drop, put, put_at, take, twice
from support.lerobot_source import Built, Camera, Source, build
from support.row_reading import check_samples, read_samples

from roboshard.converter import ConversionReport
from roboshard.loader import open_dataset
from roboshard.shards import MissingError, ShardedDataset, SourceError
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.verify import VerifyConfig, verify

TOP = "observation.images.top"
TO = f"videos/{TOP}/to_timestamp"
LENGTHS = (6, 5, 7, 4, 6)
Run = Callable[..., ConversionReport]
Break = Callable[[BrokenSource], object]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Five episodes; episodes 0 and 1, 2 and 3, and 4 share a data file; 0 to 2, 3 and 4 a video
    file.
    """
    source = Source(lengths=LENGTHS, cameras=(Camera(key=TOP),), tasks=("pick", "place"))
    return build(tmp_path_factory.mktemp("odd") / "robot", source)


@pytest.fixture
def source(built: Built, tmp_path: Path) -> BrokenSource:
    return BrokenSource.copy_of(built.root, tmp_path / "robot")


def codes(report: ConversionReport) -> set[str]:
    return {group.code for group in report.findings}


def change_info(**values: Any) -> Break:
    return lambda source: source.set_info(**values)


def drop_info(name: str) -> Break:
    def change(source: BrokenSource) -> None:
        info = json.loads(source.info.read_text(encoding="utf-8"))
        del info[name]
        source.info.write_text(json.dumps(info), encoding="utf-8")

    return change


def change_episodes(change: Any) -> Break:
    return lambda source: source.change(source.episodes(), change)


def change_rows(change: Any, number: int = 0) -> Break:
    return lambda source: source.change(source.rows(number), change)


def change_tasks(change: Any) -> Break:
    return lambda source: source.change(source.root / "meta/tasks.parquet", change)


def undeclare(name: str) -> Break:
    def change(source: BrokenSource) -> None:
        info = json.loads(source.info.read_text(encoding="utf-8"))
        del info["features"][name]
        source.info.write_text(json.dumps(info), encoding="utf-8")
        for number in range(3):
            source.change(source.rows(number), drop(name))

    return change


def append(name: str, values: pa.Array) -> Any:
    return lambda table: table.append_column(name, values)


def move_row(source: BrokenSource) -> None:
    """The last row of episode 1 lies in the file of episode 4."""
    first, last = pq.read_table(source.rows(0)), pq.read_table(source.rows(2))
    pq.write_table(first.slice(0, 10), source.rows(0))
    pq.write_table(pa.concat_tables([first.slice(10), last]), source.rows(2))


def swap_files(source: BrokenSource) -> None:
    """Rows of the last file come first."""
    a, b = source.rows(0).read_bytes(), source.rows(2).read_bytes()
    source.rows(0).write_bytes(b)
    source.rows(2).write_bytes(a)


def add_empty_file(source: BrokenSource) -> None:
    """A data file without a row, as a writer that was opened and closed leaves it."""
    pq.write_table(
        pq.read_table(source.rows(0)).slice(0, 0), source.rows(0).with_name("file-009.parquet")
    )


def several(*damages: Break) -> Break:
    def damage(source: BrokenSource) -> None:
        for each in damages:
            each(source)

    return damage


READ: dict[str, tuple[Break, set[str]]] = {
    "data path": (change_info(data_path=None), {"info-field-missing"}),
    "episode total": (change_info(total_episodes=9), {"totals-differ"}),
    "frame total": (change_info(total_frames=27), {"totals-differ"}),
    "no totals": (several(drop_info("total_frames"), drop_info("total_episodes")), {"totals-differ"}),
    "no length": (change_episodes(drop("length")), {"metadata-missing"}),
    "two lengths": (change_episodes(twice("length")), {"metadata-missing"}),
    "text length": (change_episodes(put("length", "six")), {"metadata-missing"}),
    "float length": (change_episodes(put("length", [float(n) for n in LENGTHS])), set()),
    "zero length": (change_episodes(put_at("length", 2, 0)), {"metadata-missing"}),
    "other lengths": (change_episodes(put("length", [5, 6, 7, 4, 6])), {"length-differs"}),
    "no places": (
        change_episodes(lambda t: t.drop_columns(["data/chunk_index", "data/file_index", "dataset_from_index"])),
        {"metadata-missing"},
    ),
    "text tasks": (change_episodes(put("tasks", list("abcde"))), {"metadata-missing", "tasks-differ"}),
    "no tasks": (change_episodes(drop("tasks")), {"metadata-missing"}),
    "stale file": (change_episodes(put("data/file_index", [0, 0, 0, 1, 1])), {"rows-in-another-file"}),
    "file ahead": (change_episodes(put("data/file_index", [1, 1, 1, 1, 2])), {"rows-in-another-file"}),
    "no such file": (change_episodes(put("data/file_index", [0, 0, 1, 1, 70])), {"rows-in-another-file"}),
    "no end of video": (change_episodes(drop(TO)), {"metadata-missing"}),
    "null end of video": (change_episodes(put_at(TO, 2, None)), {"metadata-missing"}),
    "no number as end": (change_episodes(put_at(TO, 2, float("nan"))), set()),
    "early end of video": (change_episodes(put_at(TO, 2, 1.2)), {"to-timestamp-differs"}),
    "listed twice": (change_episodes(take(0, 1, 1, 2, 3, 4)), {"episode-listed-twice"}),
    "stats": (lambda s: (s.root / "meta/stats.json").write_text("[]"), {"stats-ignored"}),
    "cut stats": (lambda s: (s.root / "meta/stats.json").write_text('{"a'), {"stats-ignored"}),
    "no frame_index": (change_rows(drop("frame_index")), {"feature-not-stored"}),
    "undeclared frame_index": (undeclare("frame_index"), {"columns-missing"}),
    "undeclared index": (undeclare("index"), {"columns-missing"}),
    "undeclared task_index": (undeclare("task_index"), {"columns-missing"}),
    "a row too few": (change_rows(take(*range(5), *range(6, 11))), {"length-differs"}),
    "rows apart": (
        change_rows(take(0, 1, 6, 2, 3, 4, 5, 7, 8, 9, 10)),
        {"rows-not-adjacent"},
    ),
    "a file without rows": (
        several(add_empty_file, change_episodes(put("data/file_index", [0, 0, 0, 1, 1]))),
        {"rows-in-another-file"},
    ),
    "rows in two files": (move_row, {"rows-in-several-files"}),
    "files swapped": (swap_files, {"rows-in-another-file"}),
    "rows swapped": (
        change_rows(take(0, 2, 1, *range(3, 11))),
        {"frame-index-differs", "index-differs", "timestamps-odd"},
    ),
    "index elsewhere": (change_rows(put("index", list(range(40, 51)))), {"from-index-differs"}),
    "starts fall": (
        change_episodes(put("dataset_from_index", [0, 6, 18, 11, 22])),
        {"rows-out-of-order", "from-index-differs"},
    ),
    "another index": (change_rows(put_at("index", 3, 30)), {"index-differs"}),
    "index as lists": (change_rows(put("frame_index", [[i] for i in [*range(6), *range(5)]])), set()),
    "floats": (change_rows(put("task_index", np.array([0.0, 1.0] * 5 + [0.0]))), {"tasks-differ"}),
    "time stands still": (change_rows(put_at("timestamp", 3, 0.2)), {"timestamps-odd"}),
    "negative task": (change_rows(put_at("task_index", 2, -1)), {"task-index-negative"}),
    "task null": (change_tasks(put("task", ["pick", None])), {"task-null"}),
    "tasks twice": (change_tasks(put("task", ["pick", "pick"])), {"tasks-differ"}),
    "task numbers": (change_tasks(put("task_index", [1, 0])), {"task-numbers-differ"}),
    "tasks without numbers": (change_tasks(drop("task_index")), set()),
    "tasks' further columns": (
        change_tasks(append("when", pa.array([1, 2], pa.timestamp("ns")))),
        {"tasks-columns"},
    ),
    "no file of tasks": (lambda s: (s.root / "meta/tasks.parquet").unlink(), {"tasks-missing"}),
    "date": (change_episodes(append("d", pa.array([0] * 5, pa.date32()))), {"metadata-as-text"}),
    "nanoseconds": (change_episodes(append("d", pa.array([1] * 5, pa.timestamp("ns")))), {"metadata-as-text"}),
    "duration": (
        change_episodes(append("d", pa.array([datetime.timedelta(seconds=1)] * 5))),
        {"metadata-as-text"},
    ),
    "bytes": (change_episodes(append("d", pa.array([b"\xff"] * 5))), {"metadata-as-text"}),
    "decimal": (change_episodes(append("d", pa.array([decimal.Decimal("1.5")] * 5))), {"metadata-as-text"}),
    "map": (change_episodes(append("d", pa.array([[("a", 1)]] * 5, pa.map_(pa.string(), pa.int64())))), set()),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_it_is_read_as_its_rows_say_and_listed(
    built: Built, source: BrokenSource, tmp_path: Path, run: Run, case: str
) -> None:
    damage, expected = READ[case]
    damage(source)
    report = run(source.root, tmp_path / "shards")
    assert codes(report) >= expected
    if not expected:
        assert not codes(report) - {"metadata-missing"}
    if (
        case != "no frame_index"
    ):  # a value for what is declared and not stored is the loader's affair
        dataset = open_dataset(str(tmp_path / "shards"))
        rows = read_samples(source.root)
        check_samples(dataset, rows)
        check_pictures(dataset, built)
    assert verify(VerifyConfig(url=str(tmp_path / "shards"), against=str(source.root))).ok


def check_pictures(dataset: Any, built: Built) -> None:
    """Every row shows the frame at its time."""
    for sample in (dataset[i] for i in range(len(dataset))):
        frame = round(float(sample["timestamp"]) * built.source.fps)
        shown = np.moveaxis(sample[TOP].numpy(), 0, -1).astype(np.int64)
        wanted = built.frames(TOP, int(sample["episode_index"]))[frame]
        assert np.abs(shown - wanted).max() <= 2


@pytest.mark.parametrize(
    "case", ["stale file", "no such file", "rows in two files", "another index"]
)
def test_run_again_it_lists_the_same(
    source: BrokenSource, tmp_path: Path, run: Run, case: str
) -> None:
    """Shards of an earlier run bring their findings with them."""
    READ[case][0](source)
    first = run(source.root, tmp_path / "shards")
    assert first.findings
    (tmp_path / "shards/shards/shard-000000.tar").unlink(missing_ok=True)
    again = run(source.root, tmp_path / "shards", workers=2)
    assert again.findings == first.findings
    assert run(source.root, tmp_path / "shards").findings == first.findings


def test_a_feature_of_an_unknown_kind_is_named(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    features = json.loads(source.info.read_text(encoding="utf-8"))["features"]
    source.set_info(features=features | {"when": {"dtype": "timestamp[s]", "shape": [1]}})
    report = run(source.root, tmp_path / "shards")
    (group,) = (group for group in report.findings if group.code == "dtype-unknown")
    assert "'when'" in group.first[0].where


def test_a_healthy_source_has_no_findings(source: BrokenSource, tmp_path: Path, run: Run) -> None:
    report = run(source.root, tmp_path / "shards")
    assert report.findings == ()
    assert b"findings" not in (tmp_path / "shards/shards/shard-000000.json").read_bytes()
    assert b"null_tasks" not in (tmp_path / "shards/dataset.json").read_bytes()


@pytest.mark.parametrize("case", ["episode total", "task null", "tasks' further columns", "date", "map", "bytes",
                                  "rows in two files", "undeclared index", "another index"])  # fmt: skip
def test_it_comes_back_from_an_export(
    source: BrokenSource, tmp_path: Path, run: Run, case: str
) -> None:
    READ[case][0](source)
    run(source.root, tmp_path / "shards")
    export(ExportConfig(source=str(tmp_path / "shards"), destination=str(tmp_path / "back")))
    run(tmp_path / "back", tmp_path / "again")
    check_samples(open_dataset(str(tmp_path / "again")), read_samples(source.root))
    if case == "tasks' further columns":
        tasks = pq.read_table(tmp_path / "back/meta/tasks.parquet")
        assert tasks["when"].to_pylist() == [f"1970-01-01 00:00:00.00000000{i}" for i in (1, 2)]
    if case == "date":
        episodes = pq.read_table(next((tmp_path / "back/meta/episodes").rglob("*.parquet")))
        assert episodes["d"].to_pylist() == ["1970-01-01"] * 5


def test_a_total_that_is_too_small_hides_no_row(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    source.set_info(total_episodes=4, total_frames=20)
    report = run(source.root, tmp_path / "shards")
    assert (report.episodes, report.frames) == (5, sum(LENGTHS))
    assert ShardedDataset.open(str(tmp_path / "shards")).manifest.counted == {
        "total_episodes": 5,
        "total_frames": sum(LENGTHS),
    }


def test_an_episode_that_is_only_in_the_metadata_is_left_out_and_listed(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    source.change(source.episodes(), put_at("length", 4, 0))
    source.rows(2).unlink()
    report = run(source.root, tmp_path / "shards")
    assert codes(report) >= {"episode-without-rows", "totals-differ"}
    check_samples(open_dataset(str(tmp_path / "shards")), read_samples(source.root))


def test_rows_of_an_episode_that_is_not_listed_need_no_metadata_but_for_video(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    source.change(source.episodes(), take(0, 1, 2, 4))
    report = run(source.root, tmp_path / "shards")
    assert codes(report) >= {"episode-not-listed-left-out"}
    check_samples(open_dataset(str(tmp_path / "shards")), read_samples(source.root, without=(3,)))
    build(tmp_path / "plain", Source(lengths=(4, 5, 3), cameras=(), state_dim=4))
    plain = BrokenSource(tmp_path / "plain")
    plain.change(plain.episodes(), take(0, 2))
    report = run(plain.root, tmp_path / "others")
    assert codes(report) >= {"episode-not-listed"}
    check_samples(open_dataset(str(tmp_path / "others")), read_samples(plain.root))


@pytest.mark.parametrize(
    "times", [[0.0] * 12, list(np.arange(12.0)[::-1]), [1.7e9] * 12, [float("nan")] * 12]
)
def test_without_video_no_timestamp_matters(tmp_path: Path, run: Run, times: list[float]) -> None:
    build(
        tmp_path / "plain",
        Source(lengths=(4, 8), cameras=(), state_dim=4, episodes_per_data_file=2),
    )
    plain = BrokenSource(tmp_path / "plain")
    plain.change(plain.rows(), put("timestamp", np.array(times, np.float32)))
    report = run(plain.root, tmp_path / "shards")
    assert codes(report) == {"timestamps-odd"}
    check_samples(open_dataset(str(tmp_path / "shards")), read_samples(plain.root))


def test_a_data_file_that_is_missing_is_not_an_episode_less(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    """Half a download must not become a dataset."""
    source.rows(1).unlink()
    with pytest.raises(MissingError, match=r"file-001.parquet: missing, .* episode 2, 3"):
        run(source.root, tmp_path / "shards")


@pytest.mark.parametrize(
    "name",
    ["meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet",
     "data/chunk-000/file-001.parquet", f"videos/{TOP}/chunk-000/file-000.mp4"],
)  # fmt: skip
def test_pointers_of_git_lfs_are_named_as_such(
    source: BrokenSource, tmp_path: Path, run: Run, name: str
) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (source.root / name).write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=rf"{name}: a pointer of git-lfs.*`git lfs pull`"):
        run(source.root, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_shards_as_a_source_are_named_as_such(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    run(source.root, tmp_path / "shards")
    with pytest.raises(SourceError, match=r"these are shards already: load them with make_loader"):
        run(tmp_path / "shards", tmp_path / "others")


@pytest.mark.parametrize("key", ["observation/images/top", "a\\b", "..", "é/ü"])
def test_a_camera_key_that_cannot_name_a_file_is_kept(tmp_path: Path, run: Run, key: str) -> None:
    cameras = (Camera(key=key), Camera(key=key.replace("/", "_").replace("\\", "_")))[
        : 2 - (key == "..")
    ]
    if key == "..":
        pytest.skip("names a folder outside: refused, see test_errors")
    built = build(tmp_path / "robot", Source(lengths=(4, 3), cameras=cameras))
    run(built.root, tmp_path / "shards")
    dataset = open_dataset(str(tmp_path / "shards"))
    for i in range(len(dataset)):
        for camera in cameras:
            shown = np.moveaxis(dataset[i][camera.key].numpy(), 0, -1).astype(np.int64)
            wanted = built.frames(camera.key, int(i >= 4))[i - 4 * (i >= 4)]
            assert np.abs(shown - wanted).max() <= 2
    export(ExportConfig(source=str(tmp_path / "shards"), destination=str(tmp_path / "back")))
    run(tmp_path / "back", tmp_path / "again")

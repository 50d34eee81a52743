"""What is odd in a LeRobot v2.1 source is read as LeRobot reads it, and listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.broken_source import BrokenSource, drop, put, put_at, take
from support.lerobot_source import Source, build
from support.lerobot_v21_source import read_lines, write_lines, write_v21
from support.row_reading import check_samples, read_samples

from roboshard.converter import ConversionReport
from roboshard.loader import open_dataset
from roboshard.shards import ShardedDataset, SourceError
from roboshard.tools.verify import VerifyConfig, verify

Run = Callable[..., ConversionReport]
Break = Callable[[BrokenSource], object]


@pytest.fixture(scope="module")
def v21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of rows alone; of three tasks."""
    root = tmp_path_factory.mktemp("odd21")
    source = Source(lengths=(4, 5, 6), cameras=(), tasks=("pick", "place", "push"), state_dim=4)
    return write_v21(build(root / "v3", source).root, root / "v21")


@pytest.fixture
def source(v21: Path, tmp_path: Path) -> BrokenSource:
    return BrokenSource.copy_of(v21, tmp_path / "robot")


def lines(name: str, change: Callable[[list[Any]], object]) -> Break:
    def damage(source: BrokenSource) -> None:
        path = source.root / f"meta/{name}.jsonl"
        values = read_lines(path)
        change(values)
        write_lines(path, values)

    return damage


def each(**values: Any) -> Callable[[list[Any]], object]:
    return lambda entries: [entry.update(values) for entry in entries]


def stat(name: str, value: Any) -> Break:
    return lines("episodes_stats", lambda ls: ls[1]["stats"]["action"].update({name: value}))


def rows(change: Any, number: int = 1) -> Break:
    return lambda source: source.change(source.rows(number), change)


def rows_in_the_next_file(source: BrokenSource) -> None:
    first, second = (pq.read_table(source.rows(number)) for number in (0, 1))
    pq.write_table(pa.concat_tables([second, first.slice(2)]), source.rows(1))
    pq.write_table(first.slice(0, 2), source.rows(0))


def without_chunks_size(source: BrokenSource) -> None:
    text = source.info.read_text(encoding="utf-8").replace('"chunks_size"', '"chunks"')
    source.info.write_text(text, encoding="utf-8")


READ: dict[str, tuple[Break, set[str]]] = {
    "totals": (lambda s: s.set_info(total_episodes=9, total_frames=1), {"totals-differ"}),
    "chunks_size": (without_chunks_size, {"info-field-missing"}),
    "no length": (lines("episodes", lambda ls: ls[2].pop("length")), {"metadata-missing"}),
    "zero length": (lines("episodes", each(length=0)), {"metadata-missing"}),
    "huge length": (lines("episodes", each(length=10**30)), {"metadata-missing"}),
    "float length": (lines("episodes", each(length=7.0)), {"metadata-missing", "length-differs"}),
    "one task": (lines("episodes", each(tasks="pick")), {"metadata-missing", "tasks-differ"}),
    "no task text": (lines("episodes", each(tasks=[1])), {"metadata-missing"}),
    "no tasks": (lines("episodes", lambda ls: ls[0].pop("tasks")), {"metadata-missing"}),
    "listed twice": (lines("episodes", lambda ls: ls.append(ls[0])), {"episode-listed-twice"}),
    "stats twice": (lines("episodes_stats", lambda ls: ls.append(ls[0])), {"episode-listed-twice"}),
    "stats of fewer": (lines("episodes_stats", lambda ls: ls.pop(0)), {"stats-missing"}),
    "stats as text": (lines("episodes_stats", lambda ls: ls[1].update(stats="?")), {"stats-ignored"}),
    "texts in stats": (stat("mean", ["1"] * 4), {"stats-ignored"}),
    "no std": (stat("std", None), {"stats-ignored"}),
    "ragged": (stat("max", [[1], 2]), {"stats-ignored"}),
    "two shapes": (stat("max", [1.0]), {"stats-ignored"}),
    "no count": (stat("count", [0]), {"stats-ignored"}),
    "task twice": (
        lines("tasks", lambda ls: ls.append({"task_index": 0, "task": "lift"})),
        {"task-listed-twice", "tasks-differ"},
    ),
    "task null": (lines("tasks", lambda ls: ls[0].update(task=None)), {"task-null"}),
    "further fields": (lines("tasks", each(author="me")), {"tasks-columns"}),
    "no file of tasks": (lambda s: (s.root / "meta/tasks.jsonl").unlink(), {"tasks-missing"}),
    "a row too few": (rows(take(0, 1, 2, 3)), {"length-differs"}),
    "local index": (rows(put("index", list(range(5)))), {"index-differs"}),
    "other index": (rows(put("index", list(range(50, 55)))), {"from-index-differs"}),
    "odd index": (rows(put_at("index", 2, 99)), {"index-differs"}),
    "no index": (rows(drop("index")), {"feature-not-stored"}),
    "rows next door": (rows_in_the_next_file, {"rows-in-several-files"}),
    "timestamps": (rows(put("timestamp", pa.array([0.0] * 5, pa.float32()))), {"timestamps-odd"}),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_it_is_read_as_lerobot_reads_it_and_listed(
    source: BrokenSource, tmp_path: Path, run: Run, case: str
) -> None:
    damage, expected = READ[case]
    damage(source)
    report = run(source.root, tmp_path / "shards")
    assert {group.code for group in report.findings} >= expected
    if case != "no index":  # what is declared and not stored is None, and in no file
        check_samples(open_dataset(str(tmp_path / "shards")), read_samples(source.root))
    assert verify(VerifyConfig(url=str(tmp_path / "shards"), against=str(source.root))).ok


def test_a_task_that_is_no_text_becomes_one(source: BrokenSource, tmp_path: Path, run: Run) -> None:
    lines("tasks", lambda ls: ls[0].update(task=5))(source)
    report = run(source.root, tmp_path / "shards")
    assert {group.code for group in report.findings} == {"task-not-text", "tasks-differ"}
    assert "5" in ShardedDataset.open(str(tmp_path / "shards")).manifest.tasks


def test_a_gap_in_tasks_moves_no_other_task(source: BrokenSource, tmp_path: Path, run: Run) -> None:
    """LeRobot v2.1 looks tasks up by task_index; a row of the gap it cannot read either."""
    kept = [
        line for line in read_lines(source.root / "meta/tasks.jsonl") if line["task_index"] != 1
    ]
    write_lines(source.root / "meta/tasks.jsonl", kept)
    with pytest.raises(SourceError, match=r"task_index 1 is outside meta/tasks.jsonl"):
        run(source.root, tmp_path / "shards")
    for number in range(3):
        count = pq.read_metadata(source.rows(number)).num_rows
        source.change(source.rows(number), put("task_index", [2] * count))
    run(source.root, tmp_path / "others")
    dataset = open_dataset(str(tmp_path / "others"))
    assert {dataset[i]["task"] for i in range(len(dataset))} == {"push"}


def test_statistics_are_of_the_lines_that_count(
    source: BrokenSource, tmp_path: Path, run: Run
) -> None:
    """Of two lines of an episode the last one, once."""
    run(source.root, tmp_path / "shards")
    before = ShardedDataset.open(str(tmp_path / "shards")).manifest.stats
    odd = read_lines(source.root / "meta/episodes_stats.jsonl")[0]
    odd = odd | {"stats": {"action": odd["stats"]["action"] | {"max": [99.0] * 4}}}
    lines("episodes_stats", lambda ls: ls.insert(0, odd))(source)
    run(source.root, tmp_path / "again")
    assert ShardedDataset.open(str(tmp_path / "again")).manifest.stats == before

"""Whatever is odd together: every sample is as the files say, read by pyarrow and decoded by PyAV
in order.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.broken_source import BrokenSource
from support.lerobot_source import Built, Camera, Source, build
from support.lerobot_v21_source import read_lines, write_lines, write_v21
from support.null_lists import keeps_null_lists
from support.row_reading import check_samples, read_samples

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import open_dataset
from roboshard.tools.export import ExportConfig, export
from roboshard.tools.verify import VerifyConfig, verify

TOP = "top"
LENGTHS = (4, 3, 6, 2, 5)
Change = Callable[[BrokenSource, np.random.Generator], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Datasets to be made odd, with video and without."""
    root = tmp_path_factory.mktemp("random")
    tasks = ("pick", "place", "push")
    return {
        name: build(
            root / name,
            Source(
                lengths=LENGTHS, cameras=cameras, tasks=tasks, state_dim=4, episodes_per_data_file=2
            ),
        )
        for name, cameras in (("video", (Camera(key=TOP),)), ("rows", ()))
    }


def in_episodes(change: Callable[[pa.Table, np.random.Generator], pa.Table]) -> Change:
    """A change of meta/episodes; v2.1 has no such file."""

    def damage(source: BrokenSource, random: np.random.Generator) -> None:
        if (source.root / "meta/episodes").is_dir():
            source.change(source.episodes(), lambda table: change(table, random))

    return damage


def in_rows(change: Callable[[pa.Table, np.random.Generator], pa.Table]) -> Change:
    """A change of one of the data files."""

    def damage(source: BrokenSource, random: np.random.Generator) -> None:
        paths = sorted((source.root / "data").rglob("*.parquet"))
        source.change(paths[random.integers(len(paths))], lambda table: change(table, random))

    return damage


def put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return (
        table.set_column(table.column_names.index(name), name, values)
        if name in table.column_names
        else table
    )


def stale_files(table: pa.Table, random: np.random.Generator) -> pa.Table:
    return put(table, "data/file_index", pa.array(random.integers(0, 4, table.num_rows)))


def other_lengths(table: pa.Table, random: np.random.Generator) -> pa.Table:
    return put(table, "length", pa.array(random.integers(0, 8, table.num_rows)))


def other_starts(table: pa.Table, random: np.random.Generator) -> pa.Table:
    return put(table, "dataset_from_index", pa.array(random.integers(0, 99, table.num_rows)))


def without_hint(table: pa.Table, random: np.random.Generator) -> pa.Table:
    names = ["length", "tasks", "data/file_index", "data/chunk_index", "dataset_from_index"]
    kept = [name for name in names if name in table.column_names]
    return table.drop_columns([kept[random.integers(len(kept))]]) if kept else table


def numbers_from(name: str) -> Callable[[pa.Table, np.random.Generator], pa.Table]:
    """The column begins elsewhere, or counts from 0 in each file."""

    def change(table: pa.Table, random: np.random.Generator) -> pa.Table:
        first = int(random.integers(-3, 50))
        return put(table, name, pa.array(np.arange(first, first + table.num_rows)))

    return change


def null_actions(table: pa.Table, random: np.random.Generator) -> pa.Table:
    mask = pa.array(random.random(table.num_rows) < 0.3)
    at = table.schema.get_field_index("action")
    values = [
        None if lacks else value
        for lacks, value in zip(mask.to_pylist(), table["action"].to_pylist(), strict=True)
    ]
    return table.set_column(
        at, table.schema.field(at), pa.array(values, table.schema.field(at).type)
    )


def as_floats(table: pa.Table, _: np.random.Generator) -> pa.Table:
    return put(table, "task_index", pc.cast(table["task_index"], pa.float64()))


def as_small(table: pa.Table, _: np.random.Generator) -> pa.Table:
    return put(table, "episode_index", pc.cast(table["episode_index"], pa.int16()))


def other_times(source: BrokenSource, random: np.random.Generator) -> None:
    """Any times, where no video needs them."""
    if not (source.root / "videos").exists():
        kinds = [np.zeros, lambda n: 1.7e9 + np.arange(n), lambda n: -np.arange(n), random.random]
        kind: Any = kinds[random.integers(len(kinds))]
        in_rows(
            lambda table, _: put(
                table, "timestamp", pa.array(np.asarray(kind(table.num_rows), np.float32))
            )
        )(source, random)


def other_totals(source: BrokenSource, random: np.random.Generator) -> None:
    source.set_info(total_episodes=int(random.integers(9)), total_frames=int(random.integers(40)))


def rows_elsewhere(source: BrokenSource, random: np.random.Generator) -> None:
    """Rows from the end of a file go to the end of another one."""
    paths = sorted((source.root / "data").rglob("*.parquet"))
    a, b = random.permutation(len(paths))[:2]
    giver, taker = pq.read_table(paths[a]), pq.read_table(paths[b])
    if giver.num_rows < 3 or giver.schema != taker.schema:
        return
    kept = giver.num_rows - int(random.integers(1, 3))
    pq.write_table(pa.concat_tables([taker, giver.slice(kept)]), paths[b])
    pq.write_table(giver.slice(0, kept), paths[a])


def fewer_stats(source: BrokenSource, random: np.random.Generator) -> None:
    lines = source.root / "meta/episodes_stats.jsonl"
    if lines.exists():
        write_lines(lines, read_lines(lines)[int(random.integers(1, 4)) :])
    else:
        (source.root / "meta/stats.json").write_text("nothing", encoding="utf-8")


def loose_lines(source: BrokenSource, random: np.random.Generator) -> None:
    path = source.root / "meta/episodes.jsonl"
    if path.exists():
        lines = read_lines(path)
        for line in lines:
            line["length"] = [float(line["length"]), "many", None][random.integers(3)]
            line["tasks"] = [line["tasks"][0], line["tasks"], None][random.integers(3)]
        write_lines(path, lines)


def null_task(source: BrokenSource, random: np.random.Generator) -> None:
    path = source.root / "meta/tasks.parquet"
    if path.exists():
        source.change(path, lambda table: put(table, "task", pa.array(["pick", None, "push"])))


CHANGES: dict[str, Change] = {
    "stale files": in_episodes(stale_files),
    "other lengths": in_episodes(other_lengths),
    "other starts": in_episodes(other_starts),
    "without a hint": in_episodes(without_hint),
    "frame_index": in_rows(numbers_from("frame_index")),
    "index": in_rows(numbers_from("index")),
    **({"nulls": in_rows(null_actions)} if keeps_null_lists() else {}),
    "floats": in_rows(as_floats),
    "small": in_rows(as_small),
    "times": other_times,
    "totals": other_totals,
    "elsewhere": rows_elsewhere,
    "stats": fewer_stats,
    "loose": loose_lines,
    "null task": null_task,
}


@given(
    kind=st.sampled_from(["video", "rows"]),
    version=st.sampled_from(["v3.0", "v2.1"]),
    names=st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 2**32 - 1),
)
@settings(
    max_examples=max(10, settings().max_examples // 4),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_odd_in_any_combination(
    sound: dict[str, Built], kind: str, version: str, names: list[str], seed: int
) -> None:
    built = sound[kind]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "robot")
        if version == "v3.0":
            shutil.copytree(built.root, root)
        else:
            write_v21(built.root, root)
        random = np.random.default_rng(seed)
        for name in names:
            CHANGES[name](BrokenSource(root), random)
        shards = convert_to(root, Path(folder, "shards"))
        rows = read_samples(root)
        check(shards, rows, built)
        report = verify(VerifyConfig(url=shards, against=str(root)))
        assert report.ok, report.as_json()
        export(ExportConfig(source=shards, destination=f"{folder}/back"))
        check(convert_to(Path(folder, "back"), Path(folder, "again")), rows, built)


def convert_to(source: Path, destination: Path) -> str:
    convert(
        ConvertConfig(
            source=str(source), destination=str(destination), shard_size="64KB", workers=1
        )
    )
    return str(destination)


def check(shards: str, rows: list[dict[str, Any]], built: Built) -> None:
    dataset = open_dataset(shards)
    check_samples(dataset, rows)
    for i in range(len(dataset)) if built.source.cameras else ():
        sample = dataset[i]
        frame = round(float(sample["timestamp"]) * built.source.fps)
        shown = np.moveaxis(sample[TOP].numpy(), 0, -1).astype(np.int64)
        assert np.abs(shown - built.frames(TOP, int(sample["episode_index"]))[frame]).max() <= 2


def test_the_changes_are_made(sound: dict[str, Built], tmp_path: Path) -> None:
    """Each does something to at least one of the datasets."""
    for name, change in CHANGES.items():
        changed = False
        for kind, built in sound.items():
            for version in ("v3.0", "v2.1"):
                root = tmp_path / f"{name}-{kind}-{version}"
                if version == "v3.0":
                    shutil.copytree(built.root, root)
                else:
                    write_v21(built.root, root)
                before = {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
                change(BrokenSource(root), np.random.default_rng(1))
                changed |= any(path.read_bytes() != data for path, data in before.items())
                json.loads((root / "meta/info.json").read_text(encoding="utf-8"))
        assert changed, name

"""What is odd in an episode's rows, and which tasks they name."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roboshard.common.errors import SourceError
from roboshard.converter.episode.rows import EpisodeRows
from roboshard.converter.source.api import Episode, SourceMeta, TaskTable
from roboshard.converter.source.findings import finding
from roboshard.shards.documents import Finding
from roboshard.shards.features import SCALAR_DTYPES
from roboshard.shards.missing import missing_values
from roboshard.shards.scalars import is_number_type, scalars, value_problem

BOOKKEEPING = ("timestamp", "frame_index", "index", "task_index")
"""Columns that LeRobot writes beside those of the robot; `episode_index` too, without which there
is no episode.
"""


def check_columns(rows: EpisodeRows, *, need_timestamp: bool) -> None:
    """Refuse rows whose own columns cannot be told.

    Raises:
        SourceError: two columns of one name, one that holds no numbers, or no usable timestamps for
            video.
    """
    names = rows.table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(
            f"{rows.where}: several columns of the name {twice[0]!r}; leave one of them"
        )
    for name in BOOKKEEPING:
        if name in names and not is_number_type(kind := rows.table.schema.field(name).type):
            raise SourceError(
                f"{rows.where}: column {name!r} holds {kind}, not numbers; write it as numbers"
            )
        if name in names and scalars(rows.table.column(name).drop_null()) is None:
            raise SourceError(
                f"{rows.where}: column {name!r} does not hold one number a row; write it as numbers"
            )
    if not need_timestamp:
        return
    if "timestamp" not in names:
        raise SourceError(
            f"{rows.where}: no column 'timestamp', which says where a row's frame is in its video; "
            "write it: seconds since the episode's start"
        )
    times = timestamps_of(rows.table)
    wrong = np.flatnonzero(~np.isfinite(times))
    if wrong.size:
        raise SourceError(
            f"{rows.where}: row {wrong[0]} has timestamp {times[wrong[0]]}, which says no frame of "
            "its video; write it anew: seconds since the episode's start"
        )


def timestamps_of(table: pa.Table) -> NDArray[np.float32]:
    """(rows,) float32 timestamps in seconds since the episode's start."""
    return np.asarray(_numbers(table, "timestamp"), dtype=np.float32)


def tasks_of(
    rows: EpisodeRows, episode: Episode, tasks: TaskTable
) -> tuple[tuple[str, ...], list[Finding]]:
    """(the episode's tasks, what is odd in them): as its metadata says, or as its rows do where
    that is not so.

    Raises:
        SourceError: a row names a task that there is not.
    """
    stated = episode.tasks
    indices = _numbers(rows.table, "task_index")
    if indices is None or not tasks.texts:
        return stated or (), []
    present = indices[np.isfinite(indices)]
    numbers, first = np.unique(present, return_index=True)
    _check_task_numbers(numbers, rows.where, tasks)
    used = [tasks.texts[int(number)] or "" for number in numbers[np.argsort(first)]]
    texts = tuple(dict.fromkeys(used))
    findings = []
    if numbers.size and numbers[0] < 0:
        findings.append(
            finding("task-index-negative", rows.place, f"its rows have task_index {numbers[0]}")
        )
    if stated is None:
        return texts, findings
    if missing := [text for text in texts if text not in stated]:
        what = f"its rows name the task {missing[0]!r}, its metadata {list(stated)}"
        return texts, [*findings, finding("tasks-differ", rows.place, what)]
    return stated, findings


def _check_task_numbers(numbers: NDArray[Any], where: str, tasks: TaskTable) -> None:
    count = len(tasks.texts)
    least = -count if tasks.wraps else 0
    for number in numbers.tolist():
        if not least <= number < count or int(number) != number or int(number) in tasks.gaps:
            raise SourceError(
                f"{where}: task_index {number} is outside {tasks.path}, which has "
                f"{count - len(tasks.gaps)} tasks; add its text there, or correct the rows"
            )


def examine(rows: EpisodeRows, episode: Episode, source: SourceMeta) -> list[Finding]:
    """What is odd in the rows and is kept as it is.

    Raises:
        SourceError: values that no loader can give the type of their feature.
    """
    _check_values(rows, source)
    return [*_of_columns(rows, source), *_of_numbers(rows, episode), *_of_values(rows, source)]


def _check_values(rows: EpisodeRows, source: SourceMeta) -> None:
    for key, spec in source.features.items():
        dtype = str(spec.get("dtype"))
        if key not in rows.table.column_names or dtype not in (*SCALAR_DTYPES, "string"):
            continue
        if problem := value_problem(rows.table.column(key), dtype):
            raise SourceError(
                f"{rows.where}: feature {key!r}: {problem}; correct its dtype in meta/info.json, "
                "or its rows"
            )


def _of_columns(rows: EpisodeRows, source: SourceMeta) -> Iterator[Finding]:
    names = set(rows.table.column_names)
    for name in BOOKKEEPING:
        if name not in names and name not in source.features:
            yield finding("columns-missing", rows.place, f"no column {name!r}")
    for key, spec in source.features.items():
        if spec.get("dtype") != "video" and key not in names:
            yield finding("feature-not-stored", rows.place, f"feature {key!r} has no column")


def _of_numbers(rows: EpisodeRows, episode: Episode) -> Iterator[Finding]:
    table, count = rows.table, rows.table.num_rows
    for name, first, code in (
        ("frame_index", 0, "frame-index-differs"),
        ("index", episode.first_row, "index-differs"),
    ):
        values = _numbers(table, name)
        if values is None:
            continue
        begin = values[0] if first is None else first
        wrong = np.flatnonzero(values != np.arange(count) + begin)
        if not wrong.size:
            continue
        if name == "index" and values[0] and np.array_equal(values, np.arange(count) + values[0]):
            what = f"its rows' index begins at {values[0]} where the metadata says {begin}"
            yield finding("from-index-differs", rows.place, what)
            continue
        row = int(wrong[0])
        what = f"row {row} has {name} {values[row]} where {begin + row} is expected"
        yield finding(code, rows.place, what)
    times = _numbers(table, "timestamp")
    if times is None:
        return
    wrong = np.flatnonzero(~(np.diff(times.astype(np.float32)) > 0))
    if wrong.size:
        row = int(wrong[0]) + 1
        what = f"row {row} has timestamp {times[row]} after {times[row - 1]}"
        yield finding("timestamps-odd", rows.place, what)


def _of_values(rows: EpisodeRows, source: SourceMeta) -> Iterator[Finding]:
    for key, lacking in missing_values(rows.table, source.features).items():
        if key in rows.table.column_names:
            what = f"feature {key!r}: {lacking} of {rows.table.num_rows} rows have no value"
            yield finding("null-values", rows.place, what)


def _numbers(table: pa.Table, name: str) -> NDArray[Any] | None:
    return scalars(table.column(name)) if name in table.column_names else None

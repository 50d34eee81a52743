"""The rows of an episode against its record and against what the dataset says of itself."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roboshard.common import jsonio
from roboshard.common.errors import RoboshardError
from roboshard.shards.documents import MAX_FRAMES
from roboshard.shards.rows import decode_rows, read_episode_row, read_provenance
from roboshard.shards.scalars import scalars
from roboshard.shards.schema import EpisodeRecord, Provenance
from roboshard.tools.verify.problems import CONVERT_AGAIN, Place

_EXCUSES = {
    "episode_index": None,
    "frame_index": "frame-index-differs",
    "index": "index-differs",
    "timestamp": "timestamps-odd",
}
"""Columns of the rows, and the finding of a record that excuses odd values in each."""
_ABSENT = {"columns-missing", "feature-not-stored"}
"""Findings that excuse a column's absence."""


_CORRECTED = {"length": "length-differs", "tasks": "tasks-differ"}
"""Fields of meta/episodes, and the finding that says that the rows say otherwise."""


def provenance_fields(document: Provenance) -> dict[str, bytes]:
    """Return the part of dataset.json that shards repeat, field by field, comparable."""
    value = document.model_dump(mode="json")
    return {name: jsonio.canonical(value.get(name)) for name in Provenance.model_fields}


def check_rows(
    record: EpisodeRecord, data: memoryview, num_tasks: int, place: Place
) -> pa.Table | None:
    """Check an episode's rows and return them; None where they cannot be read."""
    try:
        table = decode_rows(data, "rows", record.length)
    except RoboshardError as error:
        place.report_error(error, CONVERT_AGAIN)
        return None
    told = {finding.code for finding in record.findings}
    arange = np.arange(record.length)
    for name, excuse in _EXCUSES.items():
        column = numbers(table, name)
        if column is None:
            if name == "episode_index" or not told & _ABSENT:
                place.report(f"no column {name!r} of numbers", CONVERT_AGAIN)
            continue
        expected = {
            "episode_index": np.full(record.length, record.episode_index),
            "frame_index": arange,
            "index": column[0] + arange,
        }
        wrong = (
            np.flatnonzero(column != expected[name])
            if name in expected
            else np.flatnonzero(~(np.diff(column) > 0)) + 1
        )
        if wrong.size and excuse not in told:
            what = (
                "rows are not in order, or not this episode's"
                if name != "timestamp"
                else "times do not ascend"
            )
            place.report(f"{name} of row {wrong[0]} is {column[wrong[0]]}: {what}", CONVERT_AGAIN)
    _check_task_numbers(numbers(table, "task_index"), num_tasks, told, place)
    return table


def _check_task_numbers(
    tasks: NDArray[np.float64] | None, num_tasks: int, told: set[str], place: Place
) -> None:
    if tasks is None or not num_tasks:
        return
    least = -num_tasks if "task-index-negative" in told else 0
    has_task = (tasks >= least) & (tasks < num_tasks)
    if "null-values" in told:
        has_task |= np.isnan(tasks)
    if not np.all(has_task):
        place.report(
            f"a task_index is outside the {num_tasks} tasks of dataset.json", CONVERT_AGAIN
        )


def numbers(table: pa.Table, name: str) -> NDArray[np.float64] | None:
    """Return a column of numbers (rows,) float64; None where there is none, or several of that
    name.
    """
    if table.column_names.count(name) != 1:
        return None
    return scalars(table.column(name))


def check_metadata(
    record: EpisodeRecord,
    data: memoryview,
    dataset: dict[str, bytes] | None,
    *,
    is_first: bool,
    place: Place,
) -> None:
    """Check the records that travel in the parquet file: the episode's row of the source, and the
    provenance.
    """
    try:
        row, carried = read_episode_row(data, "rows"), read_provenance(data, "rows")
    except RoboshardError as error:
        place.report_error(error, CONVERT_AGAIN)
        return
    stated = {"episode_index": record.episode_index, "length": record.length, "tasks": record.tasks}
    told = {finding.code for finding in record.findings}
    for name, value in stated.items():
        if _contradicts(row.get(name), value) and _CORRECTED.get(name) not in told:
            place.report(
                f"{name} is {row[name]} in the source's metadata, {value} in the record",
                CONVERT_AGAIN,
            )
    if not is_first:
        if carried is not None:
            place.report(
                "carries the provenance of the dataset, which only a shard's first sample does",
                CONVERT_AGAIN,
            )
        return
    if carried is None:
        place.report(
            "a shard's first sample must carry the provenance of the dataset; it has none",
            CONVERT_AGAIN,
        )
        return
    fields = {} if dataset is None else provenance_fields(carried)
    other = [name for name, value in fields.items() if dataset and dataset[name] != value]
    if other:
        place.report(*_of_another(other))


def _contradicts(stated: jsonio.Json, value: jsonio.Json) -> bool:
    """Return whether the source says something else; a text for a list of one, or nothing of use,
    does not.
    """
    if isinstance(value, list):
        stated = [stated] if isinstance(stated, str) else stated
        is_said = isinstance(stated, list) and all(isinstance(text, str | None) for text in stated)
        return is_said and [text or "" for text in stated] != value
    return isinstance(stated, int | float) and 0 < stated <= MAX_FRAMES and stated != value


def _of_another(fields: Sequence[str]) -> tuple[str, str]:
    what = f"{', '.join(fields)} of dataset.json differ from what the shard carries: "
    if "source" in fields or "conversion" in fields:
        return (
            what + "the shard is of another dataset or conversion",
            "put the shard of this dataset here",
        )
    return (
        what + "dataset.json was altered",
        "`roboshard rebuild` derives dataset.json from the shards",
    )

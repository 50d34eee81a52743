"""The rows of an episode against its record and against what the dataset says of itself."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roboshard.inspector.problems import CONVERT_AGAIN, Place
from roboshard.shards import jsonio
from roboshard.shards.errors import RoboshardError
from roboshard.shards.rows import decode_rows, read_episode_row, read_provenance
from roboshard.shards.schema import EpisodeRecord, Provenance


def provenance_fields(document: Provenance) -> dict[str, bytes]:
    """The part of dataset.json that shards repeat, field by field, comparable."""
    value = document.model_dump(mode="json")
    return {name: jsonio.canonical(value[name]) for name in Provenance.model_fields}


def check_rows(
    record: EpisodeRecord, data: memoryview, num_tasks: int, place: Place
) -> pa.Table | None:
    """The rows, or None where they cannot be read."""
    try:
        table = decode_rows(data, "rows", record.length)
    except RoboshardError as error:
        place.report_error(error, CONVERT_AGAIN)
        return None
    expected = {
        "episode_index": np.full(record.length, record.episode_index),
        "frame_index": np.arange(record.length),
        "index": None,
        "timestamp": None,
    }
    for name, values in expected.items():
        column = numbers(table, name)
        if column is None:
            place.report(f"no column {name!r} of numbers", CONVERT_AGAIN)
            continue
        wrong: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        if values is not None:
            wrong = np.flatnonzero(column != values)
        elif name == "index":
            wrong = np.flatnonzero(column != column[0] + np.arange(record.length))
        if wrong.size:
            place.report(
                f"{name} of row {wrong[0]} is {column[wrong[0]]}: rows are not in order, or not this episode's",
                CONVERT_AGAIN,
            )
    tasks = numbers(table, "task_index")
    if tasks is not None and not np.all((tasks >= 0) & (tasks < num_tasks)):
        place.report(
            f"a task_index is outside the {num_tasks} tasks of dataset.json", CONVERT_AGAIN
        )
    return table


def numbers(table: pa.Table, name: str) -> NDArray[np.float64] | None:
    """A column of numbers; None where there is none, or several of that name."""
    if table.column_names.count(name) != 1:
        return None
    column = table.column(name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    return np.asarray(column.to_numpy())


def check_metadata(
    record: EpisodeRecord,
    data: memoryview,
    dataset: dict[str, bytes],
    *,
    is_first: bool,
    place: Place,
) -> None:
    """The records that travel in the parquet file: the episode's row of the source, and the provenance."""
    try:
        row, carried = read_episode_row(data, "rows"), read_provenance(data, "rows")
    except RoboshardError as error:
        place.report_error(error, CONVERT_AGAIN)
        return
    stated = {"episode_index": record.episode_index, "length": record.length, "tasks": record.tasks}
    for name, value in stated.items():
        if name in row and row[name] != value:
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
    other = [name for name, value in provenance_fields(carried).items() if dataset[name] != value]
    if other:
        place.report(*_of_another(other))


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

"""The tasks of a dataset: tasks.parquet of v3, tasks.jsonl of v2."""

import json
from collections.abc import Callable, Sequence

import pyarrow as pa

from roboshard.common.errors import SourceError
from roboshard.common.jsonio import Json
from roboshard.converter.source.api import TaskTable
from roboshard.converter.source.files import SourceFiles
from roboshard.converter.source.findings import Report, finding
from roboshard.converter.source.json_lines import read_lines
from roboshard.converter.source.plain import plain_row, without_nanoseconds

PARQUET, LINES = "meta/tasks.parquet", "meta/tasks.jsonl"
MAX_TASKS = 10**6

ReadTable = Callable[[SourceFiles, str], pa.Table]


def read_task_table(files: SourceFiles, read: ReadTable, report: Report) -> TaskTable:
    """The tasks of v3: LeRobot looks them up by position, and takes the pandas index as their
    texts.

    Args:
        files: the source.
        read: reads a parquet file of the metadata.
        report: told what is odd.

    Raises:
        SourceError: no column can be told to hold the texts.
    """
    if PARQUET not in files.metadata():
        report(finding("tasks-missing", PARQUET, "there is no such file"))
        return TaskTable(path=PARQUET, texts=(), wraps=True)
    table, _ = without_nanoseconds(read(files, PARQUET))
    name = _text_column(table, files.where(PARQUET))
    values = table.column(name).to_pylist()
    texts = tuple(_text(value, f"{PARQUET}, row {i}", report) for i, value in enumerate(values))
    if "task_index" in table.column_names:
        numbers = table.column("task_index").to_pylist()
        wrong = next((i for i, number in enumerate(numbers) if number != i), None)
        if wrong is not None:
            what = f"row {wrong} has task_index {numbers[wrong]}"
            report(finding("task-numbers-differ", PARQUET, what))
    further = [other for other in table.column_names if other not in (name, "task_index")]
    if further:
        report(finding("tasks-columns", PARQUET, f"further columns: {', '.join(further)}"))
    columns = {
        other: plain_row({other: table.column(other).to_pylist()})[0][other] for other in further
    }
    return TaskTable(path=PARQUET, texts=texts, columns=columns, wraps=True)


def read_task_lines(files: SourceFiles, report: Report) -> TaskTable:
    """The tasks of v2, which LeRobot looks up by their task_index.

    Args:
        files: the source.
        report: told what is odd.

    Raises:
        FormatError, SourceError: naming the line.
    """
    if LINES not in files.metadata():
        report(finding("tasks-missing", LINES, "there is no such file"))
        return TaskTable(path=LINES, texts=())
    found: dict[int, str | None] = {}
    columns: dict[str, dict[int, Json]] = {}
    for line in read_lines(files, LINES):
        index, place = line.integer("task_index", 0, MAX_TASKS), f"{LINES}, line {line.number}"
        if index in found:
            report(finding("task-listed-twice", place, f"task_index {index} occurs twice"))
        found[index] = _text(line.value.get("task"), place, report)
        for name in line.value.keys() - {"task_index", "task"}:
            columns.setdefault(name, {})[index] = line.value[name]
    count = max(found, default=-1) + 1
    gaps = frozenset(range(count)) - found.keys()
    if columns:
        report(finding("tasks-columns", LINES, f"further fields: {', '.join(sorted(columns))}"))
    return TaskTable(
        path=LINES,
        texts=tuple(found.get(i) for i in range(count)),
        gaps=gaps,
        columns={name: [columns[name].get(i) for i in range(count)] for name in sorted(columns)},
    )


def _text_column(table: pa.Table, where: str) -> str:
    """The column of the texts: the pandas index, `task`, or the only one of texts."""
    names: list[str] = [name for name in table.column_names if name != "task_index"]
    for name in [*_index_columns(table), "task"]:
        if names.count(name) == 1:
            return name
    texts = [name for name in names if _is_text(table.schema, name)]
    if len(texts) == 1 or len(names) == 1:
        return (texts or names)[0]
    raise SourceError(
        f"{where}: expected task_index and a column `task` of texts, found {table.column_names}; "
        "name the texts `task`"
    )


def _index_columns(table: pa.Table) -> Sequence[str]:
    """Names of the pandas index's columns; none where it is but a count, or pandas did not write
    the file.
    """
    text = (table.schema.metadata or {}).get(b"pandas")
    try:
        columns = json.loads(text or b"{}").get("index_columns") or []
    except (ValueError, AttributeError):
        return ()
    names = [name for name in columns if isinstance(name, str)]
    return names if len(names) == 1 else ()


def _is_text(schema: pa.Schema, name: str) -> bool:
    at = schema.get_field_index(name)
    kind = schema.field(at).type if at >= 0 else pa.null()
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _text(value: object, place: str, report: Report) -> str | None:
    if value is None:
        report(finding("task-null", place, "it has no text"))
        return None
    if not isinstance(value, str):
        report(finding("task-not-text", place, f"its text is {value!r:.80}"))
        return str(value)
    return value

"""The files of meta/: info.json, stats.json, tasks.parquet and meta/episodes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from roboshard.common import jsonio
from roboshard.common.errors import FormatError, RoboshardError
from roboshard.shards.features import keys_of
from roboshard.shards.schema import MAX_RECORD_BYTES, Provenance
from roboshard.tools.export.layout import DATA_PATH, DEFAULTS, EPISODES_PATH, Limits
from roboshard.tools.export.rows import TableFiles

Row = dict[str, jsonio.Json]
BLOCK = 64
"""Rows of meta/episodes that are held at once; one has a hundred columns, many of them lists."""

_TYPES = {
    "episode_index": pa.int64(),
    "tasks": pa.list_(pa.string()),
    "length": pa.int64(),
    "data/chunk_index": pa.int64(),
    "data/file_index": pa.int64(),
    "dataset_from_index": pa.int64(),
    "dataset_to_index": pa.int64(),
    "meta/episodes/chunk_index": pa.int64(),
    "meta/episodes/file_index": pa.int64(),
}
_VIDEO_TYPES = {
    "chunk_index": pa.int64(),
    "file_index": pa.int64(),
    "from_timestamp": pa.float64(),
    "to_timestamp": pa.float64(),
}


@contextmanager
def as_format_errors(what: str) -> Iterator[None]:
    """Turn errors of a source's metadata, which may be anything, into FormatErrors that name it."""
    try:
        yield
    except RoboshardError:
        raise
    except (pa.ArrowException, ArithmeticError, LookupError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise FormatError(f"{what} cannot be used: {said}") from None


class EpisodeRows:
    """The rows of meta/episodes: kept in a file until the last is known, because only then their
    types are.
    """

    def __init__(self, root: Path, camera_keys: tuple[str, ...]) -> None:
        """Keep rows in a file below `root`, which `write` removes."""
        self._root = root
        self._path = root / "episodes.jsonl"
        self._file: IO[bytes] = self._path.open("wb")
        video = {
            f"videos/{key}/{name}": kind
            for key in camera_keys
            for name, kind in _VIDEO_TYPES.items()
        }
        self._types = _TYPES | video
        self._schema = pa.schema([])
        self._block: list[Row] = []

    def add(self, row: Row) -> None:
        """Take the next episode's row."""
        self._file.write(jsonio.dump(row))
        self._block.append(row)
        if len(self._block) == BLOCK:
            self._learn()

    def write(self, limits: Limits) -> None:
        """Write all rows as parquet files, and remove the file that they were kept in."""
        self._learn()
        self._file.close()
        schema, files = self._schema, TableFiles(self._root, EPISODES_PATH, limits)
        with self._path.open("rb") as kept:
            block: list[Row] = []
            for line in kept:
                block.append(jsonio.load(line, "meta/episodes", MAX_RECORD_BYTES))
                if len(block) == BLOCK:
                    _write_block(files, block, schema)
                    block = []
            if block:
                _write_block(files, block, schema)
        files.close()
        self._path.unlink()

    def close(self) -> None:
        """Close the file, after an error."""
        self._file.close()

    def _learn(self) -> None:
        names = dict.fromkeys(name for row in self._block for name in row)
        for name in names:
            values = _column([row.get(name) for row in self._block], self._types.get(name))
            self._schema = _with_field(self._schema, pa.field(name, values.type))
        self._block = []


def _with_field(schema: pa.Schema, field: pa.Field) -> pa.Schema:
    """Return the schema with a further column; one that has two types that do not agree becomes
    text.
    """
    try:
        return pa.unify_schemas([schema, pa.schema([field])], promote_options="permissive")
    except pa.ArrowException:
        at = schema.get_field_index(field.name)
        return schema.set(at, pa.field(field.name, pa.string()))


def _write_block(files: TableFiles, block: list[Row], schema: pa.Schema) -> None:
    columns = [
        pa.array(map(_as_text, values), pa.string())
        if pa.types.is_string(field.type)
        else pa.array(values, field.type)
        for field in schema
        for values in [[row.get(field.name) for row in block]]
    ]
    table = pa.Table.from_arrays(columns, schema=schema)
    place = files.place_for(table)
    for name, number in (("chunk_index", place.chunk), ("file_index", place.file)):
        at = schema.get_field_index(f"meta/episodes/{name}")
        table = table.set_column(at, schema.field(at), pa.array([number] * len(block), pa.int64()))
    files.write(table)


def info_of(
    provenance: Provenance, *, episodes: int, frames: int, is_whole: bool, video_path: str
) -> Row:
    """Return info.json: the source's, but for what is not true of the dataset that is written."""
    source, is_v3 = provenance.info, str(provenance.info.get("codebase_version")).startswith("v3.")
    info = {
        name: value
        for name, value in source.items()
        if name not in ("total_chunks", "total_videos")
    }
    info |= {
        "codebase_version": source["codebase_version"] if is_v3 else "v3.0",
        "fps": source.get("fps", provenance.fps),
        "features": provenance.features,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": source.get("total_tasks", len(provenance.tasks)),
        "data_path": DATA_PATH,
        "video_path": video_path if keys_of(provenance.features, "video") else None,
    }
    info |= {name: value for name, value in DEFAULTS.items() if name not in info}
    if not is_whole or "splits" not in info:
        info["splits"] = {"train": f"0:{episodes}"}
    return info


def write_json(path: Path, value: jsonio.Json) -> None:
    """Write JSON as LeRobot does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(indented(value))


def indented(value: jsonio.Json) -> bytes:
    """Return JSON as LeRobot writes it."""
    return json.dumps(value, indent=4, ensure_ascii=False).encode()


def write_tasks(
    file: Path | IO[bytes],
    tasks: Sequence[str | None],
    columns: Mapping[str, Sequence[jsonio.Json]],
) -> None:
    """Write tasks.parquet as pandas does: the text is the index, so that its position is the task's
    number.

    Args:
        file: the file, or its path.
        tasks: the texts; None where there is none.
        columns: what else is known of each task.
    """
    others = {name: _column(values, None) for name, values in columns.items()}
    text = {"pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [
            {"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            *(_pandas_column(name) for name in others),
            {"name": "task", "field_name": "task", **text, "metadata": None},
        ],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.3",
    }
    found = {
        "task_index": pa.array(range(len(tasks)), pa.int64()),
        **others,
        "task": pa.array(tasks, pa.string()),
    }
    fields = [pa.field(name, values.type) for name, values in found.items()]
    schema = pa.schema(fields, metadata={"pandas": json.dumps(pandas)})
    pq.write_table(pa.Table.from_arrays(list(found.values()), schema=schema), file)


def _pandas_column(name: str) -> Row:
    return {
        "name": name,
        "field_name": name,
        "pandas_type": "object",
        "numpy_type": "object",
        "metadata": None,
    }


def _column(values: Sequence[jsonio.Json], kind: pa.DataType | None) -> pa.Array:
    """Return values as an Arrow array, of JSON texts where they have no type in common."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return pa.array(map(_as_text, values), pa.string())


def _as_text(value: jsonio.Json) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)

"""The tabular member of a sample: `<key>.parquet`, one row per frame, every column of the source.

Two records travel in its key-value metadata, where parquet keeps such things: the episode's own row
of the source's meta/episodes (statistics included), and, in the first sample of each shard, the
provenance from which the manifests can be rebuilt.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from roboshard.common import jsonio
from roboshard.common.errors import FormatError
from roboshard.shards.parquet_limits import check_decoded
from roboshard.shards.schema import (
    MAX_MANIFEST_BYTES,
    MAX_RECORD_BYTES,
    Provenance,
    document_bytes,
    parse,
)

MAX_ROWS_BYTES = 4 << 30
EPISODE_METADATA = b"roboshard.episode"
PROVENANCE_METADATA = b"roboshard.provenance"
EXTENSION_NAME, EXTENSION_METADATA = b"ARROW:extension:name", b"ARROW:extension:metadata"
"""Keys of extension types in the metadata of a field, as Arrow's format names them."""


def unreadable(what: str, error: Exception) -> str:
    """Return what to say of a parquet file that pyarrow cannot read."""
    is_new = int(pa.__version__.split(".")[0]) >= _READS_NULL_LISTS
    remedy = "" if is_new or _NULL_LISTS not in str(error) else "; update pyarrow to 26 or newer"
    return f"{what}: unreadable parquet: {error}{remedy}"


_NULL_LISTS = "Expected all lists to be of size="
"""Part of what pyarrow before `_READS_NULL_LISTS` says of nulls among lists of a fixed length."""
_READS_NULL_LISTS = 26


def source_metadata(table: pa.Table) -> dict[bytes, bytes]:
    """Return the metadata of a table's schema without what shards add to it."""
    found = table.schema.metadata or {}
    return {k: v for k, v in found.items() if k not in (EPISODE_METADATA, PROVENANCE_METADATA)}


def encode_rows(
    table: pa.Table, episode: dict[str, jsonio.Json], provenance: Provenance | None
) -> bytes:
    """Return one parquet file of one row group; the same bytes for the same table, `as_stored`, and
    pyarrow version.
    """
    metadata = dict(table.schema.metadata or {})
    metadata[EPISODE_METADATA] = jsonio.dump(episode).rstrip()
    if provenance is not None:
        metadata[PROVENANCE_METADATA] = document_bytes(provenance).rstrip()
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata).combine_chunks(),
        sink,
        row_group_size=max(1, table.num_rows),
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    data = bytes(sink.getvalue())
    check_decoded(_open(data, "its rows"), data, "its rows")  # what is written can be read again
    return data


def decode_rows(
    data: bytes | memoryview, what: str, num_rows: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the table of the rows, or those of `columns` that it has.

    Raises:
        FormatError: not parquet, not `num_rows` rows, or larger when decoded than `parquet_limits`
            allows.
    """
    file = _open(data, what)
    metadata = file.metadata
    counted = sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if (
        not counted == metadata.num_rows == num_rows
    ):  # asked first: a row group of equal values holds billions
        raise FormatError(f"{what}: {counted} rows where the episode has {num_rows}")
    names = file.schema_arrow.names
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise FormatError(f"{what}: several columns of the name {', '.join(map(repr, twice))}")
    try:
        check_decoded(file, data, what)
        wanted = columns and [name for name in columns if name in names]
        table = as_stored(file.read(columns=wanted, use_threads=False))
    except FormatError:
        raise
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise FormatError(unreadable(what, error)) from None
    if table.num_rows != num_rows:
        raise FormatError(
            f"{what}: {table.num_rows} rows could be read where the episode has {num_rows}"
        )
    return table


def as_stored(table: pa.Table) -> pa.Table:
    """The table as a process sees it that knows no extension types, with metadata of columns in one
    order.

    Whether Arrow shows a column as an extension type depends on what else the process has imported:
    Hugging Face `datasets` registers its arrays of two and more dimensions.
    """
    if all(_is_as_stored(field) for field in table.schema):
        return table
    stored = [
        _as_stored(field, column) for field, column in zip(table.schema, table.columns, strict=True)
    ]
    schema = pa.schema([field for field, _ in stored], table.schema.metadata)
    return pa.Table.from_arrays([column for _, column in stored], schema=schema)


def _is_as_stored(field: pa.Field) -> bool:
    """Whether a field is the same to every process."""
    return field.metadata is None and not isinstance(field.type, pa.ExtensionType)


def _as_stored(field: pa.Field, column: pa.ChunkedArray) -> tuple[pa.Field, pa.ChunkedArray]:
    metadata = dict(field.metadata or {})
    if isinstance(field.type, pa.ExtensionType):  # those of Arrow itself are always known
        parameters = field.type.__arrow_ext_serialize__()
        metadata |= {
            EXTENSION_NAME: field.type.extension_name.encode(),
            EXTENSION_METADATA: parameters,
        }
        kind = _read_type(field.type.storage_type)
        column = pa.chunked_array([chunk.storage.cast(kind) for chunk in column.chunks], kind)
    return pa.field(
        field.name, column.type, field.nullable, dict(sorted(metadata.items())) or None
    ), column


def _read_type(kind: pa.DataType) -> pa.DataType:
    """A type with the names of list items that Arrow gives them when it reads parquet."""
    if not pa.types.is_list(kind):
        return kind
    return pa.list_(pa.field("element", _read_type(kind.value_type), kind.value_field.nullable))


def read_provenance(data: bytes | memoryview, what: str) -> Provenance | None:
    """The provenance that a shard's first sample carries, or None."""
    metadata = _open(data, what).schema_arrow.metadata or {}
    text = metadata.get(PROVENANCE_METADATA)
    return (
        None if text is None else parse(Provenance, text, f"{what} provenance", MAX_MANIFEST_BYTES)
    )


def read_episode_row(data: bytes | memoryview, what: str) -> dict[str, jsonio.Json]:
    """The source's meta/episodes row of this episode; empty when there is none."""
    metadata = _open(data, what).schema_arrow.metadata or {}
    text = metadata.get(EPISODE_METADATA)
    return {} if text is None else jsonio.load(text, f"{what} episode row", MAX_RECORD_BYTES)


def _open(data: bytes | memoryview, what: str) -> Any:
    try:
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FormatError(f"{what}: not a parquet file: {error}") from None
    metadata = file.metadata
    claimed = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if claimed > MAX_ROWS_BYTES:
        raise FormatError(
            f"{what}: {claimed} bytes of rows, more than the {MAX_ROWS_BYTES} that are read"
        )
    return file

"""The footer of a parquet file: where its column chunks lie and how they are coded.

PyArrow reads it as well, but ends the process where a forged one contradicts itself.
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

import struct
from dataclasses import dataclass

from roboshard.shards.thrift import LIST, STRUCT, CompactReader

_TAIL = struct.Struct("<I4s")
_MAGIC = b"PAR1"
_ROW_GROUPS, _COLUMNS, _META_DATA = 4, 1, 3
"""Field numbers in FileMetaData, RowGroup and ColumnChunk."""
_CODEC, _NUM_VALUES, _STORED, _DATA, _DICTIONARY = 4, 5, 7, 9, 11
"""Field numbers in ColumnMetaData."""


@dataclass(frozen=True, slots=True)
class ColumnChunk:
    """The values of one column in one row group."""

    codec: int
    """Number of the compression."""
    num_values: int
    start: int
    """Where its first page begins in the file, in bytes."""
    end: int


def read_column_chunks(data: memoryview) -> list[list[ColumnChunk]]:
    """Return the column chunks of each row group of a parquet file.

    Args:
        data: the whole file, as bytes.

    Raises:
        ValueError: there is no footer, it cannot be read, or a chunk leaves the file.
    """
    if len(data) < _TAIL.size:
        raise ValueError("no footer")
    length, magic = _TAIL.unpack_from(data, len(data) - _TAIL.size)
    end = len(data) - _TAIL.size
    if magic != _MAGIC or length > end:
        raise ValueError("no footer")
    reader = CompactReader(data, end - length, end)
    groups: list[list[ColumnChunk]] = []
    for number, kind in reader.fields():
        if (number, kind) == (_ROW_GROUPS, LIST):
            groups = [_row_group(reader, end) for _ in reader.items(STRUCT)]
        else:
            reader.skip(kind)
    return groups


def _row_group(reader: CompactReader, size: int) -> list[ColumnChunk]:
    chunks: list[ColumnChunk] = []
    for number, kind in reader.fields():
        if (number, kind) == (_COLUMNS, LIST):
            chunks = [_column_chunk(reader, size) for _ in reader.items(STRUCT)]
        else:
            reader.skip(kind)
    return chunks


def _column_chunk(reader: CompactReader, size: int) -> ColumnChunk:
    found: dict[int, int] = {}
    for number, kind in reader.fields():
        if (number, kind) == (_META_DATA, STRUCT):
            found = reader.numbers()
        else:
            reader.skip(kind)
    try:
        codec, num_values, stored, start = (
            found[number] for number in (_CODEC, _NUM_VALUES, _STORED, _DATA)
        )
    except KeyError:
        raise ValueError("a column without its place") from None
    if (dictionary := found.get(_DICTIONARY, 0)) > 0:
        start = min(start, dictionary)
    if num_values and not 0 < start <= start + stored <= size:
        raise ValueError("a column leaves the file")
    return ColumnChunk(codec, num_values, start, start + stored)

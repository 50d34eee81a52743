"""How large a parquet file becomes when it is read, told before it is read.

A few kilobytes of parquet can stand for gigabytes: pages that decompress to anything, dictionaries of
one long text that every row names, run lengths, prefixes that every value repeats. What the footer says
of sizes is a claim, and readers allocate what the pages say. So the headers of all pages are walked here,
and what they decode to is bounded from above; of dictionaries alone the content is looked at.
"""

import struct
from pathlib import Path
from typing import Any

import pyarrow as pa

from roboshard.shards.errors import FormatError, SourceError

DECODED_BASE = 256 << 20
"""Bytes that any parquet file of a dataset may decode to."""
DECODED_FACTOR = 16
"""And this many for each byte of the file."""
MAX_SOURCE_ROWS = 1 << 25
"""Rows of one file of a source: their episode_index is held at once."""
MAX_DICTIONARY_BYTES = 8 << 20
"""Dictionaries up to this size are looked into; writers keep to one MiB."""

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
_OFFSET_BYTES = 4
_LEVEL_BYTES = 4
"""Repetition and definition level of a value that may be null or lies in a list."""
_CODECS = {
    "LZ4": "lz4_raw",
    **{name.upper(): name for name in ("zstd", "snappy", "gzip", "brotli")},
}
_DICTIONARY = frozenset({2, 8})
_DELTA_BYTE_ARRAY = 7
_MAX_HEADER_FIELDS = 64
_MAX_VARINT_BYTES = 10


def decoded_limit(file_size: int) -> int:
    """Return the bytes that a parquet file of `file_size` bytes may decode to."""
    return DECODED_BASE + DECODED_FACTOR * file_size


def check_source(file: Any, path: Path, what: str) -> None:
    """Refuse a parquet file of a source of which a row group decodes to more than it may, or with too many rows.

    Args:
        file: a `pyarrow.parquet.ParquetFile` of `path`, of which only the footer has been read.
        path: the file; its row groups are read one at a time.
        what: the file, for messages.

    Raises:
        SourceError: it would be larger, has more than MAX_SOURCE_ROWS rows, or cannot be read.
    """
    metadata = file.metadata
    rows = sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if rows > MAX_SOURCE_ROWS:
        raise SourceError(
            f"{what}: {rows} rows, more than the {MAX_SOURCE_ROWS} that are read of one file"
        )
    try:
        with pa.memory_map(str(path)) as mapped:
            # Maps the file as long as anything refers to it. Arrow's buffers are of signed bytes.
            view = memoryview(mapped.read_buffer()).cast("B")
            for group in range(metadata.num_row_groups):
                _check_groups(file, view, what, range(group, group + 1))
    except FormatError as error:
        raise SourceError(str(error)) from None
    except (ValueError, pa.ArrowException) as error:
        raise SourceError(f"{what}: unreadable parquet: {error}") from None


def check_decoded(file: Any, data: bytes | memoryview, what: str) -> None:
    """Refuse a parquet file that decodes to more than it may.

    Args:
        file: a `pyarrow.parquet.ParquetFile`, of which only the footer has been read.
        data: all bytes of it; a memory map will do.
        what: the file, for messages.

    Raises:
        FormatError: it would be larger.
        ValueError: its pages do not lie where the footer says, or their headers cannot be read.
    """
    _check_groups(file, memoryview(data).cast("B"), what, range(file.metadata.num_row_groups))


def _check_groups(file: Any, view: memoryview, what: str, groups: range) -> None:
    allowed = decoded_limit(len(view))
    metadata = file.metadata
    schema = metadata.schema
    total = 0
    for group in groups:
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            total += _chunk_bytes(row_group.column(number), schema.column(number), view, allowed)
            if total > allowed:
                column = row_group.column(number).path_in_schema
                raise FormatError(
                    f"{what}: {len(view)} bytes of parquet that decode to {total} or more (column {column!r}), "
                    f"more than the {allowed} that are read; shorter episodes or fewer columns have room"
                )


def _chunk_bytes(chunk: Any, column: Any, view: memoryview, allowed: int) -> int:
    """An upper bound of what a column chunk decodes to."""
    if not chunk.num_values:  # then no page of it is read
        return 0
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    end = start + chunk.total_compressed_size
    if not 0 < start <= end <= len(view):
        raise ValueError("a column leaves the file")
    width = _WIDTHS.get(chunk.physical_type, 0)
    if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
        width = max(0, column.length)
    levels = _LEVEL_BYTES if column.max_definition_level or column.max_repetition_level else 0
    total = longest = 0
    while start < end and total <= allowed:
        page, start = _page(view, start, end)
        if page.is_dictionary:
            content = view[start - page.stored : start]
            longest = max(longest, 0 if width else _longest(content, page.size, chunk.compression))
            total += page.size
        else:
            total += page.values * levels + _values_bytes(page, width, longest)
    return total


def _longest(content: memoryview, size: int, codec: str) -> int:
    """Bytes of the longest text of a dictionary page; the size of the page where that would be dear to know."""
    if size > MAX_DICTIONARY_BYTES:
        return size
    if codec == "UNCOMPRESSED":
        texts = bytes(content)
    elif codec in _CODECS:
        texts = pa.decompress(content, size, _CODECS[codec], asbytes=True)
    else:
        return size
    at = longest = 0
    while at + 4 <= len(texts):
        (length,) = struct.unpack_from("<I", texts, at)
        longest = max(longest, length)
        at += 4 + length
    return min(longest, size)


def _values_bytes(page: "_Page", width: int, longest: int) -> int:
    if width:
        return max(page.size, page.values * width)
    if page.encoding in _DICTIONARY:
        return page.values * (longest + _OFFSET_BYTES)
    if page.encoding == _DELTA_BYTE_ARRAY:
        return page.values * (page.size + _OFFSET_BYTES)
    return page.size + page.values * _OFFSET_BYTES


class _Page:
    """What the header of a page says of its content."""

    def __init__(self, fields: dict[int, Any]) -> None:
        size, stored = fields.get(2), fields.get(3)
        details = [fields[kind] for kind in (5, 7, 8) if isinstance(fields.get(kind), dict)]
        detail: dict[int, Any] = details[0] if details else {}
        values = detail.get(1, 0)
        if not all(isinstance(number, int) and number >= 0 for number in (size, stored, values)):
            raise ValueError("a page header without sizes")
        self.size: int = size or 0
        """Bytes when decompressed."""
        self.stored: int = stored or 0
        self.values: int = values
        self.is_dictionary = 7 in fields
        self.encoding: object = detail.get(4 if 8 in fields else 2)


def _page(view: memoryview, start: int, end: int) -> tuple[_Page, int]:
    """The page at `start`, and where the next one begins."""
    fields, start = _struct(view, start, end)
    page = _Page(fields)
    following = start + page.stored
    if following > end:
        raise ValueError("a page leaves its column")
    return page, following


# -- Thrift's compact protocol, as far as page headers need it ---------------------------------------------------

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _STRUCT = 0, 1, 2, 3, 7, 8, 12
_INTEGERS = frozenset({4, 5, 6})
_MAX_DEPTH = 8


def _struct(view: memoryview, at: int, end: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Field number -> value of a struct, and the offset after it."""
    if depth > _MAX_DEPTH:
        raise ValueError("a page header nested too deep")
    fields: dict[int, Any] = {}
    number = 0
    for _ in range(_MAX_HEADER_FIELDS):
        head, at = _byte(view, at, end)
        kind, delta = head & 15, head >> 4
        if kind == _STOP:
            return fields, at
        if delta:
            number += delta
        else:
            number, at = _zigzag(view, at, end)
        fields[number], at = _value(kind, view, at, end, depth)
    raise ValueError("a page header with too many fields")


def _value(kind: int, view: memoryview, at: int, end: int, depth: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _BYTE:
        return _byte(view, at, end)
    if kind in _INTEGERS:
        return _zigzag(view, at, end)
    if kind == _DOUBLE:
        return None, _skipped(at, 8, end)
    if kind == _BINARY:
        length, at = _varint(view, at, end)
        return None, _skipped(at, length, end)
    if kind == _STRUCT:
        return _struct(view, at, end, depth + 1)
    raise ValueError("a page header with a list or an unknown field")


def _skipped(at: int, length: int, end: int) -> int:
    if at + length > end:
        raise ValueError("a page header leaves its column")
    return at + length


def _byte(view: memoryview, at: int, end: int) -> tuple[int, int]:
    if at >= end:
        raise ValueError("a page header leaves its column")
    return view[at], at + 1


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        byte, at = _byte(view, at, end)
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at
    raise ValueError("a page header with an endless number")


def _zigzag(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value, at = _varint(view, at, end)
    return (value >> 1) ^ -(value & 1), at

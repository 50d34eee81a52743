"""How large a parquet file becomes when it is read, told before it is read.

A few kilobytes of parquet can stand for gigabytes: pages that decompress to anything, dictionaries
of one long text that every row names, run lengths, prefixes that every value repeats. What the
footer says of sizes is a claim, and readers allocate what the pages say. So the headers of all
pages are walked here, and what they decode to is bounded from above; of dictionaries alone the
content is looked at.
"""

import struct
from pathlib import Path
from typing import Any

import pyarrow as pa

from roboshard.common.errors import FormatError, SourceError
from roboshard.shards.parquet_footer import ColumnChunk, read_column_chunks
from roboshard.shards.thrift import CompactReader

DECODED_BASE = 256 << 20
"""Bytes that any parquet file of a dataset may decode to."""
DECODED_FACTOR = 16
"""Further bytes that a parquet file may decode to, for each byte of the file."""
MAX_SOURCE_ROWS = 1 << 25
"""Most rows of one file of a source: their episode_index is held at once."""
MAX_DICTIONARY_BYTES = 8 << 20
"""Dictionaries up to this size are looked into; writers keep to one MiB."""

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
_OFFSET_BYTES = 4
_LEVEL_BYTES = 4
"""Bytes of the repetition and definition level of a value that may be null or lies in a list."""
_UNCOMPRESSED = 0
_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
"""Numbers of CompressionCodec, and PyArrow's names for them."""
_DICTIONARY = frozenset({2, 8})
_DELTA_BYTE_ARRAY = 7


def decoded_limit(file_size: int) -> int:
    """Return the bytes that a parquet file of `file_size` bytes may decode to."""
    return DECODED_BASE + DECODED_FACTOR * file_size


def check_source(file: Any, path: Path, what: str) -> None:
    """Refuse a parquet file of a source of which a row group decodes to more than it may, or with
    too many rows.

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
            for group in _row_groups(file, view):
                _check_groups(file, view, what, [group])
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
    view = memoryview(data).cast("B")
    _check_groups(file, view, what, _row_groups(file, view))


def _row_groups(file: Any, view: memoryview) -> list[list[ColumnChunk]]:
    """The column chunks of each row group, as many of both as PyArrow has found."""
    groups = read_column_chunks(view)
    metadata = file.metadata
    if [len(chunks) for chunks in groups] != [metadata.num_columns] * metadata.num_row_groups:
        raise ValueError("a row group without one chunk of each column")
    return groups


def _check_groups(file: Any, view: memoryview, what: str, groups: list[list[ColumnChunk]]) -> None:
    allowed = decoded_limit(len(view))
    schema = file.metadata.schema
    total = 0
    for chunks in groups:
        for number, chunk in enumerate(chunks):
            column = schema.column(number)
            total += _chunk_bytes(chunk, column, view, allowed)
            if total > allowed:
                raise FormatError(
                    f"{what}: {len(view)} bytes of parquet that decode to {total} or more (column "
                    f"{column.path!r}), more than the {allowed} that are read; shorter episodes or "
                    "fewer columns have room"
                )


def _chunk_bytes(chunk: ColumnChunk, column: Any, view: memoryview, allowed: int) -> int:
    """An upper bound of what a column chunk decodes to."""
    if not chunk.num_values:  # then no page of it is read
        return 0
    start, end = chunk.start, chunk.end
    width = _WIDTHS.get(column.physical_type, 0)
    if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
        width = max(0, column.length)
    levels = _LEVEL_BYTES if column.max_definition_level or column.max_repetition_level else 0
    total = longest = 0
    while start < end and total <= allowed:
        page, start = _page(view, start, end)
        if page.is_dictionary:
            content = view[start - page.stored : start]
            longest = max(longest, 0 if width else _longest(content, page.size, chunk.codec))
            total += page.size
        else:
            total += page.values * levels + _values_bytes(page, width, longest)
    return total


def _longest(content: memoryview, size: int, codec: int) -> int:
    """Bytes of the longest text of a dictionary page; the size of the page where that would be dear
    to know.
    """
    if size > MAX_DICTIONARY_BYTES:
        return size
    if codec == _UNCOMPRESSED:
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
        """Bytes of the page when decompressed."""
        self.stored: int = stored or 0
        self.values: int = values
        self.is_dictionary = 7 in fields
        self.encoding: object = detail.get(4 if 8 in fields else 2)


def _page(view: memoryview, start: int, end: int) -> tuple[_Page, int]:
    """The page at `start`, and where the next one begins."""
    reader = CompactReader(view, start, end)
    page = _Page(reader.struct())
    following = reader.at + page.stored
    if following > end:
        raise ValueError("a page leaves its column")
    return page, following

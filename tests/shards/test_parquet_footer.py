"""Our reading of parquet footers is PyArrow's, for every codec, layout and size."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roboshard.shards.parquet_footer import read_column_chunks

NUMBERS = {"UNCOMPRESSED": 0, "SNAPPY": 1, "GZIP": 2, "BROTLI": 4, "ZSTD": 6, "LZ4": 7}


@example(rows=0, columns=1, group=1, codec="none", dictionary=True, statistics=False)
@given(
    rows=st.integers(0, 400),
    columns=st.integers(1, 40),
    group=st.integers(1, 90),
    codec=st.sampled_from(["none", "snappy", "gzip", "brotli", "zstd", "lz4"]),
    dictionary=st.booleans(),
    statistics=st.booleans(),
)
def test_chunks_are_where_pyarrow_says(
    rows: int, columns: int, group: int, codec: str, dictionary: bool, statistics: bool
) -> None:
    table = pa.table({f"c{i}": [f"{i}-{row % 7}" for row in range(rows)] for i in range(columns)})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression=codec,
        row_group_size=group,
        use_dictionary=dictionary,
        write_statistics=statistics,
    )
    data = sink.getvalue().to_pybytes()
    metadata = pq.read_metadata(pa.BufferReader(data))
    found = read_column_chunks(memoryview(data))
    assert len(found) == metadata.num_row_groups
    for i, chunks in enumerate(found):
        assert len(chunks) == columns
        for j, chunk in enumerate(chunks):
            theirs = metadata.row_group(i).column(j)
            start = theirs.data_page_offset
            if 0 < (theirs.dictionary_page_offset or 0) < start:  # as PyArrow's reader has it
                start = theirs.dictionary_page_offset
            assert chunk.codec == NUMBERS[theirs.compression]
            assert chunk.num_values == theirs.num_values
            assert chunk.start == start
            assert chunk.end == start + theirs.total_compressed_size


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\0" * 64, b"PAR1\xff\xff\xff\x7fPAR1"])
def test_what_has_no_footer_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no footer"):
        read_column_chunks(memoryview(data))

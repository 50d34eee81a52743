"""Lists of a fixed length with nulls among them, which pyarrow before 26 cannot keep."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def keeps_null_lists() -> bool:
    """Whether this pyarrow writes and reads lists of a fixed size with nulls among them."""
    actions = [[0.0, 1.0], None, [2.0, 3.0]]
    file = io.BytesIO()
    try:
        pq.write_table(pa.table({"action": pa.array(actions, pa.list_(pa.float32(), 2))}), file)
        return bool(pq.read_table(file)["action"].to_pylist() == actions)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, OSError):
        return False


NEEDS_NULL_LISTS = pytest.mark.skipif(
    not keeps_null_lists(), reason="this pyarrow keeps no nulls among lists of a fixed length"
)

"""Lists of a fixed length with nulls among them: read, or refused with the remedy."""

from __future__ import annotations

import base64

import pyarrow as pa
import pytest

from roboshard.shards import FormatError
from roboshard.shards.rows import decode_rows

ROWS = """
UEFSMRUAFToVTCwVChUAFQYVBhwAAAAotS/9IB3pAAACAAAAAxIDAAAAA88DAACAPwAAAEAAAEBAAACAQBUEGUw1ABgG
c2NoZW1hFQIANQIYAWEVAhUGTDwAAAA1BBgEbGlzdBUCABUIJQIYB2VsZW1lbnQAFgYZHBkcJgAcFQgZJQYAGTgBYQRs
aXN0B2VsZW1lbnQVDBYKFmAWciYISRwVABUAFQIAPCkmBgQZRgIAAAgAAAAWYBYGJggWcgAZLBgRcm9ib3NoYXJkLmVw
aXNvZGUYAnt9ABgMQVJST1c6c2NoZW1hGMACLy8vLy8rZ0FBQUFRQUFBQUFBQUtBQTRBQmdBRkFBZ0FDZ0FBQUFBQkJB
QVFBQUFBQUFBS0FBd0FBQUFFQUFnQUNnQUFBRVFBQUFBRUFBQUFBUUFBQUF3QUFBQUlBQXdBQkFBSUFBZ0FBQUFRQUFB
QUJBQUFBQUlBQUFCN2ZRQUFFUUFBQUhKdlltOXphR0Z5WkM1bGNHbHpiMlJsQUFBQUFRQUFBQVFBQUFEUS8vLy9BQUFC
RUJRQUFBQWNBQUFBQkFBQUFBRUFBQUFvQUFBQUFRQUFBR0VBQmdBSUFBUUFCZ0FBQUFJQUFBQVFBQlFBQ0FBR0FBY0FE
QUFBQUJBQUVBQUFBQUFBQVFNUUFBQUFIQUFBQUFRQUFBQUFBQUFBQkFBQUFHbDBaVzBBQUFZQUNBQUdBQVlBQUFBQUFB
RUEAGCBwYXJxdWV0LWNwcC1hcnJvdyB2ZXJzaW9uIDI2LjAuMRkcHAAAABYCAABQQVIx
"""
"""Of three rows, by `encode_rows` with pyarrow 26."""


def test_nulls_among_lists_of_a_fixed_length() -> None:
    rows = base64.b64decode(ROWS)
    if int(pa.__version__.split(".")[0]) >= 26:
        assert decode_rows(rows, "rows", 3)["a"].to_pylist() == [[1, 2], None, [3, 4]]
    else:
        with pytest.raises(
            FormatError, match=r"rows: unreadable .*; update pyarrow to 26 or newer"
        ):
            decode_rows(rows, "rows", 3)

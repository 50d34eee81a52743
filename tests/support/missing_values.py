"""A LeRobot dataset whose rows lack values of every kind, made of a trouble case that lacks
images.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .cases import CASES

DATA = "data/chunk-000/file-000.parquet"
INFO = "meta/info.json"

REWARD = [0.5, None, 1.5, float("nan"), 2.5, 3.5, None, 4.5, 5.5, 6.5, 7.5, *[8.5] * 7]
COUNT = [*range(11), None, *range(6)]
FLAG = [True, None, *[True] * 16]
STATE_2 = [None, [1.0, None], *[[1.0, 2.0]] * 16]
HINT = ["a", None, *["b"] * 16]
ADDED: dict[str, tuple[dict[str, Any], pa.DataType | None, list[Any]]] = {
    "reward": ({"dtype": "float32", "shape": [1]}, pa.float32(), REWARD),
    "count": ({"dtype": "int64", "shape": [1]}, pa.int64(), COUNT),
    "flag": ({"dtype": "bool", "shape": [1]}, pa.bool_(), FLAG),
    "pair": ({"dtype": "float32", "shape": [2]}, pa.list_(pa.float32(), 2), STATE_2),
    "hint": ({"dtype": "string", "shape": [1]}, pa.string(), HINT),
    "nothing": ({"dtype": "float32", "shape": [2]}, pa.null(), [None] * 18),
    "absent": ({"dtype": "float32", "shape": [3]}, None, []),
}
"""Feature -> spec, Arrow type (None: it is not stored), values of the 18 rows of three episodes (6,
5, 7 rows).
"""
COUNTED = {
    "image": 3,
    "reward": 2,
    "count": 1,
    "flag": 1,
    "pair": 2,
    "hint": 1,
    "nothing": 18,
    "absent": 18,
}
"""Feature key -> how many of the 18 rows have no value."""


def build_missing(root: Path) -> Path:
    """Write a dataset whose rows lack values of every kind, and return its folder."""
    shutil.copytree(CASES / "image_some_missing/src", root)

    def add(table: pa.Table) -> pa.Table:
        for key, (_, kind, values) in ADDED.items():
            if kind is not None:
                table = table.append_column(key, pa.array(values, kind))
        return table

    rewrite_rows(root, add)
    rewrite_info(root, {key: spec | {"names": None} for key, (spec, _, _) in ADDED.items()})
    return root


def rewrite_rows(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a dataset's one data file."""
    table = change(pq.read_table(root / DATA).replace_schema_metadata(None))
    pq.write_table(table, root / DATA)


def rewrite_info(root: Path, features: dict[str, Any]) -> None:
    """Add features to info.json, or change them."""
    info = json.loads((root / INFO).read_text())
    info["features"] |= features
    (root / INFO).write_text(json.dumps(info))

"""A source's samples as its files say them: every row of every data file in order, without any
metadata of where.

It knows nothing of roboshard, which is held against it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray


def read_samples(root: Path, *, without: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """All rows but those of some episodes, by episode, then as they lie: declared keys, and the
    task.
    """
    info = json.loads((root / "meta/info.json").read_text(encoding="utf-8"))
    declared = [key for key, spec in info["features"].items() if spec["dtype"] != "video"]
    tasks = _tasks(root)
    paths = sorted((root / "data").rglob("*.parquet"), key=lambda path: path.parts)
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    rows = [row for row in rows if int(_scalar(row["episode_index"])) not in without]
    rows.sort(key=lambda row: int(_scalar(row["episode_index"])))
    samples = []
    for row in rows:
        sample = {key: row[key] for key in declared if key in row}
        index = _scalar(row["task_index"]) if "task_index" in row else None
        if tasks and index is not None:
            sample["task"] = tasks[int(index)]
        samples.append(sample)
    return samples


def check_samples(dataset: Any, expected: list[dict[str, Any]]) -> None:
    """Hold every sample of a map-style dataset against these values; its pictures are not looked
    at.
    """
    assert len(dataset) == len(expected)
    for number, sample in enumerate(expected):
        found = {
            key: value
            for key, value in dataset[number].items()
            if not (isinstance(value, torch.Tensor) and value.ndim == 3)
        }
        assert found.keys() == sample.keys(), number
        for key, value in sample.items():
            if value is None or isinstance(value, str):
                assert found[key] == value, (number, key)
            else:
                array: NDArray[Any] = found[key].numpy()
                given = np.asarray(value).reshape(array.shape).astype(array.dtype)
                assert np.array_equal(array, given, equal_nan=array.dtype.kind == "f"), (
                    number,
                    key,
                )


def _tasks(root: Path) -> dict[int, str | None]:
    """Texts as each version looks them up: by position, counted from the end too, or by
    task_index.
    """
    lines = root / "meta/tasks.jsonl"
    if lines.exists():
        entries = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
        return {entry["task_index"]: entry["task"] for entry in entries}
    path = root / "meta/tasks.parquet"
    if not path.exists():
        return {}
    table = pq.read_table(path)
    name = next(name for name in table.column_names if name in ("task", "__index_level_0__"))
    texts = table.column(name).to_pylist()
    return {place: text for i, text in enumerate(texts) for place in (i, i - len(texts))}


def _scalar(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value

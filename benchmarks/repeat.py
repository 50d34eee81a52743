"""Make a large LeRobot v3 dataset by repeating a small one: new episode and file numbers, the same
videos.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def repeat_dataset(source: Path, destination: Path, num_bytes: int) -> int:
    """Write copies of `source` as one dataset until it has at least `num_bytes`; returns its size
    in bytes.
    """
    info = json.loads((source / "meta" / "info.json").read_text())
    once = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    copies = -(-num_bytes // once)
    (destination / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    for name in ("stats.json", "tasks.parquet"):
        shutil.copy(source / "meta" / name, destination / "meta" / name)
    meta_files = sorted((source / "meta" / "episodes").glob("**/*.parquet"))
    episodes = pa.concat_tables(
        [pq.read_table(path) for path in meta_files], promote_options="permissive"
    )
    files = _files_per_copy(episodes)
    shifted = [_shift_episodes(episodes, info, files, copy) for copy in range(copies)]
    pq.write_table(
        pa.concat_tables(shifted),
        destination / "meta" / "episodes" / "chunk-000" / "file-000.parquet",
    )
    for copy in range(copies):
        for path in sorted((source / "data").glob("**/*.parquet")):
            target = _target(path, source, destination, files["data"], copy)
            pq.write_table(_shift_rows(pq.read_table(path), info, copy), target)
        for key in files:
            for path in sorted((source / "videos" / key).glob("**/*.mp4")) if key != "data" else []:
                shutil.copy(path, _target(path, source, destination, files[key], copy))
    info |= {name: info[name] * copies for name in ("total_episodes", "total_frames")}
    (destination / "meta" / "info.json").write_text(json.dumps(info))
    return sum(path.stat().st_size for path in destination.rglob("*") if path.is_file())


def _files_per_copy(episodes: pa.Table) -> dict[str, int]:
    """Files that each copy takes up, for the rows ("data") and per camera."""
    columns = {
        name.removesuffix("/file_index"): name
        for name in episodes.column_names
        if name.endswith("/file_index")
    }
    used = {
        name.removeprefix("videos/"): column
        for name, column in columns.items()
        if not name.startswith("meta/")
    }
    return {
        name: int(np.max(episodes.column(column).to_numpy())) + 1 for name, column in used.items()
    }


def _target(path: Path, source: Path, destination: Path, files: int, copy: int) -> Path:
    number = int(path.stem.removeprefix("file-")) + copy * files
    target = destination / path.relative_to(source).with_name(f"file-{number:03d}{path.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _shift_rows(rows: pa.Table, info: dict[str, Any], copy: int) -> pa.Table:
    for name, by in (("episode_index", info["total_episodes"]), ("index", info["total_frames"])):
        rows = _shift(rows, name, copy * by)
    return rows


def _shift_episodes(
    episodes: pa.Table, info: dict[str, Any], files: dict[str, int], copy: int
) -> pa.Table:
    episodes = _shift(episodes, "episode_index", copy * info["total_episodes"])
    for name in ("dataset_from_index", "dataset_to_index"):
        episodes = _shift(episodes, name, copy * info["total_frames"])
    for key, count in files.items():
        episodes = _shift(
            episodes, f"{key if key == 'data' else f'videos/{key}'}/file_index", copy * count
        )
    return episodes


def _shift(table: pa.Table, name: str, by: int) -> pa.Table:
    position = table.column_names.index(name)
    return table.set_column(
        position, table.schema.field(name), pa.array(table.column(name).to_numpy() + by)
    )

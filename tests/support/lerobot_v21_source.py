"""A LeRobot v3.0 dataset on disk written again as v2.1 or v2.0: a file for each episode, metadata
in JSON Lines.

    write_v21(built.root, tmp_path / "robot")

Rows are the same and videos are cut by copying packets. Like lerobot_source.py it knows nothing of
roboshard.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_V3_ONLY = ("data_files_size_in_mb", "video_files_size_in_mb")


def write_v21(v3: Path, root: Path, *, version: str = "v2.1", chunks_size: int = 4) -> Path:
    """Write the dataset of the folder `v3` into the folder `root`, and return that.

    The lines of the metadata are in no order, as readers go by the indices that they hold.
    """
    info = json.loads((v3 / "meta/info.json").read_text(encoding="utf-8"))
    cameras = [key for key, spec in info["features"].items() if spec["dtype"] == "video"]
    episodes = [
        row
        for path in sorted((v3 / "meta/episodes").glob("*/*"))
        for row in pq.read_table(path).to_pylist()
    ]
    for row in episodes:
        place = {
            "episode_chunk": row["episode_index"] // chunks_size,
            "episode_index": row["episode_index"],
        }
        _write_rows(v3, info, row, root / DATA_PATH.format(**place))
        for key in cameras:
            _write_video(v3, info, row, key, root / VIDEO_PATH.format(video_key=key, **place))
    info = {name: value for name, value in info.items() if name not in _V3_ONLY} | {
        "codebase_version": version,
        "total_chunks": -(-len(episodes) // chunks_size),
        "total_videos": len(episodes) * len(cameras),
        "chunks_size": chunks_size,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if cameras else None,
    }
    meta = root / "meta"
    meta.mkdir(parents=True)
    (meta / "info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
    tasks = pq.read_table(v3 / "meta/tasks.parquet").to_pylist()
    texts = [
        {"task_index": i, "task": next(v for k, v in row.items() if k != "task_index")}
        for i, row in enumerate(tasks)
    ]
    write_lines(meta / "tasks.jsonl", reversed(texts))
    about = [{name: row[name] for name in ("episode_index", "tasks", "length")} for row in episodes]
    write_lines(meta / "episodes.jsonl", about[1:] + about[:1])
    if version == "v2.0":
        (meta / "stats.json").write_bytes((v3 / "meta/stats.json").read_bytes())
    else:
        stats = [{"episode_index": row["episode_index"], "stats": _stats(row)} for row in episodes]
        write_lines(meta / "episodes_stats.jsonl", reversed(stats))
    return root


def write_lines(path: Path, values: Iterable[object]) -> None:
    """Write a file in JSON Lines."""
    path.write_text(
        "".join(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values), encoding="utf-8"
    )


def read_lines(path: Path) -> list[Any]:
    """Read a file in JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_rows(v3: Path, info: dict[str, Any], row: dict[str, Any], path: Path) -> None:
    place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
    table = pq.read_table(v3 / info["data_path"].format(**place))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table.filter(pc.equal(table["episode_index"], pa.scalar(row["episode_index"]))), path
    )


def _write_video(v3: Path, info: dict[str, Any], row: dict[str, Any], key: str, path: Path) -> None:
    """Copy the packets of an episode, which must have been encoded apart, and move them to time
    0.
    """
    place = {"video_key": key} | {
        name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")
    }
    start, stop = (row[f"videos/{key}/{end}_timestamp"] for end in ("from", "to"))
    half = 0.5 / info["fps"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        av.open(str(v3 / info["video_path"].format(**place))) as source,
        av.open(str(path), "w") as target,
    ):
        packets = [packet for packet in source.demux(source.streams.video[0]) if packet.size]
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        own = [
            p
            for p in packets
            if start - half <= float((p.pts or 0) * (p.time_base or 0)) < stop - half
        ]
        first = min(packet.pts or 0 for packet in own)
        for packet in own:
            packet.pts, packet.dts = (packet.pts or 0) - first, (packet.dts or 0) - first
            packet.stream = stream
            target.mux(packet)


def _stats(row: dict[str, Any]) -> dict[str, Any]:
    """The statistics in a row of v3's meta/episodes, nested by feature."""
    stats: dict[str, Any] = {}
    for name, value in row.items():
        if name.startswith("stats/") and name.rpartition("/")[2] in (
            "min",
            "max",
            "mean",
            "std",
            "count",
        ):
            key, _, kind = name.removeprefix("stats/").rpartition("/")
            stats.setdefault(key, {})[kind] = value
    return stats

"""Real LeRobot v3.0 datasets on disk, made with real encoders, for the tests' hard cases.

    built = build(tmp_path, HARD_CASES["open_gop_hevc"])
    built.frames("observation.images.top", 3)   # what a right reader must give, uint8 (frames, H, W, 3)

It knows nothing of roboshard: it is what roboshard is held against.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from . import tables
from .encode import sequential_rgb, write_video
from .hard_cases import EVERY_KIND, FURTHER_CASES, HARD_CASES
from .spec import Camera, Color, Source, file_groups
from .stamp import (
    HIDDEN_EPISODE,
    Codes,
    Frame,
    camera_code,
    read_camera,
    read_stamp,
    render,
    render_depth,
)

__all__ = [
    "EVERY_KIND",
    "FURTHER_CASES",
    "HARD_CASES",
    "HIDDEN_EPISODE",
    "Built",
    "Camera",
    "Clip",
    "Color",
    "Source",
    "build",
    "camera_code",
    "read_camera",
    "read_stamp",
    "render",
]

_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FRAMES_SKIPPED = 4
"""Of so many frames of a camera one counts in statistics, as in LeRobot's recorder."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Where an episode's frames lie in a video file, by the builder's own count.

    Attributes:
        first_frame: Its first frame among the shown frames of the file.
        num_frames: Frames that the file really holds of it.
        from_timestamp, to_timestamp: What the metadata says, in seconds.
    """

    path: Path
    file_number: int
    first_frame: int
    num_frames: int
    from_timestamp: float
    to_timestamp: float


@dataclass(frozen=True, kw_only=True)
class Built:
    """A dataset on disk, and the truth about it."""

    root: Path
    source: Source
    clips: dict[tuple[str, int], Clip]
    data_files: dict[int, Path]
    _decoded: dict[Path, NDArray[np.uint8]] = field(default_factory=dict, repr=False, compare=False)

    def frames(self, key: str, episode_index: int) -> NDArray[np.uint8]:
        """Reference RGB of one episode, uint8 (frames, H, W, 3), cut from a sequential decode of
        its file.
        """
        clip = self.clips[key, episode_index]
        if clip.path not in self._decoded:
            self._decoded[clip.path] = sequential_rgb(clip.path)
            self._decoded[clip.path].setflags(write=False)
        return self._decoded[clip.path][clip.first_frame : clip.first_frame + clip.num_frames]

    def depth_codes(self, key: str, episode_index: int) -> NDArray[np.uint16]:
        """What was encoded of one episode of a depth camera, uint16 (frames, H, W)."""
        camera = next(camera for camera in self.source.cameras if camera.key == key)
        return np.stack(_episode_frames(self.source, camera, episode_index))

    def rows(self, episode_index: int) -> pa.Table:
        """Return one episode's rows, read back from its data file with every column."""
        table = pq.read_table(self.data_files[episode_index])
        return table.filter(pc.equal(table["episode_index"], episode_index))

    def images(self, key: str, episode_index: int) -> NDArray[np.uint8]:
        """Return one episode's PNG images, uint8 (rows, H, W, 3)."""
        return np.stack(
            [tables.decode_png(png["bytes"]) for png in self.rows(episode_index)[key].to_pylist()]
        )


def build(root: Path, source: Source) -> Built:
    """Write the dataset under `root` and return it with its truth."""
    clips: dict[tuple[str, int], Clip] = {}
    for camera in source.cameras:
        clips |= {
            (camera.key, episode): clip for episode, clip in _write_videos(root, source, camera)
        }
    data_files = _write_data(root, source)
    _write_meta(root, source, clips, data_files)
    return Built(root=root, source=source, clips=clips, data_files=data_files)


def _write_videos(root: Path, source: Source, camera: Camera) -> Iterator[tuple[int, Clip]]:
    """Write all files of one camera; yield (episode, clip)."""
    groups = file_groups(len(source.lengths), camera.episodes_per_file, camera.file_numbers)
    for number, episodes in groups:
        path = root / _VIDEO_PATH.format(video_key=camera.key, chunk_index=0, file_index=number)
        durations = write_video(
            path, _segments(source, camera, episodes), camera=camera, fps=source.fps
        )
        if camera.stream == "continuous":
            durations = [
                source.num_video_frames(camera, episode) / source.fps for episode in episodes
            ]
        yield from _clips(path, number, source, camera, dict(zip(episodes, durations, strict=True)))


def _clips(
    path: Path, number: int, source: Source, camera: Camera, durations: dict[int, float]
) -> Iterator[tuple[int, Clip]]:
    """Place a file's episodes (episode: seconds) one after the other, summing floats as the
    recorder does.
    """
    first, start = 0, camera.start_offset_s
    for episode, duration in durations.items():
        count = source.num_video_frames(camera, episode)
        stop = start + duration + camera.timestamp_drift_s
        yield (
            episode,
            Clip(
                path=path,
                file_number=number,
                first_frame=first,
                num_frames=count,
                from_timestamp=start,
                to_timestamp=stop,
            ),
        )
        first, start = first + count, stop


def _segments(source: Source, camera: Camera, episodes: Sequence[int]) -> list[list[Frame | Codes]]:
    """The runs of frames of one file that are encoded apart, hidden ones first."""
    draw = render if camera.depth is None else render_depth
    hidden = [
        draw(key=camera.key, episode=HIDDEN_EPISODE, frame=i, size=camera.size, seed=source.seed)
        for i in range(camera.hidden_frames)
    ]
    runs: list[list[Frame | Codes]] = [
        _episode_frames(source, camera, episode) for episode in episodes
    ]
    if camera.stream == "continuous":
        runs = [[frame for run in runs for frame in run]]
    return [hidden + runs[0], *runs[1:]]


def _episode_frames(
    source: Source, camera: Camera, episode: int, *, every: int = 1
) -> list[Frame | Codes]:
    draw = render if camera.depth is None else render_depth
    return [
        draw(key=camera.key, episode=episode, frame=i, size=camera.size, seed=source.seed)
        for i in range(0, source.num_video_frames(camera, episode), every)
    ]


def _write_data(root: Path, source: Source) -> dict[int, Path]:
    """Write all data files; return each episode's."""
    files: dict[int, Path] = {}
    groups = file_groups(
        len(source.lengths), source.episodes_per_data_file, source.data_file_numbers
    )
    for number, episodes in groups:
        path = root / _DATA_PATH.format(chunk_index=0, file_index=number)
        tables.write_data_file(path, source, episodes)
        files |= dict.fromkeys(episodes, path)
    return files


def _write_meta(
    root: Path, source: Source, clips: dict[tuple[str, int], Clip], data_files: dict[int, Path]
) -> None:
    _write_json(root / "meta/info.json", _info(source))
    _write_json(root / "meta/stats.json", _stats(source, range(len(source.lengths))))
    _write_tasks(root / "meta/tasks.parquet", source)
    groups = file_groups(len(source.lengths), source.episodes_per_meta_file, None)
    for number, episodes in groups:
        path = root / f"meta/episodes/chunk-000/file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [_episode_row(source, episode, clips, data_files, number) for episode in episodes]
        pq.write_table(pa.Table.from_pylist(rows), path)


def _info(source: Source) -> dict[str, Any]:
    total = len(source.lengths)
    return {
        "codebase_version": "v3.1" if source.language else "v3.0",
        "fps": source.fps,
        "features": tables.features(source),
        "total_episodes": total,
        "total_frames": sum(source.lengths),
        "total_tasks": len(source.tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": _DATA_PATH,
        "video_path": _VIDEO_PATH if source.cameras else None,
        "robot_type": "stampbot",
        "splits": {"train": f"0:{total}"},
    }


def _stats(source: Source, episodes: Sequence[int]) -> dict[str, dict[str, list[Any]]]:
    """Statistics of every feature that is measured, over some episodes."""
    result: dict[str, dict[str, list[Any]]] = {}
    for key, spec in tables.features(source).items():
        camera = next((camera for camera in source.cameras if camera.key == key), None)
        if camera is not None:
            frames = [
                frame
                for episode in episodes
                for frame in _episode_frames(source, camera, episode, every=FRAMES_SKIPPED)
            ]
            pixels = np.stack(frames)
            result[key] = tables.statistics(
                pixels if pixels.ndim == 4 else pixels[..., None], image=True
            )
        elif key in source.image_keys:
            frames = [frame for episode in episodes for frame in _png_frames(source, key, episode)]
            result[key] = tables.statistics(np.stack(frames), image=True)
        elif key in source.depth_images:
            depth = [tables.depth_images(source, key, episode) for episode in episodes]
            result[key] = tables.statistics(np.concatenate(depth)[..., None], image=True)
        elif spec["dtype"] not in ("string", "language"):
            values = [np.asarray(tables.columns(source, episode)[key]) for episode in episodes]
            result[key] = tables.statistics(np.concatenate(values))
    return result


def _png_frames(source: Source, key: str, episode: int) -> list[Frame]:
    return [
        render(key=key, episode=episode, frame=i, size=source.image_size, seed=source.seed)
        for i in range(source.lengths[episode])
    ]


def _episode_row(
    source: Source,
    episode: int,
    clips: dict[tuple[str, int], Clip],
    data_files: dict[int, Path],
    meta_file: int,
) -> dict[str, Any]:
    """Return one row of meta/episodes, in the recorder's column order."""
    used = dict.fromkeys(tables.task_indices(source, episode).tolist())
    row: dict[str, Any] = {
        "episode_index": episode,
        "tasks": [source.tasks[index] for index in used],
        "length": source.lengths[episode],
        "data/chunk_index": 0,
        "data/file_index": int(data_files[episode].stem.removeprefix("file-")),
        "dataset_from_index": source.from_index(episode),
        "dataset_to_index": source.from_index(episode + 1),
    }
    for camera in source.cameras:
        clip = clips[camera.key, episode]
        row[f"videos/{camera.key}/chunk_index"] = 0
        row[f"videos/{camera.key}/file_index"] = clip.file_number
        row[f"videos/{camera.key}/from_timestamp"] = clip.from_timestamp
        row[f"videos/{camera.key}/to_timestamp"] = clip.to_timestamp
    for key, values in _stats(source, [episode]).items():
        row |= {f"stats/{key}/{name}": value for name, value in values.items()}
    return row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": meta_file}


def _write_tasks(path: Path, source: Source) -> None:
    """Write tasks.parquet as pandas does: the text is the index, so its position is the task's
    number.
    """
    text = {"pandas_type": "unicode", "numpy_type": "object"}
    number = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [
            {"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **number},
            {"name": "task", "field_name": "task", **text, "metadata": None},
        ],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.3",
    }
    schema = pa.schema(
        [pa.field("task_index", pa.int64()), pa.field("task", pa.string())],
        metadata={"pandas": json.dumps(pandas)},
    )
    indices = list(range(len(source.tasks)))
    pq.write_table(
        pa.table({"task_index": indices, "task": list(source.tasks)}, schema=schema), path
    )


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")

"""Where a LeRobot v3 dataset has its files, and how large they become."""

from dataclasses import dataclass
from pathlib import Path

from roboshard.common import jsonio

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
MATROSKA_VIDEO_PATH = VIDEO_PATH.removesuffix(".mp4") + ".mkv"
"""Where videos lie in a dataset of which one is a Matroska file: LeRobot has one template for all.
"""
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DEFAULTS: dict[str, jsonio.Json] = {
    "chunks_size": 1000,
    "data_files_size_in_mb": 100,
    "video_files_size_in_mb": 200,
}
"""LeRobot's own sizes of files and folders, for a source whose info.json has none."""


@dataclass(frozen=True, kw_only=True)
class FilePlace:
    """The place of a file in a LeRobot dataset: its chunk's number, and its own in the chunk."""

    chunk: int
    file: int

    def path(self, root: Path, template: str, **values: str) -> Path:
        """Return the file's path below `root`, and make its folder."""
        path = root / template.format(chunk_index=self.chunk, file_index=self.file, **values)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a file is full, and when a folder of files is."""

    chunks_size: int
    data_bytes: float
    video_bytes: float

    @classmethod
    def of(cls, info: dict[str, jsonio.Json]) -> "Limits":
        """Return the limits in info.json, or LeRobot's defaults where those cannot be used."""
        said = {name: _positive(info.get(name)) or default for name, default in DEFAULTS.items()}
        return cls(
            chunks_size=max(1, int(said["chunks_size"])),
            data_bytes=said["data_files_size_in_mb"] * (1 << 20),
            video_bytes=said["video_files_size_in_mb"] * (1 << 20),
        )

    def place(self, number: int) -> FilePlace:
        """Return the place of the file with this number, counted from 0."""
        chunk, file = divmod(number, self.chunks_size)
        return FilePlace(chunk=chunk, file=file)


def _positive(value: jsonio.Json) -> float | None:
    return value if isinstance(value, int | float) and 0 < value < float("inf") else None

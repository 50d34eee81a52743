"""What a test asks for: the shape of a LeRobot dataset, said in frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Codec = Literal["h264", "hevc", "av1"]
Unit = Literal["m", "mm"]


@dataclass(frozen=True, kw_only=True)
class Color:
    """Color tags of a stream, by FFmpeg's names (a slice must carry them on)."""

    range: Literal["tv", "pc"] = "tv"
    primaries: str = "bt709"
    trc: str = "bt709"
    colorspace: str = "bt709"


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One video feature and how its MP4 files are made.

    Attributes:
        key: Feature key, also the folder under `videos/`.
        gop: Frames from one keyframe to the next.
        bframes: B-frames in a row; more than 0 reorders packets, which gives negative dts.
        open_gop: Keyframes with leading pictures, that is packets that come later and are shown
            earlier.
        size: Frame height and width in pixels.
        moov: Whether the index box lies before the media data (faststart) or after it.
        episodes_per_file: Episodes in each MP4 file; the last file may hold fewer.
        file_numbers: Number of each file, in order, to leave gaps; default 0, 1, 2...
        stream: "per_episode": episodes are encoded apart and joined by packet copy, as the recorder
            does. "continuous": one encode for the whole file, so episodes start off keyframes.
        edit_list: Put frames before the first shown one and hide them with an edit list.
        timestamp_drift_s: Error in seconds that each episode of a file adds to the metadata's
            times.
        drop_frames: Episode index to the number of last frames that the video lacks.
        start_offset_s: Time in seconds at which each file's first frame is shown.
        color: Color tags; None leaves the stream untagged.
        depth: A depth camera, lossless, and what LeRobot notes of its scale: depth_min, depth_max,
            shift, use_log.
    """

    key: str
    codec: Codec = "h264"
    gop: int = 10
    bframes: int = 0
    open_gop: bool = False
    size: tuple[int, int] = (64, 96)
    pix_fmt: str = "yuv420p"
    moov: Literal["head", "tail"] = "head"
    episodes_per_file: int = 3
    file_numbers: tuple[int, ...] | None = None
    stream: Literal["per_episode", "continuous"] = "per_episode"
    edit_list: bool = False
    timestamp_drift_s: float = 0.0
    drop_frames: Mapping[int, int] = field(default_factory=dict)
    start_offset_s: float = 0.0
    color: Color | None = None
    depth: Mapping[str, float | bool] | None = None

    def __post_init__(self) -> None:
        """Refuse what no encoder here would honour, so that a case never tests less than it
        says.
        """
        if self.codec == "av1" and (self.bframes or self.open_gop):
            raise ValueError(
                f"{self.key}: AV1 hides its reordering; bframes and open_gop do not apply"
            )
        if self.open_gop and not self.bframes:
            raise ValueError(f"{self.key}: open_gop needs bframes, or no leading picture can occur")
        if self.edit_list and self.start_offset_s:
            raise ValueError(
                f"{self.key}: edit_list and start_offset_s both move the first frame; choose one"
            )

        if (self.depth is not None) != (self.pix_fmt == "gray12le" and self.codec == "hevc"):
            raise ValueError(f"{self.key}: depth is hevc in gray12le, and nothing else is")

    @property
    def hidden_frames(self) -> int:
        """Frames before the first shown one; few enough that it is no keyframe itself."""
        return max(1, min(4, self.gop - 1)) if self.edit_list else 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """One LeRobot v3.0 dataset.

    Attributes:
        lengths: Number of rows of each episode.
        image_keys: Features kept as PNG bytes in the parquet files.
        depth_images: Image feature of a depth camera -> its unit. "m": float32 TIFF, "mm": uint16
            TIFF, as LeRobot writes them; None: 16-bit PNG without a recorded unit.
        image_size: Height and width of those images in pixels.
        language: Add the annotation columns of v3.1, lists of messages.
        extra_features: Add one feature of every other dtype and rank.
        undeclared_columns: Add a parquet column `_debug` that info.json does not declare.
        tasks: Task texts, dealt to the episodes in turn.
        tasks_per_episode: Tasks within one episode, each for an equal run of its rows.
        row_groups: "per_episode" as the recorder writes, "whole_file" as other tools do.
        data_file_numbers: Number of each data file, in order, to leave gaps; default 0, 1, 2...
        state_dim: Width of `observation.state` and `action`; 1 gives scalar columns.
    """

    fps: int = 10
    lengths: tuple[int, ...] = (12, 9, 15, 7, 11)
    cameras: tuple[Camera, ...] = ()
    image_keys: tuple[str, ...] = ()
    depth_images: Mapping[str, Unit | None] = field(default_factory=dict)
    image_size: tuple[int, int] = (48, 64)
    language: bool = False
    extra_features: bool = False
    undeclared_columns: bool = False
    tasks: tuple[str, ...] = ("pick the cube",)
    tasks_per_episode: int = 1
    episodes_per_data_file: int = 2
    row_groups: Literal["per_episode", "whole_file"] = "per_episode"
    data_file_numbers: tuple[int, ...] | None = None
    episodes_per_meta_file: int = 100
    state_dim: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse datasets that could not be told apart from a broken builder."""
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"every episode needs a row: lengths={self.lengths}")
        for camera in self.cameras:
            for episode in camera.drop_frames:
                self.num_video_frames(camera, episode)

    def num_video_frames(self, camera: Camera, episode: int) -> int:
        """Frames that the camera's video really holds of an episode."""
        count = self.lengths[episode] - camera.drop_frames.get(episode, 0)
        if count < 1:
            raise ValueError(f"{camera.key}: drop_frames leaves episode {episode} without a frame")
        return count

    def from_index(self, episode: int) -> int:
        """Dataset-wide index of an episode's first row."""
        return sum(self.lengths[:episode])


def file_groups(
    num_episodes: int, per_file: int, numbers: tuple[int, ...] | None
) -> list[tuple[int, range]]:
    """Deal episodes to files: (file number, its episodes), in order."""
    starts = range(0, num_episodes, per_file)
    chosen = numbers if numbers is not None else tuple(range(len(starts)))
    if len(chosen) < len(starts):
        raise ValueError(f"{len(starts)} files need as many file numbers, got {chosen}")
    return [
        (number, range(start, min(start + per_file, num_episodes)))
        for number, start in zip(chosen, starts, strict=False)
    ]

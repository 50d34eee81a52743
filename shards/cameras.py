"""What cameras are like, over a few episodes: from their records alone."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from roboshard.shards.gop import distances, mean_random_cost
from roboshard.shards.schema import CameraRecord

EPISODES_LOOKED_AT = 8


@dataclass(frozen=True, kw_only=True)
class CameraSummary:
    """What one camera is like, over the episodes looked at."""

    key: str
    codec: str
    """FFmpeg's name of the codec; several names where episodes differ."""
    size: str
    """Width x height in pixels; several where episodes differ."""
    pix_fmt: str
    gop: float
    """Frames from one keyframe to the next, on average."""
    longest_gop: int
    """Frames of the longest GOP; at least so many, where episodes end before the next keyframe."""
    random_cost: float
    """Frames decoded for one frame picked at random."""
    bytes_per_frame: float


def summarize_cameras(found: Iterable[tuple[CameraRecord, int]]) -> list[CameraSummary]:
    """Return one summary per camera, from (record, bytes of the slice)."""
    by_key: defaultdict[str, list[tuple[CameraRecord, int]]] = defaultdict(list)
    for camera, num_bytes in found:
        by_key[camera.key].append((camera, num_bytes))
    return [_summary(key, its) for key, its in by_key.items()]


def _summary(key: str, found: Sequence[tuple[CameraRecord, int]]) -> CameraSummary:
    cameras = [camera for camera, _ in found]
    frames = sum(camera.num_frames for camera in cameras)
    return CameraSummary(
        key=key,
        codec=_all_of(camera.codec for camera in cameras),
        size=_all_of(f"{camera.width}x{camera.height}" for camera in cameras),
        pix_fmt=_all_of(camera.pix_fmt for camera in cameras),
        gop=frames / sum(len(camera.keyframes) for camera in cameras),
        longest_gop=max(
            int(distances(camera.keyframes, camera.num_frames).max()) for camera in cameras
        ),
        random_cost=float(
            np.mean([mean_random_cost(camera.keyframes, camera.num_frames) for camera in cameras])
        ),
        bytes_per_frame=sum(num_bytes for _, num_bytes in found) / frames,
    )


def _all_of(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))

"""Stages: delta windows, and video frames, from drawn samples to samples as LeRobot returns them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.loader.config import ImageTransform
from roboshard.loader.episode import Episode
from roboshard.loader.fetch import DrawnSample
from roboshard.loader.pixels import pick, to_unit_range
from roboshard.loader.stats import LoaderStats
from roboshard.loader.windows import window

Sample = dict[str, Any]
Offsets = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class WindowedSample:
    """A sample with its rows in place and its frames still to be decoded."""

    values: Sample
    episode: Episode
    frames: Mapping[str, list[int]]
    """Camera -> frames of the slice, in the order of the window."""


class Slice(NamedTuple):
    """One camera of one episode in memory: what one decoder serves."""

    episode: Episode
    camera: str


Requests = Mapping[Slice, Sequence[int]]
"""Slice -> frames to decode, ascending."""


def delta_windows(
    steps: Iterable[Sequence[DrawnSample]], offsets: Offsets, cameras: Sequence[str], stats: LoaderStats
) -> Iterator[list[WindowedSample]]:
    """Per drawn sample: rows and their windows, padding masks, task, and which frames to decode."""
    for samples in steps:
        started = time.perf_counter()
        windowed = [_windowed(sample, offsets, cameras) for sample in samples]
        stats.assembly_seconds += time.perf_counter() - started
        yield windowed


def _windowed(sample: DrawnSample, offsets: Offsets, cameras: Sequence[str]) -> WindowedSample:
    episode, row = sample.episode, sample.row
    windows = {key: window(row, frames, episode.length) for key, frames in offsets.items()}
    values: Sample = {
        key: column.window(windows[key][0]) if key in windows else column.at(row)
        for key, column in episode.columns.items()
    }
    values |= {f"{key}_is_pad": torch.from_numpy(is_pad) for key, (_, is_pad) in windows.items()}
    task = episode.task(row)
    if task is not None:
        values["task"] = task
    rows_of = {camera: windows[camera][0].tolist() if camera in windows else [row] for camera in cameras}
    frames = {camera: episode.frames_of_rows(camera, rows) for camera, rows in rows_of.items()}
    return WindowedSample(values=values, episode=episode, frames=frames)


def decode_video(
    steps: Iterable[Sequence[WindowedSample]], executor: Executor, stats: LoaderStats
) -> Iterator[list[Sample]]:
    """Add the frames: (C, H, W) uint8, or (T, C, H, W) where the camera has a window of more than one frame.

    All that a step needs of one slice is decoded in one go, each frame once, in ascending order.
    """
    for samples in steps:
        started = time.perf_counter()
        requests = _requests(samples)
        pictures = dict(zip(requests, executor.map(_decode, requests.items()), strict=True))
        stats.frames_used += sum(len(frames) for sample in samples for frames in sample.frames.values())
        stats.frames_decoded += sum(map(len, requests.values()))
        complete = [_with_frames(sample, requests, pictures) for sample in samples]
        stats.decode_seconds += time.perf_counter() - started
        yield complete


def _requests(samples: Sequence[WindowedSample]) -> Requests:
    wanted: dict[Slice, set[int]] = defaultdict(set)
    for sample in samples:
        for camera, frames in sample.frames.items():
            wanted[Slice(sample.episode, camera)].update(frames)
    return {slot: sorted(frames) for slot, frames in wanted.items()}


def _decode(request: tuple[Slice, Sequence[int]]) -> torch.Tensor:
    slot, frames = request
    return slot.episode.decode(slot.camera, frames)


def _with_frames(
    sample: WindowedSample,
    requests: Requests,
    pictures: Mapping[Slice, torch.Tensor],
) -> Sample:
    values = dict(sample.values)
    for camera, frames in sample.frames.items():
        slot = Slice(sample.episode, camera)
        values[camera] = pick(pictures[slot], np.searchsorted(requests[slot], frames))
    return values


def finish_images(
    steps: Iterable[Sequence[Sample]],
    *,
    video_keys: Sequence[str],
    image_keys: Sequence[str],
    return_uint8: bool,
    transform: ImageTransform | None,
) -> Iterator[list[Sample]]:
    """Scale video to float32 in 0..1 if asked for, then apply the user's transform to every camera."""
    for samples in steps:
        for sample in samples:
            if not return_uint8:
                _apply(sample, video_keys, to_unit_range)
            if transform is not None:  # a transform may work in place, and samples may share a frame
                _apply(sample, [*video_keys, *image_keys], lambda pictures: transform(pictures.clone()))
        yield list(samples)


def _apply(sample: Sample, keys: Sequence[str], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for key in keys:
        sample[key] = change(sample[key])

"""Stage: rows and delta windows of a step's samples, put together, and which pictures they need."""

import time
from collections import Counter as Counting
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard.common.errors import FormatError
from roboshard.loader.episodes.episode import Episode
from roboshard.loader.episodes.fetch import DrawnStep
from roboshard.loader.episodes.row_table import gather
from roboshard.loader.order.plan import Draw
from roboshard.loader.samples.windows import window
from roboshard.loader.stats import StatsCounter

Batch = dict[str, Any]
Offsets = Mapping[str, NDArray[np.int64]]
"""Feature key -> delta window in frames (T,), or of each dataset of a mixture (datasets, T)."""
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PictureKey:
    """A camera stored as video, or an image feature of the rows."""

    key: str
    is_video: bool
    offsets: IntArray | None
    """Delta window of the key in frames, (T,); None: it has none."""

    @property
    def has_time_axis(self) -> bool:
        """Whether pictures have a time axis: windows of one video frame have none (as LeRobot)."""
        return self.offsets is not None and not (self.is_video and len(self.offsets) == 1)


@dataclass(frozen=True, kw_only=True)
class WindowedStep:
    """A step with its rows in place and its pictures still to be decoded."""

    values: Batch
    """Keys of rows -> tensors (n, ...) or lists of n."""
    episodes: Sequence[Episode]
    episode_of: IntArray
    """(n,) Which of the episodes each sample is of."""
    frames: Mapping[str, IntArray]
    """Picture key -> (n, T) frames of the episode's slice, T = 1 without a window."""
    rows: Mapping[str, IntArray] = field(default_factory=dict)
    """Picture key -> (n, T) rows of the episode that show these frames."""
    draw: Draw | None = None
    """What the step was drawn as, for where it has to be made again."""


def delta_windows(
    steps: Iterable[DrawnStep],
    offsets: Offsets,
    pictures: Sequence[PictureKey],
    counter: StatsCounter,
) -> Iterator[WindowedStep]:
    """Yield for each step: rows and their windows, padding masks, tasks, and which frames to
    decode.
    """
    for step in steps:
        started = time.perf_counter()
        windowed = _windowed(step, offsets, pictures)
        counter.add(assembly_seconds=time.perf_counter() - started)
        counter.spans.add("assemble", started, samples=len(step.rows))
        yield windowed


def _windowed(step: DrawnStep, offsets: Offsets, pictures: Sequence[PictureKey]) -> WindowedStep:
    if not step.episodes:  # others make all of this step
        none = np.zeros((0, 1), dtype=np.int64)
        return WindowedStep(
            values={},
            episodes=(),
            episode_of=step.episode_of,
            frames={picture.key: none for picture in pictures},
            draw=step.draw,
        )
    has_datasets = step.episodes[0].membership.dataset is not None
    lengths = dataset = np.zeros(0, dtype=np.int64)
    if offsets:
        lengths = np.asarray([episode.length for episode in step.episodes])[step.episode_of]
    if has_datasets:
        dataset = np.asarray([episode.membership.dataset for episode in step.episodes])
        dataset = dataset[step.episode_of]
    windows = {
        key: window(step.rows, frames if frames.ndim == 1 else frames[dataset], lengths)
        for key, frames in offsets.items()
    }
    rows_of = {key: rows for key, (rows, _) in windows.items()}
    by_episode = np.argsort(step.episode_of, kind="stable")
    counts = np.bincount(step.episode_of, minlength=len(step.episodes))
    ends = np.cumsum(counts).tolist()
    members = [by_episode[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    side_by_side = _side_by_side(step, members)
    values: Batch = {
        key: torch.from_numpy(side_by_side[key])
        if key in side_by_side and key not in rows_of
        else _gather(key, step.episodes, members, rows_of.get(key, step.rows))
        for key in step.episodes[0].columns
    }
    values |= {f"{key}_is_pad": torch.from_numpy(is_pad) for key, (_, is_pad) in windows.items()}
    tasks = _tasks(step, members, side_by_side.get("task_index"))
    if tasks is not None:
        values["task"] = tasks
    if has_datasets:
        values["dataset_index"] = torch.from_numpy(dataset)
    _mark_missing(values, step, members, rows_of)
    _mark_padding(values, step)
    shown = {picture.key: rows_of.get(picture.key, step.rows[:, None]) for picture in pictures}
    frames = {key: _frames(step, members, key, rows) for key, rows in shown.items()}
    return WindowedStep(
        values=values,
        episodes=step.episodes,
        episode_of=step.episode_of,
        frames=frames,
        rows=shown,
        draw=step.draw,
    )


def _tasks(
    step: DrawnStep, members: Sequence[IntArray], indices: NDArray[Any] | None
) -> list[Any] | None:
    """Return the task of each sample; `indices` are those of all, where the rows of all have one.

    None for a dataset without tasks.
    """
    if indices is not None and len({id(episode.task_texts) for episode in step.episodes}) == 1:
        return step.episodes[0].texts_of(indices)
    tasks = [
        episode.tasks(step.rows[inside])
        for episode, inside in zip(step.episodes, members, strict=True)
    ]
    if tasks[0] is None:
        return None
    return in_places(members, [texts or [] for texts in tasks])


def _mark_missing(
    values: Batch,
    step: DrawnStep,
    members: Sequence[IntArray],
    windows: Mapping[str, IntArray],
) -> None:
    """Mark the samples, or the rows of their windows, that lack a feature. They count as padding.

    Args:
        values: the step's batch, which gains masks.
        step: the step.
        members: of each episode of the step, which samples are of it.
        windows: key -> rows (n, T) of its window.
    """
    of_datasets = [episode.membership for episode in step.episodes]
    nullable = dict.fromkeys(of_datasets[0].nullable)
    if of_datasets[0].is_lenient:
        nullable |= dict.fromkeys(key for episode in step.episodes for key in episode.keys_missing)
    for key in dict.fromkeys((*of_datasets[0].optional, *nullable)):
        lacks: Any = np.array([key in member.missing for member in of_datasets])[step.episode_of]
        if key in nullable:
            lacks = _rows_missing(step, members, key, windows.get(key, step.rows)) | (
                lacks[:, None] if key in windows else lacks
            )
        values[f"{key}_is_missing"] = torch.from_numpy(lacks)
        if key in windows:
            is_pad = lacks if lacks.ndim > 1 else lacks[:, None]
            values[f"{key}_is_pad"] |= torch.from_numpy(is_pad)


def _mark_padding(values: Batch, step: DrawnStep) -> None:
    """Mark the numbers of padded vectors, (n, width), that are none of the sample's dataset."""
    for key, width in step.episodes[0].membership.pad_to.items():
        own = np.asarray([episode.widths.get(key, 0) for episode in step.episodes])
        is_pad = np.arange(width) >= own[step.episode_of, None]
        values[f"{key}_dim_is_pad"] = torch.from_numpy(is_pad)


def _rows_missing(
    step: DrawnStep, members: Sequence[IntArray], key: str, rows: IntArray
) -> NDArray[np.bool_]:
    """Whether each of these rows, (n,) or (n, T), lacks its value."""
    lacks = np.zeros(rows.shape, dtype=np.bool_)
    for episode, inside in zip(step.episodes, members, strict=True):
        missing = episode.missing(key)
        if missing is not None:
            lacks[inside] = missing[rows[inside]]
    return lacks


def _side_by_side(step: DrawnStep, members: Sequence[IntArray]) -> dict[str, NDArray[Any]]:
    """Return the features whose values lie side by side in the rows of all of the step's episodes,
    or are zeros.

    Windows apart. Datasets that have other features than each other lay out their rows in ways of
    their own.
    """
    by_layout: dict[int, list[int]] = defaultdict(list)
    for number, episode in enumerate(step.episodes):
        by_layout[id(episode.table.layout)].append(number)
    found: dict[str, NDArray[Any]] = {}
    num_episodes: dict[str, int] = {}
    for numbers in by_layout.values():
        tables = [step.episodes[number].table for number in numbers]
        inside = [members[number] for number in numbers]
        samples = np.concatenate(inside)
        places = np.argsort(samples, kind="stable")
        values = gather(tables, [step.rows[own] for own in inside], places)
        if len(by_layout) == 1:
            return values
        samples = samples[places]
        for key, own in values.items():
            whole = found.setdefault(key, np.zeros((len(step.rows), *own.shape[1:]), own.dtype))
            if (whole.dtype, whole.shape[1:]) == (own.dtype, own.shape[1:]):
                whole[samples] = own
                num_episodes[key] = num_episodes.get(key, 0) + len(numbers)
    lacking = Counting(key for episode in step.episodes for key in episode.membership.missing)
    return {
        key: whole
        for key, whole in found.items()
        if num_episodes[key] + lacking[key] == len(step.episodes)
    }


def _gather(
    key: str, episodes: Sequence[Episode], members: Sequence[IntArray], rows: IntArray
) -> torch.Tensor | list[Any]:
    """Return one feature of all samples: a tensor (n, ...), or a list of n strings."""
    parts = [
        episode.columns[key].take(rows[inside])
        for episode, inside in zip(episodes, members, strict=True)
    ]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({array.shape[1:] for array in arrays}) == 1:
        gathered = np.empty((len(rows), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
        for inside, array in zip(members, arrays, strict=True):
            gathered[inside] = array
        return torch.from_numpy(gathered)
    values = in_places(members, [_as_list(part) for part in parts])
    return stack(key, values) if isinstance(values[0], torch.Tensor) else values


def _as_list(part: NDArray[Any] | list[Any]) -> list[Any]:
    return list(torch.from_numpy(part)) if isinstance(part, np.ndarray) else part


def in_places(members: Sequence[IntArray], parts: Sequence[list[Any]]) -> list[Any]:
    """Return the values of parts in one list; `members` are the places of each part's."""
    places = np.concatenate(members)
    values = [value for part in parts for value in part]
    return [values[place] for place in np.argsort(places).tolist()]


def stack(key: str, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return tensors of a step along a new first axis. Raises FormatError where their shapes
    differ.
    """
    check_shapes(key, {tuple(value.shape) for value in values})
    return torch.stack(list(values))


def check_shapes(key: str, shapes: set[tuple[int, ...]]) -> None:
    """Raise FormatError unless all shapes that a feature has within a step are the same."""
    if len(shapes) > 1:
        raise FormatError(
            f"{key!r} has shapes {sorted(shapes)} within one batch and cannot be stacked; use "
            "batch_size=None and a collate function of your own"
        )


def _frames(step: DrawnStep, members: Sequence[IntArray], key: str, rows: IntArray) -> IntArray:
    """Return the frames of a camera's slices that these rows, (n, T), show."""
    firsts = [episode.first_frame(key) for episode in step.episodes]
    known = np.asarray([first or 0 for first in firsts], dtype=np.int64)
    frames: IntArray = rows + known[step.episode_of, None]
    for episode, inside, first in zip(step.episodes, members, firsts, strict=True):
        if first is None:
            frames[inside] = episode.frames_of_rows(key, rows[inside])
    return frames

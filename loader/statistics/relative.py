"""Statistics of relative actions: what is left of the actions of a sample's window when its state
is taken away.

Policies that are trained on relative actions (LeRobot's `use_relative_actions`, openpi's delta
actions) see these numbers, which lie about zero however far apart the actions are. Windows overlap:
their values are not laid out, but made anew from the rows for each pass over them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import OptionError
from roboshard.loader.sources import Source
from roboshard.loader.statistics.collect import (
    PASSED_OVER,
    numbers_of,
    parse_rows,
    read_episodes,
    rows_used,
    weights_of,
)
from roboshard.shards.collected import make_array
from roboshard.shards.features import Spec
from roboshard.shards.quantiles import Piece
from roboshard.shards.statistics import PIECE, FeatureStats, describe, stacked

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RelativeActions:
    """What relative actions are the difference of."""

    action: str = "action"
    """The feature that becomes relative."""
    state: str = "observation.state"
    """The feature that is taken away, as it is at the sample's own frame."""
    exclude_joints: tuple[str, ...] = ()
    """Numbers of the action that stay as they are: those in whose name one of these is."""

    def is_relative(self, spec: Spec, size: int) -> list[bool]:
        """Return which numbers of the action become relative, as LeRobot chooses them by their
        names.
        """
        names = [str(name).lower() for name in _names(spec)[:size]]
        tokens = [token.lower() for token in self.exclude_joints if token]
        mask = [not any(token in name for token in tokens) for name in names]
        return mask + [True] * (size - len(mask))


@dataclass(frozen=True, kw_only=True)
class CollectedActions:
    """Actions and states of a dataset's chosen episodes, row after row, and which rows are
    samples.
    """

    actions: NDArray[np.float32]
    """(numbers, rows) values of the action."""
    states: NDArray[np.float32]
    """(numbers, rows) values of the state, of which there are at least as many numbers."""
    has_action: NDArray[np.bool_]
    """(rows,) whether each row has an action."""
    samples: IntArray
    """(samples,) the row of each sample."""
    bounds: IntArray
    """(2, samples) first row of the sample's episode, and the one after its last."""
    weights: NDArray[np.float64] | None
    """(samples,) how often each sample counts; None: once."""
    offsets: IntArray
    """The window of the action in frames, (T,)."""
    num_samples: float
    """Samples of an epoch, on average."""
    is_whole: bool
    """Whether no episode was left out because it cannot be read."""
    num_own: int
    """Numbers of an action that are no padding."""

    def pieces(self, number: int, is_relative: bool, factor: float) -> Iterator[Piece]:
        """Yield one number of the actions of all windows; places outside of the episode are
        padding, and left out.
        """
        for offset in self.offsets.tolist():
            for first in range(0, len(self.samples), PIECE):
                part = slice(first, first + PIECE)
                rows = self.samples[part] + offset
                inside = (rows >= self.bounds[0, part]) & (rows < self.bounds[1, part])
                inside[inside] = self.has_action[rows[inside]]
                values = self.actions[number, rows[inside]]
                if is_relative:
                    values = values - self.states[number, self.samples[part][inside]]
                weights = None if self.weights is None else factor * self.weights[part][inside]
                if weights is None and factor != 1.0:
                    weights = np.full(len(values), factor)
                yield values, weights


def collect_actions(
    source: Source, relative: RelativeActions, offsets: IntArray, *, skips: bool
) -> CollectedActions:
    """Read the actions and states of the chosen episodes, whole: windows see more than the samples'
    own rows.

    Raises:
        OptionError: there are no such features, or they are not rows of numbers that fit.
        DamageError, FormatError, MissingError, StorageError: of an episode that cannot be read.
    """
    keys = (relative.action, relative.state)
    features = {key: source.features[key] for key in keys if key in source.features}
    if features.keys() != set(keys):
        lacking = [key for key in keys if key not in features]
        raise OptionError(
            f"relative actions: {lacking[0]!r} is not a feature; there are {list(source.features)}"
        )
    own_positions = source.episodes.position - source.first
    num_rows = int(source.dataset.index.length[own_positions].sum())
    arrays: dict[str, NDArray[np.float32]] = {}
    there = {key: np.zeros(num_rows, dtype=np.bool_) for key in keys}
    samples, bounds, weights = [], [], []
    episode_weights, start, is_whole = weights_of(source), 0, True
    num_own: int | None = None
    for place, data in read_episodes(source):
        try:
            episode = parse_rows(data, source, features)
        except PASSED_OVER:
            if not skips:
                raise
            is_whole = False
            continue
        rows = slice(start, start + episode.length)
        found = numbers_of(episode)
        for key in keys:
            values, is_there = _rows_of_numbers(key, found)
            if key not in arrays:
                arrays[key] = make_array((values.shape[1], num_rows), np.dtype(np.float32))
            if len(arrays[key]) != values.shape[1]:
                raise OptionError(f"relative actions: {key!r} is of several lengths")
            arrays[key][:, rows] = values.T
            there[key][rows] = True if is_there is None else is_there
        num_own = episode.widths.get(relative.action)
        used = start + rows_used(source, place)
        used = used[there[relative.state][used]]
        samples.append(used)
        bounds.append(np.full((2, len(used)), [[rows.start], [rows.stop]], dtype=np.int64))
        weights.append(np.full(len(used), episode_weights[place]))
        start = rows.stop
    if not arrays:
        raise OptionError("relative actions: no episode could be read")
    if len(arrays[relative.state]) < len(arrays[relative.action]):
        raise OptionError(
            f"relative actions: {relative.action!r} has {len(arrays[relative.action])} numbers, "
            f"and {relative.state!r}, which is taken away from them, has "
            f"{len(arrays[relative.state])}"
        )
    is_weighted = source.episodes.repeats is not None
    return CollectedActions(
        actions=arrays[relative.action],
        states=arrays[relative.state],
        has_action=there[relative.action],
        samples=np.concatenate(samples),
        bounds=np.concatenate(bounds, axis=1),
        weights=np.concatenate(weights) if is_weighted else None,
        offsets=offsets,
        num_samples=float((source.episodes.num_rows * episode_weights).sum()),
        is_whole=is_whole,
        num_own=len(arrays[relative.action]) if num_own is None else num_own,
    )


def relative_statistics(
    parts: Sequence[tuple[CollectedActions, float]], is_relative: Sequence[bool]
) -> FeatureStats:
    """Return the statistics of the relative actions of several datasets.

    Args:
        parts: the datasets, and how often what they have counts.
        is_relative: which numbers of the action are relative.

    Returns:
        Statistics of all actions of all windows; `count` is how many these are.

    Raises:
        OptionError: there are none.
    """

    def pieces(number: int) -> Iterator[Piece]:
        own = [(part, factor) for part, factor in parts if number < part.num_own]
        for part, factor in own or parts:  # a number that is padding has the statistics of others
            yield from part.pieces(number, is_relative[number], factor)

    size = len(parts[0][0].actions)
    count = sum(len(values) for values, _ in pieces(0))
    if not count:
        raise OptionError("relative actions: no window has an action inside of its episode")
    return stacked([describe(partial(pieces, i)) for i in range(size)], (size,), count)


def _rows_of_numbers(
    key: str, found: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return (rows, numbers) of a feature, and which rows are there."""
    if key not in found:
        raise OptionError(f"relative actions: {key!r} is not of rows of numbers of one length")
    values, is_there = found[key]
    return values.reshape(len(values), -1).astype(np.float32), is_there


def _names(spec: Spec) -> Sequence[object]:
    """Return what the numbers of a feature are called; nothing where that is not known."""
    names = spec.get("names")
    if isinstance(names, dict) and len(names) == 1:  # {"motors": [...]}, as in older datasets
        (names,) = names.values()
    return names if isinstance(names, list) else ()

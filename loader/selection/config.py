"""What a user can say of which episodes and frames are used, checked as far as that needs no
dataset.
"""

import math
import operator
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from roboshard.common.errors import OptionError
from roboshard.common.option_values import check_fields, number, whole_number
from roboshard.loader.order.repeats import MAX_WEIGHT
from roboshard.loader.selection.information import EpisodeInfo

EpisodePredicate = Callable[[EpisodeInfo], bool]
Side = Literal["train", "val"]
Split = tuple[Side, float] | tuple[Side, float, int]
"""A side of a hold-out, the fraction held out, and the seed of the split if it is not the
order's.
"""
KeepRanges = Mapping[int, Sequence[tuple[int, int]]] | str | os.PathLike[str]
EpisodeWeights = Mapping[int, float] | str


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which episodes and which of their frames are used, and how often."""

    episodes: Sequence[int] | EpisodePredicate | None = None
    """Episode indices, or what says of each episode whether it is used; None: all."""
    exclude_episodes: Sequence[int] | None = None
    """Episode indices that are not used."""
    tasks: Collection[str] | None = None
    """Only episodes with one of these tasks; None: with any."""
    split: Split | None = None
    keep_ranges: KeepRanges | None = None
    """Episode index -> (first, stop) rows used as samples, or a file of them; None: all."""
    episode_weights: EpisodeWeights | None = None
    """Episode index -> how often it comes in an epoch, or a column of the episodes' metadata; None:
    once.
    """
    drop_n_first_frames: int = 0
    drop_n_last_frames: int = 0

    def __post_init__(self) -> None:
        if not callable(self.episodes):
            _check_indices("episodes", self.episodes)
        _check_indices("exclude_episodes", self.exclude_episodes)
        if self.tasks is not None and (
            isinstance(self.tasks, str) or not all(isinstance(task, str) for task in self.tasks)
        ):
            raise OptionError(f"tasks must be a list of task texts, not {self.tasks!r:.100}")
        object.__setattr__(self, "split", _checked_split(self.split))
        if not isinstance(self.keep_ranges, Mapping | str | os.PathLike | None):
            raise OptionError(
                "keep_ranges must be a dict, episode index -> [(first, stop), ...], or the path of "
                f"a file of them, not {self.keep_ranges!r:.100}"
            )
        _check_weights(self.episode_weights)
        frames = ("drop_n_first_frames", "drop_n_last_frames")
        check_fields(self, whole_number, *frames)
        for name in frames:
            if getattr(self, name) < 0:
                raise OptionError(f"{name} must not be negative")

    @property
    def chooses(self) -> bool:
        """Whether some of the dataset's episodes are asked for."""
        asked = (self.episodes, self.exclude_episodes, self.tasks, self.split)
        return any(value is not None for value in asked)


def are_indices(values: Any) -> bool:
    """Whether these are whole numbers from 0 up."""
    try:
        return all(operator.index(value) >= 0 and not isinstance(value, bool) for value in values)
    except TypeError:
        return False


def _check_indices(name: str, values: object) -> None:
    if values is not None and not are_indices(values):
        also = "; or a function that is told of an episode" if name == "episodes" else ""
        raise OptionError(
            f"{name} must be a list of episode indices, as in [0, 1, 5] or range(10), not "
            f"{values!r:.100}{also}"
        )


def _checked_split(split: Any) -> Split | None:
    """Return a split with plain numbers. Raises OptionError for what is none."""
    if split is None:
        return None
    given = tuple(split) if isinstance(split, tuple | list) else ()
    try:
        side, fraction, *seeds = given
        fraction = number("split", fraction)
        seeds = [whole_number("split", seed) for seed in seeds]
        is_split = (
            side in ("train", "val")
            and 0 < fraction < 1
            and len(seeds) <= 1
            and all(0 <= seed < 1 << 63 for seed in seeds)
        )
    except ValueError:  # too few values, or what is no number
        is_split = False
    if not is_split:
        raise OptionError(
            'split must be ("train", 0.02) or ("val", 0.02): a side, and the fraction of episodes '
            "held out, more than 0 and less than 1; a seed may follow, as in "
            f'("val", 0.02, 7); not {split!r:.100}'
        )
    return (side, fraction, seeds[0]) if seeds else (side, fraction)


def _check_weights(weights: object) -> None:
    if weights is None or isinstance(weights, str):
        return
    if not isinstance(weights, Mapping):
        raise OptionError(
            "episode_weights must be a dict, episode index -> weight, or the name of a column of "
            f"the episodes' metadata, not {weights!r:.100}"
        )
    if not are_indices(weights):
        raise OptionError(
            f"episode_weights must have episode indices as keys, not {weights!r:.100}"
        )
    for index, weight in weights.items():
        check_weight(weight, f"episode_weights[{index!r:.40}]")


def check_weight(weight: object, what: str) -> None:
    """Raise OptionError for what is no weight of an episode."""
    found = math.nan
    with suppress(OptionError):
        found = number(what, weight)
    if not 0 <= found <= MAX_WEIGHT:  # NaN is not
        raise OptionError(
            f"{what} is {weight!r:.40}: a weight says how often an episode comes in an epoch, a "
            f"number from 0 (never) to {MAX_WEIGHT}"
        )

"""From a selection to the episodes of a loader, stage by stage.

indices, exclusion, tasks, hold-out    from the index alone         here, split.py
a predicate                            called for what is left      information.py
ranges, dropped frames                 which rows are used          ranges.py
weights                                how often they come          weights.py
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from roboshard.common.caller import warn_caller
from roboshard.common.errors import OptionError
from roboshard.common.selection import check_tasks
from roboshard.loader.order.episodes import Episodes, KeptRanges
from roboshard.loader.order.repeats import make_repeats
from roboshard.loader.selection.config import EpisodePredicate, KeepRanges, SelectionConfig
from roboshard.loader.selection.information import EpisodeMetadata
from roboshard.loader.selection.ranges import NamedRanges, check_bounds, read_ranges
from roboshard.loader.selection.split import held_out
from roboshard.loader.selection.weights import weights_of
from roboshard.shards.episode_tasks import read_episode_tasks
from roboshard.shards.reader import ShardedDataset

IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]


def select(dataset: ShardedDataset, selection: SelectionConfig, seed: int) -> Episodes:
    """Return the chosen episodes with their usable rows; those that have none are left out with a
    warning.

    Args:
        dataset: where to choose.
        selection: what to choose.
        seed: of the order, from which weights and hold-out draw.

    Raises:
        OptionError: a choice that the dataset does not have, or that leaves nothing.
        FormatError, DamageError, MissingError, StorageError: metadata or a file of ranges that
            cannot be read.
    """
    index = dataset.index
    keep = _chosen(dataset, selection, seed)
    whole = Episodes(
        position=np.arange(len(index), dtype=np.int64),
        first_row=np.full(len(index), selection.drop_n_first_frames, dtype=np.int64),
        num_rows=index.length - selection.drop_n_first_frames - selection.drop_n_last_frames,
        storage_rank=_storage_rank(dataset),
        shard=index.shard,
    )
    kept, is_emptied = _with_ranges(whole, dataset, selection)
    vanished = index.episode_index[keep & (kept.num_rows < 1) & ~is_emptied]
    if vanished.size:
        ranges = "" if selection.keep_ranges is None else " in keep_ranges"
        warn_caller(
            f"{vanished.size} episodes have no frame left{ranges} after drop_n_first_frames="
            f"{selection.drop_n_first_frames} and "
            f"drop_n_last_frames={selection.drop_n_last_frames}, among them "
            f"{vanished[:5].tolist()}",
        )
    keep &= kept.num_rows >= 1
    weights = None
    if selection.episode_weights is not None and np.any(keep):
        _check_known("episode_weights", selection.episode_weights, dataset)
        weights = weights_of(selection.episode_weights, dataset, np.flatnonzero(keep))
        keep[keep] = weights > 0
        weights = weights[weights > 0]
    if not np.any(keep):
        raise OptionError(
            "no frame is left: the choice of episodes and dropped frames leaves nothing to load "
            f"of {len(index)} episodes: {_in_words(selection)}"
        )
    chosen = kept.take(np.flatnonzero(keep))
    return chosen if weights is None else replace(chosen, repeats=make_repeats(weights, seed))


def _storage_rank(dataset: ShardedDataset) -> IntArray:
    index = dataset.index
    rank = np.empty(len(index), dtype=np.int64)
    rank[np.lexsort((index.offset, index.shard))] = np.arange(len(index))
    return rank


# -- Episodes --------------------------------------------------------------------------------------


def _chosen(dataset: ShardedDataset, selection: SelectionConfig, seed: int) -> Mask:
    """Return whether each episode is chosen; a predicate is asked last, of what is left."""
    index = dataset.index.episode_index
    keep = np.ones(len(index), dtype=np.bool_)
    if selection.episodes is not None and not callable(selection.episodes):
        keep &= _named("episodes", selection.episodes, index)
    if selection.exclude_episodes is not None:
        keep &= ~_named("exclude_episodes", selection.exclude_episodes, index)
    if selection.tasks is not None:
        keep &= _with_tasks(dataset, selection.tasks)
    if selection.split is not None:
        side, fraction, *own_seed = selection.split
        held = held_out(index, fraction, own_seed[0] if own_seed else seed)
        keep &= held if side == "val" else ~held
    if callable(selection.episodes):
        found = _asked(selection.episodes, EpisodeMetadata(dataset, np.flatnonzero(keep)))
        keep[keep] = found
    return keep


def _named(option: str, given: Sequence[int], index: IntArray) -> Mask:
    wanted = np.unique(np.asarray(given, dtype=np.int64))
    unknown = np.setdiff1d(wanted, index)
    if unknown.size:
        raise OptionError(
            f"{option}: {unknown[:5].tolist()} are not in the dataset (or not in the chosen shards)"
        )
    return np.isin(index, wanted)


def _with_tasks(dataset: ShardedDataset, wanted: Collection[str]) -> Mask:
    tasks = read_episode_tasks(dataset)
    check_tasks(wanted, tasks.texts)
    return tasks.have_one_of(frozenset(wanted))


def _asked(predicate: EpisodePredicate, episodes: EpisodeMetadata) -> list[bool]:
    found = []
    for episode in episodes:
        answer = predicate(episode)
        if not isinstance(answer, bool | np.bool_):
            raise OptionError(
                f"episodes: the function returned {answer!r:.100} for episode "
                f"{episode.episode_index}: it must return True or False"
            )
        found.append(bool(answer))
    return found


# -- Frames ----------------------------------------------------------------------------------------


def _with_ranges(
    whole: Episodes, dataset: ShardedDataset, selection: SelectionConfig
) -> tuple[Episodes, Mask]:
    """Return the episodes with the rows that ranges leave of them, and which are named and have no
    range.
    """
    is_emptied = np.zeros(len(whole), dtype=np.bool_)
    if selection.keep_ranges is None:
        return whole, is_emptied
    index = dataset.index
    ranges = _ranges_here(selection.keep_ranges, dataset)
    place = np.searchsorted(index.episode_index, ranges.episode_index)
    is_named = np.isin(index.episode_index, ranges.named)
    is_emptied[is_named] = True
    is_emptied[place] = False
    # An episode that is not named is one range; then all ranges are by episode and row again.
    others = np.flatnonzero(~is_named)
    episode = np.r_[place, others]
    order = np.argsort(episode, kind="stable")
    episode = episode[order]
    first = np.r_[ranges.first, np.zeros(len(others), dtype=np.int64)][order]
    stop = np.r_[ranges.stop, index.length[others]][order]
    # Dropped frames are no part of any range.
    first = np.maximum(first, selection.drop_n_first_frames)
    stop = np.minimum(stop, index.length[episode] - selection.drop_n_last_frames)
    has_rows = stop > first
    return _of_ranges(whole, episode[has_rows], first[has_rows], stop[has_rows]), is_emptied


def _ranges_here(given: KeepRanges, dataset: ShardedDataset) -> NamedRanges:
    """Read ranges, and leave out those of episodes that are in other shards than the chosen
    ones.
    """
    ranges = read_ranges(given, dataset.settings)
    known = _known("keep_ranges", ranges.named, dataset)
    is_here = np.isin(ranges.episode_index, known)
    ranges = NamedRanges(
        named=known,
        episode_index=ranges.episode_index[is_here],
        first=ranges.first[is_here],
        stop=ranges.stop[is_here],
    )
    check_bounds(ranges, dataset.index.episode_index, dataset.index.length)
    return ranges


def _of_ranges(whole: Episodes, episode: IntArray, first: IntArray, stop: IntArray) -> Episodes:
    """Return the episodes with the rows of these ranges alone, which are in order of episode and
    row.
    """
    count = stop - first
    num_rows = np.bincount(episode, count, minlength=len(whole)).astype(np.int64)
    first_row = np.zeros(len(whole), dtype=np.int64)
    first_row[episode[::-1]] = first[::-1]  # the first range of an episode is written last
    kept = KeptRanges(
        first_row=first,
        start=np.cumsum(count) - count,
        episode_start=np.cumsum(num_rows) - num_rows,
    )
    return replace(whole, first_row=first_row, num_rows=num_rows, kept=kept)


def _check_known(option: str, given: object, dataset: ShardedDataset) -> None:
    """Raise OptionError where a dict names episodes that there are not."""
    if isinstance(given, Mapping):
        _known(option, np.unique(np.asarray([*given], dtype=np.int64)), dataset)


def _known(option: str, named: IntArray, dataset: ShardedDataset) -> IntArray:
    """Return which of these episodes are in the index.

    Of a dataset that is opened by some of its shards others may be named. Raises OptionError for
    those that are in none.
    """
    index = dataset.index.episode_index
    unknown = np.setdiff1d(named, index)
    if unknown.size and len(index) == dataset.manifest.total_episodes:
        raise OptionError(
            f"{option}: episodes {unknown[:5].tolist()} are not in the dataset, which has "
            f"{len(index)}" + (f", from {index[0]} to {index[-1]}" if len(index) else "")
        )
    return np.setdiff1d(named, unknown)


def _in_words(selection: SelectionConfig) -> str:
    """Return what was asked for, in short."""
    values = {name: getattr(selection, name) for name in SelectionConfig.__dataclass_fields__}
    asked = {name: value for name, value in values.items() if not isinstance(value, int | None)}
    asked |= {name: value for name, value in values.items() if isinstance(value, int) and value}
    words = [f"{name}={value!r:.60}" for name, value in asked.items()]
    if selection.split is not None and selection.split[0] == "val":
        words.append("of few episodes a small fraction may hold out none: take a larger one")
    return ", ".join(words) or "all of them"

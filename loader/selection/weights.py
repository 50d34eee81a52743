"""How often episodes come in an epoch, as users say it: by a dict, or by a column of the episodes'
metadata.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import OptionError
from roboshard.loader.order.repeats import MAX_DENOMINATOR, fractions
from roboshard.loader.selection.config import EpisodeWeights, check_weight
from roboshard.loader.selection.information import EpisodeInfo, EpisodeMetadata
from roboshard.shards.reader import ShardedDataset


def weights_of(
    given: EpisodeWeights, dataset: ShardedDataset, positions: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the weights of episodes at positions of a dataset's index; those that a dict lacks
    have 1.

    Raises:
        OptionError: what is no weight, or less than can come, or no column of that name; with the
            episode.
        DamageError, FormatError, MissingError, StorageError: metadata that cannot be read.
    """
    index = dataset.index.episode_index[positions]
    if isinstance(given, Mapping):
        weights = np.ones(len(positions), dtype=np.float64)
        if given:
            named = np.asarray([*given], dtype=np.int64)
            values = np.asarray([*given.values()], dtype=np.float64)
            order = np.argsort(named)
            place = np.searchsorted(named[order], index).clip(max=len(named) - 1)
            is_named = named[order][place] == index
            weights[is_named] = values[order][place[is_named]]
    else:
        weights = np.asarray(
            [_of_column(given, episode) for episode in EpisodeMetadata(dataset, positions)],
            dtype=np.float64,
        )
    numerator, _ = fractions(weights)
    too_small = np.flatnonzero((numerator == 0) & (weights > 0))
    if too_small.size:
        raise OptionError(
            f"episode_weights: {weights[too_small[0]]} of episode {index[too_small[0]]} is less "
            f"than once in {MAX_DENOMINATOR} epochs: give it 0, which leaves it out"
        )
    return weights


def _of_column(column: str, episode: EpisodeInfo) -> float:
    value = episode[column]
    if isinstance(value, list) and len(value) == 1:  # as LeRobot keeps numbers of shape (1,)
        value = value[0]
    check_weight(value, f"episode_weights: column {column!r} of episode {episode.episode_index}")
    return float(value)

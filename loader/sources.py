"""The datasets of a loader: one, or those of a mixture under one numbering of episodes."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import SimpleNamespace

import numpy as np

from roboshard.common.errors import RoboshardError
from roboshard.loader.episodes.parsed import PLAIN, Membership
from roboshard.loader.order.episodes import Episodes
from roboshard.shards.features import Features
from roboshard.shards.fetch import OnRead, ignore
from roboshard.shards.reader import EpisodeData, ShardedDataset


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset, and what is loaded of it."""

    dataset: ShardedDataset
    episodes: Episodes
    """The episodes that are loaded, whose positions count from `first`."""
    features: Features
    """Features that are loaded, by key in samples, as the dataset has them."""
    tasks: Sequence[str | None]
    first: int = 0
    """Position of the dataset's first episode among those of all datasets."""
    membership: Membership = PLAIN
    is_chosen: bool = False
    """Whether some of the dataset's episodes were asked for."""

    def own_cameras(self, keys: Sequence[str]) -> list[str]:
        """Return the dataset's own keys of those of some cameras that it has."""
        return [self.membership.own_key(key) for key in keys if key in self.features]


class ConcatDataset:
    """Several datasets that are read as `ShardedDataset` is, under one numbering. Picklable."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._first = [source.first for source in sources]
        datasets = [source.dataset for source in sources]
        shards = [len(dataset.manifest.shards) for dataset in datasets]
        first_shard = np.concatenate([[0], np.cumsum(shards)]).astype(np.int64)
        indices = [dataset.index for dataset in datasets]
        self.index = SimpleNamespace(
            size=np.concatenate([index.size for index in indices]),
            offset=np.concatenate([index.offset for index in indices]),
            shard=np.concatenate([index.shard + first_shard[i] for i, index in enumerate(indices)]),
        )

    def read_episodes(
        self,
        positions: Sequence[int],
        cameras: Sequence[str] | None = None,
        on_read: OnRead = ignore,
    ) -> Iterator[EpisodeData | RoboshardError]:
        """Read episodes as `ShardedDataset` does; cameras that a dataset lacks are not asked of
        it.
        """
        for number, own in groupby(positions, lambda position: bisect_right(self._first, position)):
            source = self._sources[number - 1]
            known = None if cameras is None else source.own_cameras(cameras)
            yield from source.dataset.read_episodes(
                [position - source.first for position in own], known, on_read
            )

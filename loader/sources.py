"""The datasets of a loader side by side: one, or those of a mixture, under one numbering of episodes."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np

from roboshard.loader.episodes.episode import PLAIN, Membership
from roboshard.loader.order.plan import Episodes
from roboshard.shards.features import Features
from roboshard.shards.fetch import OnRead, ShardReads, ignore
from roboshard.shards.reader import EpisodeData, ShardedDataset
from roboshard.shards.sample import SampleRead


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset, and what is loaded of it."""

    dataset: ShardedDataset
    episodes: Episodes
    """Their positions count from `first`."""
    features: Features
    """What is loaded."""
    tasks: Sequence[str]
    first: int = 0
    """Position of its first episode among those of all datasets."""
    membership: Membership = PLAIN


class SideBySide:
    """Reads episodes of several datasets as `ShardedDataset` does of one. Picklable like it."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._datasets = [source.dataset for source in sources]
        self._first = [source.first for source in sources]
        shards = [len(dataset.manifest.shards) for dataset in self._datasets]
        self._first_shard = np.concatenate([[0], np.cumsum(shards)]).astype(np.int64)
        indices = [dataset.index for dataset in self._datasets]
        self.index = SimpleNamespace(
            size=np.concatenate([index.size for index in indices]),
            offset=np.concatenate([index.offset for index in indices]),
            shard=np.concatenate(
                [index.shard + self._first_shard[i] for i, index in enumerate(indices)]
            ),
        )

    def plan_read(self, position: int, cameras: Sequence[str] | None = None) -> SampleRead:
        """See `ShardedDataset`; cameras that the episode's dataset lacks are none of it."""
        number = bisect_right(self._first, position) - 1
        dataset = self._datasets[number]
        known = None if cameras is None else [key for key in cameras if key in dataset.camera_keys]
        read = dataset.plan_read(position - self._first[number], known)
        return replace(read, shard=read.shard + int(self._first_shard[number]))

    def shard_reads(
        self, shard: int, reads: Sequence[SampleRead], on_read: OnRead = ignore
    ) -> ShardReads:
        """See `ShardedDataset`."""
        number = self._of_shard(shard)
        return self._datasets[number].shard_reads(
            shard - int(self._first_shard[number]), reads, on_read
        )

    def carry_out(self, read: SampleRead, source: ShardReads) -> EpisodeData:
        """See `ShardedDataset`."""
        return self._datasets[self._of_shard(read.shard)].carry_out(read, source)

    def _of_shard(self, shard: int) -> int:
        return int(np.searchsorted(self._first_shard, shard, side="right")) - 1

"""A dataset of a mixture, and what of it is loaded."""

from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY, dataclass

from roboshard.loader.selection.config import (
    EpisodePredicate,
    EpisodeWeights,
    KeepRanges,
    SelectionConfig,
    Split,
)
from roboshard.shards.locate import Urls
from roboshard.shards.snapshots import SnapshotName

OF_ONE_DATASET = ("exclude_episodes", "tasks", "keep_ranges")
"""Options that name what one dataset has: a mixture has them for each of its parts alone."""


@dataclass(frozen=True)
class Part:
    """A dataset of a mixture: `make_loader([Part("a", 0.7, split=("train", 0.02)), ("b", 0.3)])`.

    A plain pair (urls, weight) is a part of which all is loaded. What `make_loader` says of all parts holds where
    the part says nothing.
    """

    urls: Urls
    """The dataset's root, one shard, a brace pattern, or a list of shards."""
    weight: float
    """Its share of the samples, in proportion to the weights of the others."""
    _: KW_ONLY
    episodes: Sequence[int] | EpisodePredicate | None = None
    """Which episodes are loaded, as `make_loader` has it; so are the options below."""
    exclude_episodes: Sequence[int] | None = None
    tasks: Collection[str] | None = None
    split: Split | None = None
    keep_ranges: KeepRanges | None = None
    episode_weights: EpisodeWeights | None = None
    snapshot: SnapshotName | None = None
    """What the dataset was before it grew: its number or fingerprint."""

    def selection(self, of_all: SelectionConfig) -> SelectionConfig:
        """Return what is chosen of this part, where `of_all` is what is said of all parts."""
        names = set(SelectionConfig.__dataclass_fields__)
        own = {name: getattr(self, name, None) for name in names}
        return SelectionConfig(
            **{
                name: getattr(of_all, name) if value is None else value
                for name, value in own.items()
            }
        )

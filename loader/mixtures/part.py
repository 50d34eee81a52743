"""A dataset of a mixture, and what of it is loaded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from roboshard.common.errors import OptionError
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
BY_FRAMES: Literal["frames"] = "frames"
Weight = float | Literal["frames"]
Rename = Mapping[str, str | None]


@dataclass(frozen=True)
class Part:
    """A dataset of a mixture: `make_loader([Part("a", 0.7, split=("train", 0.02)), ("b", 0.3)])`.

    A plain pair (urls, weight) is a part of which all is loaded. What `make_loader` says of all
    parts holds where the part says nothing.
    """

    urls: Urls
    """The dataset's root, one shard, a brace pattern, or a list of shards."""
    weight: Weight
    """The part's share of the samples, in proportion to the weights of the others; "frames", which
    all parts must then have: in proportion to its frames that are samples.
    """
    _: KW_ONLY
    episodes: Sequence[int] | EpisodePredicate | None = None
    """Indices of the part's episodes to use, or a function of `EpisodeInfo` that says whether one
    is used; None: all.
    """
    exclude_episodes: Sequence[int] | None = None
    """Indices of the part's episodes that are not used."""
    tasks: Collection[str] | None = None
    """Texts: only episodes with one of these tasks are used; None: with any."""
    split: Split | None = None
    """("train", 0.02) or ("val", 0.02): that side of a hold-out of this fraction of the part's
    episodes, drawn by the loader's `seed`, or by a seed of its own as in ("val", 0.02, 7).
    """
    keep_ranges: KeepRanges | None = None
    """Episode index -> [(first, stop), ...], the frames used as samples, stop not included; or the
    path of a JSON or parquet file of them. Episodes that are not named are used whole.
    """
    episode_weights: EpisodeWeights | None = None
    """Episode index -> how often it comes in an epoch of the part, or the name of a column of the
    source's meta/episodes that says it; None: each once.
    """
    rename: Rename | None = None
    """Feature key of the dataset -> its key in samples, and in all other options; None leaves the
    feature out.
    """
    delta_timestamps: Mapping[str, Sequence[float]] | None = None
    """Windows that are this part's own, by key in samples: where fps differ, other seconds make as
    many frames. Those of `make_loader` hold for keys that are not named here. All parts have
    windows of equal length."""
    snapshot: SnapshotName | None = None
    """What the dataset was before it grew: its number or fingerprint."""

    def __post_init__(self) -> None:
        if not (self.rename is None or _are_names(self.rename)):
            raise OptionError(
                'rename must be a dict such as {"observation.image": "observation.images.top"}, '
                f"or with None in the place of a key that is left out, not {self.rename!r:.200}"
            )
        if not isinstance(self.delta_timestamps, Mapping | None):
            raise OptionError(
                "delta_timestamps of a Part must be a dict of windows in seconds, not "
                f"{self.delta_timestamps!r:.100}"
            )

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

    def windows(self, of_all: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
        """Return the windows of this part, where `of_all` are those that all parts have."""
        return {**of_all, **(self.delta_timestamps or {})}


def _are_names(rename: Any) -> bool:
    return isinstance(rename, Mapping) and all(
        isinstance(own, str) and (name is None or (isinstance(name, str) and name != ""))
        for own, name in rename.items()
    )

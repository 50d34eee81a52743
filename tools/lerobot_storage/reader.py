"""The reading side: samples of shards as `LeRobotDataset` asks its storage format for them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common.errors import OptionError
from roboshard.common.selection import some
from roboshard.loader import open_dataset
from roboshard.shards.features import is_depth
from roboshard.shards.manifest import load_dataset_manifest
from roboshard.shards.names import DATASET_MANIFEST
from roboshard.tools.lerobot_storage.meta_folder import snapshot_of

log = logging.getLogger(__name__)

REMEDY = "`roboshard lerobot-meta` writes it anew"
Sample = dict[str, Any]


class ShardReader:
    """Samples by number, equal to those of LeRobot's own reader; for `DataLoader` workers too.

    Numbers count the rows of the chosen episodes, ascending by episode. Where the episodes of the
    shards are not numbered from 0 without gaps, they are here: LeRobot knows no other way.
    """

    def __init__(  # noqa: PLR0913 - the names that LeRobot passes
        self,
        *,
        meta: Any,
        root: str | Path | None = None,
        episodes: Sequence[int] | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        image_transforms: Callable[[Any], Any] | None = None,
        tolerance_s: float = 1e-4,
        revision: str | None = None,
        return_uint8: bool = False,
        depth_output_unit: str = "mm",
        token: str | bool | None = None,
        video_backend: str | None = None,  # noqa: ARG002 - of LeRobot's decoders
    ) -> None:
        """Open the snapshot of the dataset that `meta` was made of.

        Args:
            meta: LeRobot's metadata of the dataset.
            root: folder or URL of the shards; None: where `meta` lies, or the Hub's repository.
            episodes: which ones, by their place in `meta`; None: all. What there is not is left
                out, as LeRobot does.
            delta_timestamps: windows, key -> seconds.
            image_transforms: applied to color cameras, key by key.
            tolerance_s: largest distance in seconds between a row and its frame.
            revision: of a dataset of the Hub.
            return_uint8: whether color video comes as uint8 instead of float32 in 0..1.
            depth_output_unit: "mm".
            token: None, or True; another one cannot be passed on.
            video_backend: without effect: frames are decoded as a loader decodes them.

        Raises:
            OptionError: an option that cannot be used, or metadata of another dataset.
            MissingError, FormatError, VersionError, DamageError, StorageError: no usable dataset.
        """
        check_token(token)
        if depth_output_unit != "mm":
            raise OptionError(
                f"depth_output_unit={depth_output_unit!r}: depth comes in millimetres: 'mm'"
            )
        self._url = url_of(meta, root, revision)
        self._options: dict[str, Any] = {
            "delta_timestamps": delta_timestamps,
            "tolerance_s": tolerance_s,
            "return_uint8": return_uint8,
            "snapshot": snapshot_of(Path(meta.root)),
        }
        self._dataset = open_dataset(self._url, **self._options)
        manifest = self._dataset.meta.manifest
        self._check(meta.total_episodes, meta.total_frames)
        self._tell_of_growth(manifest.fingerprint)
        source = np.asarray(self._dataset.meta.episodes.episode_index)
        self._starts = np.concatenate([[0], np.cumsum(self._dataset.meta.episodes.num_samples)])
        self.episodes = self._resolved(episodes, len(source))
        """The chosen episodes, in the order in which they were named; None: all."""
        self._has_gaps = not np.array_equal(source, np.arange(len(source)))
        if self.episodes is not None:
            chosen = source[sorted(self.episodes)].tolist()
            self._dataset = open_dataset(self._url, episodes=chosen, **self._options)
        self._colours = [
            key for key in self._dataset.meta.camera_keys if not is_depth(manifest.features[key])
        ]
        self._steps = {
            key: [round(second * self._dataset.meta.fps) for second in seconds]
            for key, seconds in (delta_timestamps or {}).items()
        }
        self._image_transforms = image_transforms

    @property
    def num_frames(self) -> int:
        """How many samples there are: the rows of the chosen episodes."""
        return len(self._dataset)

    @property
    def num_episodes(self) -> int:
        """How many episodes were chosen."""
        return self._dataset.num_episodes

    @property
    def absolute_to_relative_idx(self) -> dict[int, int] | None:
        """Number of a row in the whole dataset -> number of its sample; None: they are the same."""
        if self.episodes is None:
            return None
        return {row: number for number, row in enumerate(self._rows.tolist())}

    def __len__(self) -> int:
        """Return how many samples there are: the rows of the chosen episodes."""
        return self.num_frames

    def get_item(self, idx: int) -> Sample:
        """Return the sample with this number."""
        return self.get_items([idx])[0]

    def get_items(self, indices: Sequence[int]) -> list[Sample]:
        """Return several samples, whose rows and frames are read together."""
        samples = self._dataset.__getitems__(indices)
        if self._has_gaps:
            for number, sample in zip(indices, samples, strict=True):
                self._number_anew(sample, int(self._rows[number]))
        if self._image_transforms is not None:
            for sample in samples:
                for key in self._colours:
                    sample[key] = self._image_transforms(sample[key])
        return samples

    def set_image_transforms(self, image_transforms: Callable[[Any], Any] | None) -> None:
        """Replace what is applied to color cameras; None: nothing is."""
        if image_transforms is not None and not callable(image_transforms):
            raise TypeError("image_transforms must be callable or None")
        self._image_transforms = image_transforms

    def clear_image_transforms(self) -> None:
        """Apply nothing to cameras from now on."""
        self._image_transforms = None

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """The row of each sample in the whole dataset (num_frames,) int64."""
        if self.episodes is None:
            return np.arange(len(self), dtype=np.int64)
        spans = [self._starts[episode : episode + 2] for episode in sorted(self.episodes)]
        return np.concatenate([np.arange(*span, dtype=np.int64) for span in spans])

    def _number_anew(self, sample: Sample, row: int) -> None:
        """Let a sample count rows and episodes as LeRobot's metadata does."""
        episode = int(np.searchsorted(self._starts, row, side="right")) - 1
        first, last = int(self._starts[episode]), int(self._starts[episode + 1]) - 1
        for key, number, least, most in (
            ("episode_index", episode, episode, episode),
            ("index", row, first, last),
        ):
            if key in sample:
                steps = torch.tensor(self._steps.get(key, 0), dtype=sample[key].dtype)
                sample[key] = (steps + number).clamp(least, most)

    def _resolved(self, episodes: Sequence[int] | None, count: int) -> list[int] | None:
        if episodes is None:
            return None
        unknown = [episode for episode in episodes if not 0 <= episode < count]
        if unknown:
            log.warning(
                "%s has episodes 0 to %d: %s are left out",
                storage.redacted(self._url),
                count - 1,
                some(unknown, 10),
            )
        return list(dict.fromkeys(int(each) for each in episodes if 0 <= each < count))

    def _check(self, episodes: int, frames: int) -> None:
        found = (self._dataset.num_episodes, len(self._dataset))
        if found != (episodes, frames):
            raise OptionError(
                f"{storage.redacted(self._url)}: meta/ says {episodes} episodes and {frames} "
                f"frames, and the shards have {found[0]} and {found[1]}: it is not theirs. {REMEDY}"
            )

    def _tell_of_growth(self, fingerprint: str) -> None:
        newest = load_dataset_manifest(self._url)
        if newest.fingerprint != fingerprint:
            log.warning(
                "%s has %d episodes by now: these are the %d of when meta/ was written; %s",
                storage.redacted(self._url),
                newest.total_episodes,
                self._dataset.num_episodes,
                REMEDY,
            )


def url_of(meta: Any, root: str | Path | None, revision: str | None) -> str:
    """Return where the shards are that LeRobot's metadata is of.

    Args:
        meta: the metadata.
        root: what LeRobot was given.
        revision: of a dataset of the Hub.

    Raises:
        OptionError: a revision of what has none.
    """
    if root is not None:
        return with_revision(str(root), revision)
    if (Path(meta.root) / DATASET_MANIFEST).exists():
        return str(meta.root)
    return with_revision(f"hf://datasets/{meta.repo_id}", revision or meta.revision)


def with_revision(url: str, revision: str | None) -> str:
    """Return a URL of the Hub's with a revision in it; other URLs have none.

    Raises:
        OptionError: there is a revision, and the URL takes none.
    """
    if revision is None or not url.startswith("hf://datasets/") or "@" in url:
        return url
    owner, name, *path = url.removeprefix("hf://datasets/").split("/")
    return "/".join([f"hf://datasets/{owner}/{name}@{revision.replace('/', '%2F')}", *path])


def check_token(token: str | bool | None) -> None:
    """Refuse what cannot be passed on to where shards are read.

    Raises:
        OptionError: a token, or none at all.
    """
    if token not in (None, True):
        raise OptionError(
            "token: shards are read with the token of `hf auth login`, or of HF_TOKEN; leave it out"
        )

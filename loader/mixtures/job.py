"""From a mixture as users write it, `[(urls, weight), ...]`, to what there is to load of each
dataset.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeGuard

import numpy as np

from roboshard import storage
from roboshard.common.errors import OptionError
from roboshard.loader.config import LoaderConfig, SampleConfig
from roboshard.loader.episodes.parsed import Membership
from roboshard.loader.job import (
    LoadJob,
    check_depth,
    check_features,
    check_windows,
    chosen_cameras,
    missing_of,
    open_shards,
    source_of,
)
from roboshard.loader.meta import DatasetMeta, MixtureMeta, manifest_of_samples, merged_manifest
from roboshard.loader.missing import choose_features
from roboshard.loader.mixtures.agreement import agreed_features, agreed_windows, loaded_features
from roboshard.loader.mixtures.naming import sample_keys, under
from roboshard.loader.mixtures.opening import carried_out
from roboshard.loader.mixtures.padding import check_padding
from roboshard.loader.mixtures.part import BY_FRAMES, OF_ONE_DATASET, Part, Weight
from roboshard.loader.order.own_epochs import OwnEpochs
from roboshard.loader.order.schedule import MAX_PERIOD, Schedule, shares
from roboshard.loader.selection.config import SelectionConfig
from roboshard.loader.sources import Source
from roboshard.shards.features import Features
from roboshard.shards.locate import Urls
from roboshard.shards.snapshots import SnapshotName

Mixture = Sequence[Part | tuple[Urls, Weight]]
"""Datasets and their weights, which need not add up to 1."""


def is_mixture(urls: Urls | Mixture) -> TypeGuard[Mixture]:
    """Whether these are datasets with weights, not the URLs of one."""
    if isinstance(urls, Part):
        raise OptionError(
            "a Part is one of a mixture: give a list of them, [Part(urls, weight), ...]"
        )
    return not isinstance(urls, str) and isinstance(urls, Sequence) and any(map(_is_weighted, urls))


def make_mixture_job(
    mixture: Mixture, config: LoaderConfig, snapshots: Sequence[SnapshotName | None] | None = None
) -> LoadJob:
    """Open the datasets and hold the configuration, and them, against each other.

    Args:
        mixture: the datasets and their weights.
        config: what is said of all of them.
        snapshots: the snapshot of each dataset, instead of the one that its part names.

    Raises:
        OptionError: weights, options or datasets that do not go together, with what to do.
        MissingError, FormatError, VersionError, DamageError, StorageError: a dataset that is not
            usable.
    """
    members = mixture_parts(mixture)
    if snapshots is not None:
        members = [
            replace(member, snapshot=snapshot)
            for member, snapshot in zip(members, snapshots, strict=True)
        ]
    weights = [member.weight for member in members]
    is_by_frames = BY_FRAMES in weights
    if not is_by_frames:  # before anything is opened
        _shares(weights)
    _check_selection(config.selection)
    parts = _opened(members, config)
    sample = config.sample
    check_padding(sample.pad_to, {key for part in parts for key in part.meta.features})
    where = [part.where for part in parts]
    agreed = agreed_features([part.features for part in parts], where, sample)
    for part in parts:
        stored = {key: spec for key, spec in part.stored.items() if key in agreed}
        check_depth(stored, f"{part.where}: ")
    shared_out = _shares(_frames(weights, parts) if is_by_frames else weights)
    metas = [part.meta for part in parts]
    in_rows = {key: agreed[key] for key in agreed if key != "task"}
    meta = MixtureMeta(merged_manifest(metas, in_rows), metas)
    cameras = chosen_cameras(meta, sample)
    windows = [member.windows(sample.delta_timestamps) for member in members]
    check_windows(meta, dict.fromkeys(key for own in windows for key in own), cameras)
    return LoadJob(
        sources=_sources(parts, agreed, sample.pad_to),
        config=replace(config, selection=SelectionConfig()),  # the sources have what it says
        offsets=agreed_windows(
            windows, [part.features for part in parts], metas, where, sample.tolerance_s
        ),
        cameras=cameras,
        image_keys=meta.image_keys,
        meta=meta,
        schedule=Schedule(shared_out),
    )


@dataclass(frozen=True, kw_only=True)
class _OpenPart:
    """A part whose dataset is open."""

    where: str
    """What the dataset is called in errors."""
    source: Source
    """The dataset as it is, before its features are padded."""
    keys: Mapping[str, str]
    """The dataset's own key -> key in samples."""
    lacking: Mapping[str, int]
    """Feature key -> rows without a value."""
    meta: DatasetMeta
    """Metadata of the dataset, with features as samples have them."""
    stored: Features
    """Features that are loaded of the dataset, by key in samples, not padded."""
    features: Features
    """Features of the dataset under their keys in samples, padded."""


def _is_weighted(entry: Any) -> bool:
    return isinstance(entry, Part) or (
        isinstance(entry, Sequence)
        and not isinstance(entry, str)
        and len(entry) == 2
        and (isinstance(entry[1], int | float) or entry[1] == BY_FRAMES)
    )


def mixture_parts(mixture: Mixture) -> list[Part]:
    """Return the parts of a mixture. Raises OptionError where one is none."""
    if not all(map(_is_weighted, mixture)):
        raise OptionError(
            "a mixture is a list of pairs (urls, weight), each with a weight that is a number, or "
            "of Parts"
        )
    return [entry if isinstance(entry, Part) else Part(*entry) for entry in mixture]


def _frames(given: Sequence[Weight], parts: Sequence[_OpenPart]) -> list[int]:
    """Return how many frames of each part are samples.

    Raises OptionError where some parts have numbers.
    """
    frames = [OwnEpochs(part.source.episodes).average for part in parts]
    if not all(weight == BY_FRAMES for weight in given):
        raise OptionError(
            f'weight="frames" is for all parts of a mixture or for none, not {given!r:.200}: '
            f"their datasets have {frames} frames that are samples, which can be given as numbers"
        )
    return frames


def _shares(given: Sequence[Weight]) -> tuple[int, ...]:
    """Return each dataset's places in a period. Raises OptionError for weights that are none."""
    if not all(isinstance(weight, int | float) for weight in given):
        raise OptionError(
            f'the weights of a mixture must be numbers, or all "frames", not {given!r:.200}'
        )
    weights = [float(weight) for weight in given]
    if not all(0 < weight < float("inf") for weight in weights):  # NaN is not
        raise OptionError(f"the weights of a mixture must be numbers greater than 0, not {weights}")
    parts = shares(weights)
    if min(parts) < 1:
        raise OptionError(
            f"weights {weights}: one is less than 1/{MAX_PERIOD} of all, which is never drawn; "
            "leave it out"
        )
    return parts


def _check_selection(of_all: SelectionConfig) -> None:
    """Raise OptionError for what is said of all parts, and names what one dataset has."""
    given = [name for name in OF_ONE_DATASET if getattr(of_all, name) is not None]
    if of_all.episodes is not None and not callable(of_all.episodes):
        given.insert(0, "episodes")
    if isinstance(of_all.episode_weights, Mapping):
        given.append("episode_weights")
    if given:
        raise OptionError(
            f"{given[0]}= chooses from one dataset, and a mixture has several: give it to its "
            f"part, as in [Part(urls, weight, {given[0]}=...), ...]"
        )


def _opened(members: Sequence[Part], config: LoaderConfig) -> list[_OpenPart]:
    """Open the datasets, each with its own selection, and name the one that a wrong option is
    of.
    """
    opened = []
    shards = carried_out(
        [partial(open_shards, part.urls, config, part.snapshot) for part in members]
    )
    with closing(shards):
        for number, part in enumerate(members):
            own = replace(config, selection=part.selection(config.selection))
            try:
                source = source_of(next(shards), own)
            except OptionError as error:
                raise OptionError(f"dataset {number}: {error}") from None
            where = f"dataset {number} ({storage.redacted(source.dataset.root)})"
            opened.append(_open_part(source, part, where, config.sample))
    return opened


def _open_part(source: Source, part: Part, where: str, sample: SampleConfig) -> _OpenPart:
    manifest = source.dataset.manifest
    check_features(DatasetMeta(manifest))
    keys = sample_keys(manifest.features, part.rename, where)
    meta = DatasetMeta(manifest_of_samples(manifest, keys, sample.pad_to, f"{where}: "))
    lacking = {keys[own]: rows for own, rows in missing_of(source).items() if own in keys}
    features = choose_features(
        loaded_features(meta, sample), lacking, sample.on_missing, f"{where}: "
    )
    for key in part.delta_timestamps or ():
        if key not in features:
            raise OptionError(
                f"{where}: delta_timestamps of the Part: {key!r} is not a feature that is loaded "
                f"of it; it has {sorted(features)}"
            )
    stored = under(keys, manifest.features)
    return _OpenPart(
        where=where,
        source=source,
        keys=keys,
        lacking=lacking,
        meta=meta,
        stored={key: stored[key] for key in features if key != "task"},
        features=features,
    )


def _sources(
    parts: Sequence[_OpenPart], agreed: Features, pad_to: Mapping[str, int]
) -> tuple[Source, ...]:
    """Return the datasets under one numbering of episodes, each with what is loaded of it."""
    nullable = tuple(key for key in agreed if any(key in part.lacking for part in parts))
    optional = tuple(
        key for key in agreed if key in nullable or any(key not in part.features for part in parts)
    )
    first = np.cumsum([0, *(len(part.source.dataset.index) for part in parts)]).tolist()
    return tuple(
        replace(
            part.source,
            episodes=replace(part.source.episodes, position=part.source.episodes.position + start),
            features={key: spec for key, spec in part.stored.items() if key in agreed},
            tasks=part.source.tasks if "task" in agreed else (),
            first=start,
            membership=Membership(
                dataset=number,
                missing={key: spec for key, spec in agreed.items() if key not in part.features},
                optional=optional,
                nullable=nullable,
                own_keys={key: own for own, key in part.keys.items() if own != key},
                pad_to={key: width for key, width in pad_to.items() if key in agreed},
            ),
        )
        for number, (part, start) in enumerate(zip(parts, first, strict=False))
    )

"""From a mixture as users write it, `[(urls, weight), ...]`, to what there is to load of each dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

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
    open_source,
)
from roboshard.loader.meta import DatasetMeta, MixtureMeta, merged_manifest
from roboshard.loader.missing import choose_features
from roboshard.loader.order.schedule import MAX_PERIOD, Schedule, shares
from roboshard.loader.part import OF_ONE_DATASET, Part
from roboshard.loader.samples.windows import frame_offsets
from roboshard.loader.selection.config import SelectionConfig
from roboshard.loader.sources import Source
from roboshard.shards.features import (
    FLOAT_DTYPES,
    OBJECT_DTYPES,
    Features,
    Spec,
    is_depth,
    picture_shape,
    shape_of,
)
from roboshard.shards.locate import Urls
from roboshard.shards.snapshots import SnapshotName

Mixture = Sequence[Part | tuple[Urls, float]]
"""Datasets and their weights, which need not add up to 1."""
TASK: Spec = {"dtype": "string", "shape": [1], "names": None}


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
        snapshots: of each dataset, instead of what its part names.

    Raises:
        OptionError: weights, options or datasets that do not go together, with what to do.
        MissingError, FormatError, VersionError, DamageError, StorageError: a dataset that is not usable.
    """
    members = mixture_parts(mixture)
    if snapshots is not None:
        members = [
            replace(member, snapshot=snapshot)
            for member, snapshot in zip(members, snapshots, strict=True)
        ]
    parts = _parts([member.weight for member in members])
    _check_selection(config.selection)
    sources = _open(members, config)
    metas = [DatasetMeta(source.dataset.manifest) for source in sources]
    for meta in metas:
        check_features(meta)
    where = [
        f"dataset {i} ({storage.redacted(source.dataset.root)})" for i, source in enumerate(sources)
    ]
    lacking = [missing_of(source) for source in sources]
    loaded = [
        choose_features(_loaded(meta, config.sample), gone, config.sample.on_missing, f"{name}: ")
        for meta, gone, name in zip(metas, lacking, where, strict=True)
    ]
    agreed = _agreed(loaded, where, config.sample)
    for own, name in zip(loaded, where, strict=True):
        check_depth({key: spec for key, spec in own.items() if key in agreed}, f"{name}: ")
    meta = MixtureMeta(
        merged_manifest(metas, {key: agreed[key] for key in agreed if key != "task"}), metas
    )
    cameras = chosen_cameras(meta, config.sample)
    check_windows(meta, config.sample, cameras)
    first = np.cumsum([0, *(len(source.dataset.index) for source in sources)]).tolist()
    nullable = tuple(key for key in agreed if any(key in gone for gone in lacking))
    optional = tuple(
        key for key in agreed if key in nullable or any(key not in features for features in loaded)
    )
    memberships = [
        Membership(
            dataset=i,
            missing={key: spec for key, spec in agreed.items() if key not in own},
            optional=optional,
            nullable=nullable,
        )
        for i, own in enumerate(loaded)
    ]
    together = zip(sources, loaded, first, memberships, strict=False)
    return LoadJob(
        sources=tuple(
            _member(source, own, agreed, start, member) for source, own, start, member in together
        ),
        config=replace(config, selection=SelectionConfig()),  # the sources have what it says
        offsets=_offsets(metas, where, config.sample),
        cameras=cameras,
        image_keys=meta.image_keys,
        meta=meta,
        schedule=Schedule(parts),
    )


def _is_weighted(entry: Any) -> bool:
    return isinstance(entry, Part) or (
        isinstance(entry, Sequence)
        and not isinstance(entry, str)
        and len(entry) == 2
        and isinstance(entry[1], int | float)
    )


def mixture_parts(mixture: Mixture) -> list[Part]:
    """Return the parts of a mixture. Raises OptionError where one is none."""
    if not all(map(_is_weighted, mixture)):
        raise OptionError(
            "a mixture is a list of pairs (urls, weight), each with a weight that is a number, or of Parts"
        )
    return [entry if isinstance(entry, Part) else Part(*entry) for entry in mixture]


def _parts(given: Sequence[float]) -> tuple[int, ...]:
    if not all(isinstance(weight, int | float) for weight in given):
        raise OptionError(f"the weights of a mixture must be numbers, not {list(given)!r:.200}")
    weights = [float(weight) for weight in given]
    if not all(0 < weight < float("inf") for weight in weights):  # NaN is not
        raise OptionError(f"the weights of a mixture must be numbers greater than 0, not {weights}")
    parts = shares(weights)
    if min(parts) < 1:
        raise OptionError(
            f"weights {weights}: one is less than 1/{MAX_PERIOD} of all, which is never drawn; leave it out"
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
            f"{given[0]}= chooses from one dataset, and a mixture has several: give it to its part, as in "
            f"[Part(urls, weight, {given[0]}=...), ...]"
        )


def _open(members: Sequence[Part], config: LoaderConfig) -> list[Source]:
    """Open the datasets, each with its own selection, and name the one that a wrong selection is of."""
    sources = []
    for number, part in enumerate(members):
        own = replace(config, selection=part.selection(config.selection))
        try:
            sources.append(open_source(part.urls, own, part.snapshot))
        except OptionError as error:
            raise OptionError(f"dataset {number}: {error}") from None
    return sources


def _loaded(meta: DatasetMeta, sample: SampleConfig) -> Features:
    """The features of a dataset that would be loaded of it alone; "task" is one of them."""
    chosen = meta.video_keys if sample.cameras is None else sample.cameras
    features = {
        key: spec
        for key, spec in meta.features.items()
        if key not in meta.video_keys or key in chosen
    }
    has_tasks = meta.tasks and "task_index" in features
    return features | ({"task": TASK} if has_tasks else {})


def _agreed(loaded: Sequence[Features], where: Sequence[str], sample: SampleConfig) -> Features:
    """The features of the mixture's samples. Raises OptionError where the datasets do not agree on them."""
    union = {key: spec for features in reversed(loaded) for key, spec in features.items()}
    lacking = {
        key: [name for name, own in zip(where, loaded, strict=True) if key not in own]
        for key in union
    }
    lacking = {key: names for key, names in lacking.items() if names}
    if lacking and sample.on_missing == "error":
        raise OptionError(
            "the datasets of a mixture have different features: "
            + "; ".join(
                f"{key!r} is missing from {', '.join(names)}" for key, names in lacking.items()
            )
            + '. on_missing="drop" loads only what all have; on_missing="fill" fills with zeros and adds a mask '
            "<key>_is_missing; cameras= can leave cameras out"
        )
    kept = {
        key: union[key]
        for key in sorted(union)
        if sample.on_missing != "drop" or key not in lacking
    }
    for key in kept:
        kinds = {
            name: _kind(key, own[key], sample)
            for name, own in zip(where, loaded, strict=True)
            if key in own
        }
        if len(set(kinds.values())) > 1:
            shown = "; ".join(
                f"{kind} {list(shape)} in {name}" for name, (kind, shape) in kinds.items()
            )
            raise OptionError(
                f"the datasets of a mixture must agree in dtype and shape of {key!r}, which is {shown}"
                + (
                    ": image_size= makes pictures equal in size"
                    if "video" in shown or "image" in shown
                    else ""
                )
            )
    return kept


def _kind(key: str, spec: Spec, sample: SampleConfig) -> tuple[str, tuple[Any, ...]]:
    """(dtype, shape) as they are loaded. Raises OptionError for a picture of no known size."""
    dtype = str(spec["dtype"])
    if dtype in ("image", "video"):
        shape = picture_shape(spec)
        if shape is None:
            raise OptionError(
                f"{key!r} has shape {spec.get('shape')}, which says no height, width and channels: "
                "a mixture needs them"
            )
        height, width, channels = shape
        kind = f"depth {dtype}" if is_depth(spec) else dtype
        return kind, (*(sample.image_size or (height, width)), channels)
    kind = (
        dtype
        if dtype in ("bool", *OBJECT_DTYPES)
        else "float32"
        if dtype in FLOAT_DTYPES
        else "int64"
    )
    return kind, shape_of(spec) or tuple(map(str, spec.get("shape") or ()))


def _member(
    source: Source, own: Features, agreed: Features, first: int, membership: Membership
) -> Source:
    return replace(
        source,
        episodes=replace(source.episodes, position=source.episodes.position + first),
        features={key: spec for key, spec in own.items() if key in agreed and key != "task"},
        tasks=source.tasks if "task" in agreed else (),
        first=first,
        membership=membership,
    )


def _offsets(
    metas: Sequence[DatasetMeta], where: Sequence[str], sample: SampleConfig
) -> dict[str, NDArray[np.int64]]:
    """Feature key -> windows in frames (datasets, T): the same seconds at each dataset's own rate."""
    found = []
    for meta, name in zip(metas, where, strict=True):
        try:
            found.append(frame_offsets(sample.delta_timestamps, meta.fps, sample.tolerance_s))
        except OptionError as error:
            raise OptionError(f"{name}: {error}") from None
    return {key: np.stack([offsets[key] for offsets in found]) for key in sample.delta_timestamps}

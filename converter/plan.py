"""What a conversion will do: which episodes go into which shards, how encoded, under which id."""

import hashlib
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from roboshard.common import jsonio
from roboshard.common.errors import OptionError
from roboshard.common.interrupts import interruptible
from roboshard.common.selection import check_tasks, parse_episodes, select_episodes
from roboshard.converter.base import (
    Base,
    check_continues,
    check_fits,
    check_has_grown,
    read_base,
)
from roboshard.converter.config import ConvertConfig
from roboshard.converter.partition import plan_shards, shuffle_episodes
from roboshard.converter.reencoding.encoder import library_versions
from roboshard.converter.reencoding.reencode import plan_encoding
from roboshard.converter.reencoding.settings import Encoding, encoded_features
from roboshard.converter.source.api import Source, SourceMeta
from roboshard.converter.source.files import SourceFiles
from roboshard.converter.source.opening import check_capacity, open_source, read_source
from roboshard.shards.documents import Finding
from roboshard.shards.schema import FORMAT_VERSION, Conversion, Provenance, SourceInfo

BYTE_DECIDING_LIBRARIES = ("roboshard", "av", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class ConversionPlan:
    """What a conversion will do."""

    source: Source
    episodes: NDArray[np.int64]
    """(num_episodes,) episode indices in shard order."""
    sizes: NDArray[np.int64]
    """(num_episodes,) estimated bytes of each episode, in shard order."""
    shards: list[slice]
    """Where each shard's episodes lie in `episodes`."""
    encoding: Encoding | None
    """Which cameras are encoded again, and how; None: all video is copied."""
    provenance: Provenance
    base: Base | None = None
    """The dataset that the planned shards are added to; None: they make a new one."""

    def provenance_from(self, first_shard: int) -> Provenance:
        """The provenance where the first shard has this number."""
        conversion = self.provenance.conversion.model_copy(update={"first_shard": first_shard})
        return self.provenance.model_copy(update={"conversion": conversion})

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is odd in the source's metadata."""
        return self.source.meta.findings

    @property
    def video(self) -> str | None:
        """Which cameras are encoded again and how, and which are copied; None: all are copied."""
        return (
            None
            if self.encoding is None
            else self.encoding.description(self.source.meta.camera_keys)
        )


@interruptible
def make_plan(config: ConvertConfig) -> ConversionPlan:
    """Read the source's metadata and decide what goes where; writes nothing but a remote source's
    scratch folder.

    Args:
        config: the options of the conversion.

    Returns:
        What goes into which shard; close `plan.source.meta.files` after use.

    Raises:
        OptionError: Options that cannot be used, or episodes that there are not.
        SourceError, MissingError, StorageError: The source is no LeRobot dataset, or cannot be
            read.

    Example:
        >>> plan = make_plan(ConvertConfig(source="my_dataset", destination="converted"))
        >>> (len(plan.episodes), len(plan.shards), plan.video)
        (14, 1, None)
        >>> plan.source.meta.files.close()
    """
    return _plan(config, continues=False)


@interruptible
def make_plan_of_new(config: ConvertConfig) -> ConversionPlan:
    """Decide what goes where for a source that has only episodes which are to be added.

    Args:
        config: the options, with `append`.

    Returns:
        The plan as `make_plan` returns it; `info` counts the dataset's episodes too.

    Raises:
        OptionError: as `make_plan`; or episodes or tasks do not come right after the dataset's.
        SourceError, MissingError, StorageError: as `make_plan`.
    """
    return _plan(config, continues=True)


def _plan(config: ConvertConfig, *, continues: bool) -> ConversionPlan:
    files = open_source(config.source, config.scratch, config.scratch_bytes)
    try:
        plan = _plan_of(config, files, continues)
        return _counting_all(plan) if continues else plan
    except BaseException:
        files.close()
        raise


def _plan_of(config: ConvertConfig, files: SourceFiles, continues: bool) -> ConversionPlan:
    source = read_source(files)
    base = read_base(config.destination) if config.append else None
    episodes = _chosen(source, config)
    if base is not None:
        (check_continues if continues else check_has_grown)(source, base)
        episodes = np.setdiff1d(episodes, base.episodes)
        if not len(episodes):
            return _nothing(source, config, base)
    if config.shuffle_episodes is not None:
        episodes = shuffle_episodes(episodes, config.shuffle_episodes)
    sizes = source.estimated_bytes(episodes)
    check_capacity(source, episodes)
    shards = plan_shards(sizes, config.shard_bytes)
    encoding = (
        plan_encoding(source, episodes, config.reencode) if config.video == "reencode" else None
    )
    provenance = _provenance(source.meta, config, encoding, len(shards), base)
    if base is not None:
        check_fits(provenance, base, files.where())
    return ConversionPlan(
        source=source,
        episodes=episodes,
        sizes=sizes,
        shards=shards,
        encoding=encoding,
        provenance=provenance,
        base=base,
    )


def _counting_all(plan: ConversionPlan) -> ConversionPlan:
    """The plan whose info.json counts the episodes of the dataset and those of the source."""
    base, meta = plan.base, plan.source.meta
    if base is None:
        return plan
    totals = {
        f"total_{what}": meta.counted.get(f"total_{what}", meta.info[f"total_{what}"]) + before
        for what, before in (
            ("episodes", base.manifest.total_episodes),
            ("frames", base.manifest.total_frames),
        )
    }
    info = meta.info | totals | {"splits": {"train": f"0:{totals['total_episodes']}"}}
    provenance = plan.provenance.model_copy(update={"info": info, "counted": {}})
    return replace(plan, provenance=provenance)


def _nothing(source: Source, config: ConvertConfig, base: Base) -> ConversionPlan:
    """The plan of a run that finds nothing to add."""
    none = np.zeros(0, dtype=np.int64)
    provenance = _provenance(source.meta, config, None, 0, base)
    return ConversionPlan(
        source=source,
        episodes=none,
        sizes=none,
        shards=[],
        encoding=None,
        provenance=provenance,
        base=base,
    )


def _chosen(source: Source, config: ConvertConfig) -> NDArray[np.int64]:
    """Return the indices of the chosen episodes, ascending."""
    wanted, excluded = (
        None if text is None else parse_episodes(text)
        for text in (config.episodes, config.exclude_episodes)
    )
    episodes = select_episodes(source.episode_indices, wanted, excluded)
    if not config.tasks:
        return episodes
    stated = [episode.tasks for episode in source.episodes(episodes.tolist())]
    silent = [
        index for index, tasks in zip(episodes.tolist(), stated, strict=True) if tasks is None
    ]
    if silent:
        raise OptionError(
            f"tasks: the metadata of episodes {silent[:5]} do not say which tasks they have: "
            "choose by their indices (episodes, exclude_episodes)"
        )
    known = sorted({task for tasks in stated for task in tasks or ()})
    check_tasks(config.tasks, known)
    chosen = frozenset(config.tasks)
    has_one = [not chosen.isdisjoint(tasks or ()) for tasks in stated]
    if not any(has_one):
        raise OptionError(
            "no episode is left: none of those that were chosen has one of these tasks"
        )
    return episodes[np.asarray(has_one, dtype=np.bool_)]


def _provenance(
    meta: SourceMeta,
    config: ConvertConfig,
    encoding: Encoding | None,
    num_shards: int,
    base: Base | None,
) -> Provenance:
    options: dict[str, jsonio.Json] = {
        "shard_size": config.shard_bytes,
        "episodes": config.episodes,
        "shuffle_episodes": config.shuffle_episodes,
        "tolerance_s": config.tolerance_s,
    }
    if config.exclude_episodes is not None:
        options["exclude_episodes"] = config.exclude_episodes
    if config.tasks:
        options["tasks"] = list(config.tasks)
    versions = {name: version(name) for name in BYTE_DECIDING_LIBRARIES} | {
        "format": FORMAT_VERSION
    }
    if encoding is not None:
        options["video"] = encoding.as_json()
        versions |= library_versions()
    revision = (
        [] if meta.files.revision is None else [meta.files.revision]
    )  # it is in the shards, so it decides their bytes
    grows = [] if base is None else [{"grows": base.manifest.fingerprint}]
    identity = jsonio.canonical(
        [meta.fingerprint, meta.files.name, options, versions, *revision, *grows]
    )
    return Provenance(
        source=SourceInfo(
            name=meta.files.name,
            revision=meta.files.revision,
            codebase_version=meta.codebase_version,
            fingerprint=meta.fingerprint,
        ),
        conversion=Conversion(
            id=hashlib.sha256(identity).hexdigest(),
            options=options,
            versions=versions,
            num_shards=num_shards,
            grows=None if base is None else base.manifest.fingerprint,
        ),
        fps=meta.fps,
        features=meta.features if encoding is None else encoded_features(meta.features, encoding),
        tasks=meta.tasks.plain_texts,
        info=meta.info,
        stats=meta.stats,
        null_tasks=meta.tasks.null_positions,
        task_columns=dict(meta.tasks.columns),
        counted=dict(meta.counted),
    )

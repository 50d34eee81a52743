"""A conversion from start to end: the file to read first.

source   open the files, local or remote; read metadata  source/opening.py, lerobot_v*.py -> api.py
plan     choose episodes, cut them into shards by size   plan.py -> partition.py
prepare  hold the destination, refuse what is not ours   destination/opening.py -> api.py
convert  one idempotent task per shard, in processes     engines/processes.py -> shard.py
         or on a Ray cluster                             engines/ray.py -> shard.py
         of which each reads one episode after another   episode/reader.py
publish  index, then dataset.json, last of all           destination/api.py
report   what was done, what random frames will cost     report.py

An episode is its rows (episode/rows.py, images.py) and a slice of each camera's video (video/),
copied packet by packet or encoded again (reencoding/).

A dataset that grows (`append`, base.py) is the same with the episodes that it lacks; before, those
that it has are compared with the source (unchanged.py), and its dataset.json stays until the new
one replaces it.

Parts of a conversion can run apart, in jobs of their own: `convert` with `shards` ends after its
shards, and `finalize` checks and publishes all.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

from roboshard import storage
from roboshard.common.cores import usable_cores
from roboshard.common.errors import MissingError, OptionError, SourceError
from roboshard.common.interrupts import check, interruptible
from roboshard.common.progress import progress_of
from roboshard.common.selection import some
from roboshard.converter.base import is_unchanged
from roboshard.converter.config import ConvertConfig, parse_part
from roboshard.converter.destination.api import Destination
from roboshard.converter.destination.opening import open_destination
from roboshard.converter.engines.processes import run_tasks
from roboshard.converter.engines.ray import run_on_ray
from roboshard.converter.plan import ConversionPlan, make_plan, make_plan_of_new
from roboshard.converter.report import ConversionReport, make_report, random_frame_costs
from roboshard.converter.shard import (
    ShardResult,
    ShardSpec,
    convert_shard,
    finished_shard,
)
from roboshard.converter.task import OnEpisode, Result, Spec
from roboshard.converter.unchanged import changed_episodes, kept_shards, refuse_changed

SHOWN_MISSING = 10


@interruptible
def convert(config: ConvertConfig) -> ConversionReport:
    """Convert a LeRobot dataset into shards. A killed run is continued by running it again.

    With `config.shards` only that part's shards are written, and reported; `finalize` makes them a
    dataset.

    Args:
        config: the source, the destination, and how to convert.

    Returns:
        What was written, left out and found odd.

    Raises:
        OptionError: options that cannot be used, or a destination that holds something else.
        SourceError, MissingError: the source contradicts itself or cannot be copied exactly.

    Example:
        >>> config = ConvertConfig(source="my_dataset", destination="converted", workers=1)
        >>> report = convert(config)
        >>> (report.episodes, report.shards)
        (14, 1)
    """
    if config.dry_run:
        raise OptionError("dry_run: `convert` writes; `make_plan` says what it would write")
    if config.video_report:
        raise OptionError("video_report: `convert` writes; `survey_videos` reports")
    return _convert(make_plan(config), config)


@interruptible
def add_episodes(config: ConvertConfig) -> ConversionReport:
    """Add the episodes of a source that has no others, as a recording that goes on.

    As `convert` with `append`, but what the dataset has need not be in the source, and nothing is
    compared. The source's statistics and tasks are to be those of all episodes, its totals its own.
    It may lie inside the dataset's folder.

    Args:
        config: the options, with `append`.

    Returns:
        What was added.

    Raises:
        OptionError: as `convert`; or episodes or tasks do not come right after the dataset's.
        SourceError, MissingError: as `convert`.
    """
    return _convert(make_plan_of_new(config), config, compares=False)


def _convert(
    plan: ConversionPlan, config: ConvertConfig, *, compares: bool = True
) -> ConversionReport:
    with closing(plan.source.meta.files):
        if compares:
            _check_unchanged(plan, config)
        destination = _destination(plan, config, is_inside=not compares)
        part = None if config.shards is None else _numbers(plan, config)
        with destination.prepared(part):
            results = _run(convert_shard, plan, config, destination)
            if part is not None:
                return _report(plan, results, destination)
            return _publish(plan, results, destination)


@interruptible
def finalize(config: ConvertConfig) -> ConversionReport:
    """Make a dataset of shards that were converted in parts: see that all are there and right, then
    publish.

    The options are those of the parts. Every shard is read once to compare its hash.

    Args:
        config: the options of the parts, but for `shards`.

    Returns:
        What the whole dataset holds.

    Raises:
        MissingError: shards that are not there, or are not as their manifest says, by name.
        OptionError: options that cannot be used, or a destination that holds something else, or is
            being written to.

    Example:
        >>> for part in ("0/2", "1/2"):
        ...     config = ConvertConfig(
        ...         source="my_dataset", destination="in_parts", shards=part, workers=1
        ...     )
        ...     report = convert(config)
        >>> finalize(ConvertConfig(source="my_dataset", destination="in_parts", workers=1)).episodes
        14
    """
    if config.shards is not None or config.dry_run or config.video_report:
        raise OptionError(
            "finalize works on all parts: without --shards, --dry-run and --video-report"
        )
    plan = make_plan(config)
    with closing(plan.source.meta.files):
        _check_unchanged(plan, config)
        destination = _destination(plan, config)
        with destination.prepared(None):
            return _publish(plan, _finished_shards(plan, config, destination), destination)


def _destination(
    plan: ConversionPlan, config: ConvertConfig, *, is_inside: bool = False
) -> Destination:
    """Open the destination, which the source may lie in if `is_inside`."""
    return open_destination(
        config.destination,
        plan.provenance.conversion,
        source=None if is_inside else plan.source.meta.files.folder,
        scratch=config.scratch,
        base=plan.base,
    )


def _check_unchanged(plan: ConversionPlan, config: ConvertConfig) -> None:
    """See that the source still has all episodes of the dataset that is to grow; for a part, its
    share of them.

    Raises:
        OptionError: naming the episodes that changed.
    """
    base = plan.base
    if base is None or is_unchanged(plan.source.meta, base):
        return
    numbers = _share(len(base.manifest.shards), config)
    specs = kept_shards(plan, config, numbers)
    sizes = [base.manifest.shards[number] for number in numbers]
    with progress_of(
        "comparing",
        items=sum(shard.episodes for shard in sizes),
        what="episodes",
        num_bytes=sum(shard.size for shard in sizes),
    ) as progress:
        found = _on_engine(
            changed_episodes, specs, config, len(numbers), partial(progress.add, items=1)
        )
    refuse_changed([episode for each in found for episode in each], plan)


def _specs(
    plan: ConversionPlan, config: ConvertConfig, destination: Destination
) -> Iterator[ShardSpec]:
    provenance = plan.provenance_from(destination.first_shard)
    for number in _numbers(plan, config):
        shard = plan.shards[number]
        yield ShardSpec(
            place=destination.place(number),
            source=plan.source.meta,
            episodes=tuple(plan.source.episodes(plan.episodes[shard].tolist())),
            provenance=provenance,
            tolerance_s=config.tolerance_s,
            encoding=plan.encoding,
            skip_errors=config.on_error == "skip",
        )


def _numbers(plan: ConversionPlan, config: ConvertConfig) -> range:
    """Numbers in the plan of the shards that this run is about."""
    return _share(len(plan.shards), config)


def _share(count: int, config: ConvertConfig) -> range:
    """Numbers of this part's share of so many shards: neighbours, which lie in the same source
    files.
    """
    part, parts = parse_part(config.shards)
    return range(count * part // parts, count * (part + 1) // parts)


def _run(
    task: Callable[[ShardSpec, OnEpisode], Result],
    plan: ConversionPlan,
    config: ConvertConfig,
    destination: Destination,
) -> list[Result]:
    """Run a task for every shard on the engine that was chosen; results in the shards' order."""
    numbers = _numbers(plan, config)
    if not numbers:
        return []
    sizes = plan.sizes[plan.shards[numbers[0]].start : plan.shards[numbers[-1]].stop]
    specs = _specs(plan, config, destination)
    with progress_of(
        "converting", items=len(sizes), what="episodes", num_bytes=int(sizes.sum())
    ) as progress:
        return _on_engine(task, specs, config, len(numbers), partial(progress.add, items=1))


def _on_engine(
    task: Callable[[Spec, OnEpisode], Result],
    specs: Iterator[Spec],
    config: ConvertConfig,
    count: int,
    on_episode: OnEpisode,
) -> list[Result]:
    if config.engine == "ray":
        return run_on_ray(task, specs, config, on_episode)
    workers = min(config.workers or usable_cores(), count)
    return run_tasks(task, specs, workers, on_episode)


def _finished_shards(
    plan: ConversionPlan, config: ConvertConfig, destination: Destination
) -> list[ShardResult]:
    found = _run(finished_shard, plan, config, destination)
    missing = [destination.place(i).shard for i, result in enumerate(found) if result is None]
    if missing:
        raise MissingError(
            f"{storage.redacted(config.destination)}: {len(missing)} of {len(found)} shards are "
            f"missing or not right: {some(missing, SHOWN_MISSING)}. Run their parts again; or "
            "convert-to-shards without --shards, which makes what is missing"
        )
    return [result for result in found if result is not None]


def _publish(
    plan: ConversionPlan, results: list[ShardResult], destination: Destination
) -> ConversionReport:
    skipped = [episode for result in results for episode in result.skipped]
    manifests = [result.manifest for result in results if result.manifest is not None]
    tried = frozenset(plan.episodes.tolist())
    destination.publish_skipped([(each.episode_index, each.reason) for each in skipped], tried)
    if plan.base is None and not manifests:
        raise SourceError(
            f"{plan.source.meta.files.where()}: no episode could be converted; see skipped.json in "
            f"{destination.shown}"
        )
    check()
    if manifests:
        destination.publish(plan.provenance_from(destination.first_shard), manifests)
    report = _report(plan, results, destination)
    return replace(report, random_frame_costs=random_frame_costs(destination.root))


def _report(
    plan: ConversionPlan, results: list[ShardResult], destination: Destination
) -> ConversionReport:
    report = make_report(results, destination.shown, plan.video, plan.findings)
    kept = 0 if plan.base is None else plan.base.manifest.total_episodes
    return replace(report, kept_episodes=kept)

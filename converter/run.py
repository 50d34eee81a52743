"""A conversion from start to end: the file to read first.

source     open the files, local or remote; read the metadata  source/opening.py, lerobot_v*.py -> api.py
plan       choose episodes, cut them into shards by size       plan.py -> partition.py
prepare    hold the destination, refuse what is not ours       destination/opening.py -> api.py
convert    one idempotent task per shard, in processes         engines/processes.py -> shard.py -> episode/reader.py
           or on a Ray cluster                                 engines/ray.py -> shard.py
publish    index, then dataset.json, last of all               destination/api.py
report     what was done, and what random frames will cost     report.py

An episode is its rows (episode/rows.py, images.py) and a slice of each camera's video (video/), copied packet by
packet or encoded again (reencoding/).

Parts of a conversion can run apart, in jobs of their own: `convert` with `shards` ends after its shards,
and `finalize` checks and publishes all.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from roboshard import storage
from roboshard.common.cores import usable_cores
from roboshard.common.errors import MissingError, OptionError, SourceError
from roboshard.common.interrupts import check, interruptible
from roboshard.common.progress import progress_of
from roboshard.common.selection import some
from roboshard.converter.config import ConvertConfig, parse_part
from roboshard.converter.destination.api import Destination
from roboshard.converter.destination.opening import open_destination
from roboshard.converter.engines.processes import run_tasks
from roboshard.converter.engines.ray import run_on_ray
from roboshard.converter.plan import ConversionPlan, make_plan
from roboshard.converter.report import ConversionReport, make_report, random_frame_costs
from roboshard.converter.shard import (
    OnEpisode,
    ShardResult,
    ShardSpec,
    convert_shard,
    finished_shard,
)
from roboshard.shards.names import shard_name

SHOWN_MISSING = 10

Result = TypeVar("Result")


@interruptible
def convert(config: ConvertConfig) -> ConversionReport:
    """Convert a LeRobot dataset into shards. A killed run is continued by running it again.

    With `config.shards` only that part's shards are written, and reported; `finalize` makes them a dataset.

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
    plan = make_plan(config)
    with closing(plan.source.meta.files):
        destination = _destination(plan, config)
        part = None if config.shards is None else _numbers(plan, config)
        with destination.prepared(part):
            results = _run(convert_shard, plan, config, destination)
            if part is not None:
                return make_report(results, destination.shown, plan.video, plan.findings)
            return _publish(plan, results, destination)


@interruptible
def finalize(config: ConvertConfig) -> ConversionReport:
    """Make a dataset of shards that were converted in parts: see that all are there and right, then publish.

    The options are those of the parts. Every shard is read once to compare its hash.

    Args:
        config: the options of the parts, but for `shards`.

    Returns:
        What the whole dataset holds.

    Raises:
        MissingError: shards that are not there, or are not as their manifest says, by name.
        OptionError: options that cannot be used, or a destination that holds something else, or is being written to.

    Example:
        >>> for part in ("0/2", "1/2"):
        ...     report = convert(
        ...         ConvertConfig(source="my_dataset", destination="in_parts", shards=part, workers=1)
        ...     )
        >>> finalize(ConvertConfig(source="my_dataset", destination="in_parts", workers=1)).episodes
        14
    """
    if config.shards is not None or config.dry_run or config.video_report:
        raise OptionError(
            "finalize works on all parts: without --shards, --dry-run and --video-report"
        )
    plan = make_plan(config)
    with closing(plan.source.meta.files):
        destination = _destination(plan, config)
        with destination.prepared(None):
            return _publish(plan, _finished_shards(plan, config, destination), destination)


def _destination(plan: ConversionPlan, config: ConvertConfig) -> Destination:
    return open_destination(
        config.destination,
        plan.provenance.conversion.id,
        len(plan.shards),
        source=plan.source.meta.files.folder,
        scratch=config.scratch,
    )


def _specs(
    plan: ConversionPlan, config: ConvertConfig, destination: Destination
) -> Iterator[ShardSpec]:
    for number in _numbers(plan, config):
        shard = plan.shards[number]
        yield ShardSpec(
            place=destination.place(number),
            source=plan.source.meta,
            episodes=tuple(plan.source.episodes(plan.episodes[shard].tolist())),
            provenance=plan.provenance,
            tolerance_s=config.tolerance_s,
            encoding=plan.encoding,
            skip_errors=config.on_error == "skip",
        )


def _numbers(plan: ConversionPlan, config: ConvertConfig) -> range:
    """Of the shards that this run is about: neighbours, which lie in the same source files."""
    part, parts = parse_part(config.shards)
    return range(len(plan.shards) * part // parts, len(plan.shards) * (part + 1) // parts)


def _run(
    task: Callable[[ShardSpec, OnEpisode], Result],
    plan: ConversionPlan,
    config: ConvertConfig,
    destination: Destination,
) -> list[Result]:
    """Run a task for every shard on the engine that was chosen; results in the shards' order."""
    numbers = _numbers(plan, config)
    sizes = (
        plan.sizes[plan.shards[numbers[0]].start : plan.shards[numbers[-1]].stop]
        if numbers
        else plan.sizes[:0]
    )
    specs = _specs(plan, config, destination)
    with progress_of(
        "converting", items=len(sizes), what="episodes", num_bytes=int(sizes.sum())
    ) as progress:
        episode_done = partial(progress.add, items=1)
        if config.engine == "ray":
            return run_on_ray(task, specs, config, episode_done)
        workers = min(config.workers or usable_cores(), len(numbers))
        return run_tasks(task, specs, workers, episode_done)


def _finished_shards(
    plan: ConversionPlan, config: ConvertConfig, destination: Destination
) -> list[ShardResult]:
    found = _run(finished_shard, plan, config, destination)
    missing = [shard_name(number) for number, result in enumerate(found) if result is None]
    if missing:
        raise MissingError(
            f"{storage.redacted(config.destination)}: {len(missing)} of {len(found)} shards are missing or not "
            f"right: {some(missing, SHOWN_MISSING)}. Run their parts again; or convert-to-shards without --shards, "
            "which makes what is missing"
        )
    return [result for result in found if result is not None]


def _publish(
    plan: ConversionPlan, results: list[ShardResult], destination: Destination
) -> ConversionReport:
    skipped = [episode for result in results for episode in result.skipped]
    manifests = [result.manifest for result in results if result.manifest is not None]
    destination.publish_skipped([(episode.episode_index, episode.reason) for episode in skipped])
    if not manifests:
        raise SourceError(
            f"{plan.source.meta.files.where()}: no episode could be converted; see skipped.json in "
            f"{destination.shown}"
        )
    check()
    destination.publish(plan.provenance, manifests)
    report = make_report(results, destination.shown, plan.video, plan.findings)
    return replace(report, random_frame_costs=random_frame_costs(destination.root))

"""A measurement: the given settings, others beside them, and a perfect loader."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from roboshard.common import interrupts
from roboshard.common.cores import usable_cores
from roboshard.storage import is_local
from roboshard.tools.bench.config import BenchConfig
from roboshard.tools.bench.report import BenchReport, Measurement
from roboshard.tools.bench.settings import others

PERFECT_SHARE = 0.05
"""Share of the time for the perfect loader."""


def _unseen(_done: int, _of: int) -> None:
    pass


@interrupts.interruptible
def bench(config: BenchConfig, on_progress: Callable[[int, int], None] = _unseen) -> BenchReport:
    """Measure whether a training waits for its data on this machine, and which setting helps.

    Args:
        config: the dataset, the loader's settings, and how long a step takes.
        on_progress: is told how many loaders have been measured, and of how many.

    Returns:
        What was measured, and `advice`. Others are not tried where the training does not wait.

    Raises:
        OptionError: settings that do not fit the dataset or this machine.
        MissingError, FormatError, VersionError, DamageError, StorageError: as loading raises them.

    Example:
        >>> report = bench(BenchConfig(url="my_dataset_shards", seconds=0.5, alone=True))
        >>> report.steps_per_second > 0
        True
    """
    with ExitStack() as stack:
        if not is_local(config.url) and config.cache_dir is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="roboshard-bench-"))
            config = replace(config, cache_dir=folder)
        return _measured(config, on_progress)


def _measured(config: BenchConfig, on_progress: Callable[[int, int], None]) -> BenchReport:
    from roboshard.tools.bench import measure  # noqa: PLC0415 - brings torch

    cores, is_remote = usable_cores(), not is_local(config.url)
    to_try = [] if config.alone else others(config, cores)
    number = is_remote + 1 + len(to_try) + bool(to_try)
    seconds, done = config.seconds * (1 - PERFECT_SHARE) / number, 0
    fixed: dict[str, Any] = {}  # for all loaders

    def measured(settings: dict[str, Any], *, is_first_epoch: bool = False) -> Measurement:
        nonlocal done
        on_progress(done, number)
        done += 1
        return measure.measure(config, fixed, settings, seconds, is_first_epoch=is_first_epoch)

    episodes, frames = measure.size_of(config)
    first_epoch = measured({}, is_first_epoch=True) if is_remote else None
    if first_epoch is not None:  # what follows has its bytes on this disk
        fixed["episodes"] = measure.episodes_of_steps(config, first_epoch.steps_in_all)
    given = measured({})
    report = BenchReport(
        url=config.url,
        episodes=episodes,
        frames=frames,
        batch_size=config.batch_size,
        cores=cores,
        step_ms=config.step_ms,
        given=[given],
        first_epoch=first_epoch,
        perfect=measure.measure_perfect(config, given, config.seconds * PERFECT_SHARE),
    )
    if not (to_try and report.waits):
        return report
    tried = [measured(settings) for settings in to_try]
    return replace(report, tried=tried, given=[given, measured({})])

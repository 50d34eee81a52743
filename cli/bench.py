"""`roboshard bench URL`: whether a training waits for its data here, and which setting helps."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Column, Table

from roboshard.cli.options import parse_options
from roboshard.cli.progress import counter
from roboshard.cli.run import out
from roboshard.common.plain import as_markup
from roboshard.tools.bench import BenchConfig, BenchReport, Measurement, bench
from roboshard.tools.bench.report import named_settings

COLUMNS = ("steps/s", "samples/s", "frames/s", "waiting", "more steps")


def bench_command(arguments: Sequence[str]) -> None:
    """Run `roboshard bench`: parse options, measure and print."""
    config = parse_options(
        BenchConfig,
        "roboshard bench",
        arguments,
        "Measure for about a minute whether a training waits for its data on this machine, beside "
        "a perfect loader, and try which setting of the loader helps.",
    )
    with counter("loaders", hidden=config.json) as on_progress:
        report = bench(config, on_progress)
    if config.json:
        found = asdict(report) | {"advice": report.advice, "noise": report.noise}
        out.print(json.dumps(found, indent=2), soft_wrap=True, markup=False)
    else:
        _show(report)


def _show(report: BenchReport) -> None:
    out.print(
        as_markup(
            f"{report.url}: {report.episodes} episodes, {report.frames} frames; batches of "
            f"{report.batch_size}; {report.cores} cores"
        ),
        soft_wrap=True,
    )
    table = Table("", *(Column(name, justify="right") for name in COLUMNS), box=None)
    if report.perfect is not None:
        _add(table, "a perfect loader", report.perfect)
    if report.first_epoch is not None:
        _add(table, "as given, over the network", report.first_epoch)
    _add(table, "as given", report.given[0])
    for measurement in report.tried:
        name = named_settings(measurement)
        _add(table, name, measurement, f"{report.gain(measurement):+.0%}")
    for measurement in report.given[1:]:
        _add(table, "as given, once more", measurement)
    out.print(table)
    for sentence in report.advice:
        out.print(as_markup(sentence), soft_wrap=True)


def _add(table: Table, name: str, measurement: Measurement, gain: str = "") -> None:
    table.add_row(
        as_markup(name),
        f"{measurement.steps_per_second:,.1f}",
        f"{measurement.samples_per_second:,.0f}",
        f"{measurement.frames_per_second:,.0f}",
        f"{measurement.wait_share:.0%}",
        gain,
    )

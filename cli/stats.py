"""`roboshard stats URL`: statistics of what a loader would train on, for people or as LeRobot's
stats.json.
"""

import json
from collections.abc import Sequence

import numpy as np
from rich.table import Column, Table

from roboshard.cli.options import parse_options
from roboshard.cli.run import out
from roboshard.common.plain import as_markup
from roboshard.shards.statistics import Stats, as_json
from roboshard.tools.stats import StatsConfig, StatsReport, find_stats

SHOWN = ("mean", "std", "min", "q01", "q10", "q50", "q90", "q99", "max")
MOST_NUMBERS = 32
"""Most numbers of a feature that are shown."""


def stats_command(arguments: Sequence[str]) -> None:
    """Run `roboshard stats`: parse options, find and print."""
    config = parse_options(
        StatsConfig,
        "roboshard stats",
        arguments,
        "Show the statistics that loader.meta.stats would have: exact ones of the rows, with "
        "quantiles, of all episodes or of those that are chosen.",
    )
    report = find_stats(config)
    if config.json:
        out.print(json.dumps(as_json(report.stats), indent=4), soft_wrap=True, markup=False)
    else:
        _show(report)


def _show(report: StatsReport) -> None:
    out.print(_table(report.stats))
    out.print(f"{report.episodes} episodes, {report.rows} rows", soft_wrap=True)
    if report.differences:
        told = ", ".join(
            f"{it.name} of {it.feature} by {it.deviations:.2g}" for it in report.differences
        )
        out.print(
            f"the source's own statistics differ, in standard deviations: {as_markup(told)}",
            soft_wrap=True,
        )


def _table(stats: Stats) -> Table:
    table = Table(Column("feature", overflow="fold"), "", box=None)
    for name in SHOWN:
        table.add_column(name, no_wrap=True, justify="right")
    for key, own in stats.items():
        columns = {name: own[name].reshape(-1) for name in SHOWN if name in own}
        size = len(columns["mean"])
        for number in range(min(size, MOST_NUMBERS)):
            cells = [_short(columns[name][number]) if name in columns else "" for name in SHOWN]
            place = str(number) if size > 1 else ""
            table.add_row(as_markup(key) if number == 0 else "", place, *cells)
        if size > MOST_NUMBERS:
            table.add_row("", f"… and {size - MOST_NUMBERS} more")
    return table


def _short(value: float) -> str:
    return np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-")

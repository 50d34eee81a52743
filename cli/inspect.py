"""`roboshard inspect URL`: what a dataset is."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.filesize import decimal
from rich.table import Table

from roboshard.cli.cameras import camera_cells
from roboshard.cli.options import parse_options
from roboshard.cli.run import out
from roboshard.common.plain import as_markup
from roboshard.tools.inspect import Summary, summarize

BAR_WIDTH = 40
SHOWN_TASKS = 20
SHOWN_SNAPSHOTS = 20
SHOWN_DIGITS = 12


@dataclass(frozen=True)
class InspectOptions:
    """Show what a dataset holds: counts, tasks, lengths, cameras, bytes, provenance."""

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    """The dataset: a local folder, hf://, s3://, gs:// or http(s)://."""
    json: bool = False
    """Print one JSON object."""


def inspect_command(arguments: Sequence[str]) -> None:
    """Run `roboshard inspect`: parse options, read and print."""
    options = parse_options(
        InspectOptions,
        "roboshard inspect",
        arguments,
    )
    summary = summarize(options.url)
    if options.json:
        # Escapes of JSON keep what is in the data and give the terminal nothing to act on.
        text = json.dumps(asdict(summary), ensure_ascii=True, indent=2).replace("\x7f", "\\u007f")
        out.print(text, soft_wrap=True, markup=False)
    else:
        _show(summary)


def _show(summary: Summary) -> None:
    smallest, median, largest = map(decimal, summary.shard_bytes)
    source, conversion = summary.source, summary.conversion
    revision = f" at {source['revision']}" if source["revision"] else ""
    options = ", ".join(
        f"{name} {value}" for name, value in conversion["options"].items() if value is not None
    )
    lines = {
        "dataset": summary.url,
        "fingerprint": summary.fingerprint,
        "holds": f"{summary.episodes} episodes, {summary.frames} frames, {summary.fps:g} fps, "
        f"{summary.hours:.2f} h",
        "shards": f"{summary.shards}, {decimal(summary.num_bytes)} (each {smallest} to {largest}, "
        f"median {median})",
        "source": f"{source['name']}{revision}, LeRobot {source['codebase_version']}",
        "converted by": ", ".join(
            f"{name} {value}" for name, value in conversion["versions"].items()
        ),
        "options": options,
    }
    table = Table.grid(padding=(0, 2))
    for name, text in lines.items():
        table.add_row(f"[bold]{name}[/]", as_markup(text))
    out.print(table)
    _show_snapshots(summary)
    _show_lengths(summary)
    _show_tasks(summary)
    _show_features(summary)
    _show_cameras(summary)


def _show_snapshots(summary: Summary) -> None:
    """Print what the dataset was each time before it grew; of many the first and the last ones."""
    if not summary.snapshots:
        return
    columns = ("number", "fingerprint", "episodes", "frames", "shards")
    table = Table(*columns, title="snapshots", title_justify="left", box=None)
    for i, each in enumerate(summary.snapshots):
        if i == 1 and len(summary.snapshots) > SHOWN_SNAPSHOTS:
            table.add_row("…")
        if i and i <= len(summary.snapshots) - SHOWN_SNAPSHOTS:
            continue
        numbers = [str(each[name]) for name in columns]
        table.add_row(numbers[0], numbers[1][:SHOWN_DIGITS], *numbers[2:])
    out.print(table)


def _show_lengths(summary: Summary) -> None:
    most = max((count for _, _, count in summary.lengths), default=1)
    table = Table(
        "rows", "episodes", "", title="lengths of episodes", title_justify="left", box=None
    )
    for low, high, count in summary.lengths:
        bar = "█" * max(round(count / most * BAR_WIDTH), 1 if count else 0)
        table.add_row(f"{low} to {high}" if high > low else str(low), str(count), bar)
    out.print(table)


def _show_tasks(summary: Summary) -> None:
    table = Table("task", "episodes", title="tasks", title_justify="left", box=None)
    for task, count in summary.tasks[:SHOWN_TASKS]:
        table.add_row(as_markup(task), str(count))
    if len(summary.tasks) > SHOWN_TASKS:
        table.add_row(f"… and {len(summary.tasks) - SHOWN_TASKS} more", "")
    out.print(table)


def _show_features(summary: Summary) -> None:
    table = Table("feature", "dtype and shape", title="features", title_justify="left", box=None)
    for name, text in summary.features.items():
        table.add_row(as_markup(name), as_markup(text))
    out.print(table)


def _show_cameras(summary: Summary) -> None:
    if not summary.cameras:
        return
    title = f"cameras, over {len(summary.looked_at)} episodes"
    names = ("camera", "codec", "size", "pixels", "GOP", "cost of a random frame", "per frame")
    table = Table(*names, title=title, title_justify="left", box=None)
    for camera in summary.cameras:
        table.add_row(
            *camera_cells(camera),
            f"{camera.random_cost:.1f} frames",
            decimal(round(camera.bytes_per_frame)),
        )
    out.print(table)

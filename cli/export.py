"""`roboshard export URL DST`: shards back to a LeRobot dataset."""

from collections.abc import Sequence

import tyro
from rich.progress import Progress

from roboshard.cli.run import err, out
from roboshard.common.plain import as_markup
from roboshard.tools.export import ExportConfig, export


def export_command(arguments: Sequence[str]) -> None:
    """Parse and run."""
    config: ExportConfig = tyro.cli(
        ExportConfig,
        prog="roboshard export",
        description="Write a LeRobot v3 dataset from shards: the same rows, the same video packets.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("episodes", total=None)
        report = export(
            config, lambda done, total: progress.update(task, completed=done, total=total)
        )
    again = ", numbered anew from 0" if report.renumbered else ""
    out.print(
        f"{report.episodes} episodes{again}, {report.frames} frames in {report.data_files} data files and "
        f"{report.video_files} video files → {as_markup(str(report.destination))}",
        soft_wrap=True,
    )

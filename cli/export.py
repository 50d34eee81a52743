"""`roboshard export URL DST`: shards back to a LeRobot dataset."""

from collections.abc import Sequence

from roboshard.cli.options import parse_options
from roboshard.cli.progress import counter
from roboshard.cli.run import out
from roboshard.common.plain import as_markup
from roboshard.tools.export import ExportConfig, export


def export_command(arguments: Sequence[str]) -> None:
    """Run `roboshard export`: parse options, write and print what was written."""
    config = parse_options(
        ExportConfig,
        "roboshard export",
        arguments,
        "Write a LeRobot v3 dataset from shards: the same rows, the same video packets.",
    )
    with counter("episodes") as on_episode:
        report = export(config, on_episode)
    again = ", numbered anew from 0" if report.renumbered else ""
    out.print(
        f"{report.episodes} episodes{again}, {report.frames} frames in {report.data_files} data "
        f"files and {report.video_files} video files → {as_markup(str(report.destination))}",
        soft_wrap=True,
    )

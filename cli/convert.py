"""`convert-to-shards SOURCE DESTINATION`: the conversion as a command."""

from collections.abc import Sequence
from dataclasses import fields

from rich.filesize import decimal
from rich.table import Column, Table

from roboshard.cli.cameras import camera_cells
from roboshard.cli.config_file import CONFIG_HELP, with_config_file
from roboshard.cli.findings import show_findings
from roboshard.cli.options import parse_options
from roboshard.cli.run import err, out
from roboshard.common.plain import as_markup
from roboshard.converter import (
    ConversionPlan,
    ConversionReport,
    ConvertConfig,
    ReencodeConfig,
    convert,
    make_plan,
    survey_videos,
)
from roboshard.shards import OptionError
from roboshard.shards.cameras import CameraSummary
from roboshard.shards.gop import COSTLY

SHOWN_SHARDS = 20
DESCRIPTION = (
    "Convert a LeRobot dataset into WebDataset shards. "
    "Run it again to continue where it was interrupted."
)
REMEDY = (
    'make_loader(frame_order="sweep") decodes frames in order; '
    "`--video reencode --gop 2` makes every other frame a keyframe, at some cost of quality."
)


def convert_command(arguments: Sequence[str]) -> None:
    """Run `convert-to-shards`: parse flags over the config file's values, then plan or convert."""
    config = parse_config(arguments)
    if config.video_report:
        _show_videos(survey_videos(config))
    elif config.dry_run:
        _show_plan(make_plan(config), config)
    else:
        show_report(convert(config))
        if config.shards is not None:
            out.print(
                f"part {config.shards}; `roboshard finalize` makes a dataset of all parts",
                soft_wrap=True,
            )


def parse_config(
    arguments: Sequence[str], *, prog: str = "convert-to-shards", description: str = DESCRIPTION
) -> ConvertConfig:
    """Return the options of a command line; a flag beats the file that `--config` names.

    SOURCE or DESTINATION from the file stand in the place that they would have on the command line.

    Raises:
        OptionError, MissingError: the file is missing, unreadable, or has a key that is no option.
    """
    names = {field.name for field in (*fields(ConvertConfig), *fields(ReencodeConfig))}
    given = with_config_file(arguments, names - {"reencode"})
    config = parse_options(
        ConvertConfig,
        prog,
        given,
        f"{description} {CONFIG_HELP}",
    )
    how = [f"--{field.name}" for field in fields(ReencodeConfig)]
    vain = [flag for flag in how if any(text.partition("=")[0] == flag for text in given)]
    if vain and config.video == "copy":  # even with the value that is the default
        raise OptionError(f"{', '.join(vain)}: how to encode again, which needs --video reencode")
    return config


def _show_plan(plan: ConversionPlan, config: ConvertConfig) -> None:
    out.print(as_markup(f"{plan.source.meta.files.name} → {config.destination}"), soft_wrap=True)
    table = Table("shard", "episodes", "about")
    for number, shard in enumerate(plan.shards[:SHOWN_SHARDS]):
        table.add_row(
            str(number), str(shard.stop - shard.start), decimal(int(plan.sizes[shard].sum()))
        )
    if len(plan.shards) > SHOWN_SHARDS:
        table.add_row("…", "", "")
    out.print(table)
    if plan.video is not None:
        out.print(as_markup(plan.video), soft_wrap=True)
    new = "" if plan.base is None else "new "
    out.print(
        f"{len(plan.episodes)} {new}episodes in {len(plan.shards)} shards, about "
        f"{decimal(int(plan.sizes.sum()))}; nothing was written (--dry-run)",
        soft_wrap=True,
    )


def _show_videos(cameras: Sequence[CameraSummary]) -> None:
    """Print how the cameras are encoded, and what helps where random frames are costly."""
    names = ("codec", "size", "pixels", "GOP", "longest", "decoded per\nrandom frame")
    table = Table(Column("camera", overflow="fold"), *names)
    for camera in cameras:
        table.add_row(
            *camera_cells(camera),
            str(camera.longest_gop),
            f"{camera.random_cost:.1f}" + (", costly" if camera.random_cost > COSTLY else ""),
        )
    out.print(table)
    if any(camera.random_cost > COSTLY for camera in cameras):
        out.print(f"Keyframes are far apart. {REMEDY}", soft_wrap=True)
    out.print("nothing was written (--video-report)")


def show_report(report: ConversionReport) -> None:
    """Print what a conversion did."""
    if report.kept_episodes and not report.episodes:
        out.print(
            f"nothing new: {as_markup(str(report.destination))} has {report.kept_episodes} "
            "episodes as before",
            soft_wrap=True,
        )
        _show_skipped(report)
        return
    reused = f", {report.reused_shards} of them from an earlier run" if report.reused_shards else ""
    out.print(
        f"{report.episodes} {'new ' if report.kept_episodes else ''}episodes, {report.frames} "
        f"frames, {decimal(report.bytes_written)} in {report.shards} shards{reused} → "
        f"{as_markup(str(report.destination))}",
        soft_wrap=True,
    )
    if report.video is not None:
        out.print(as_markup(report.video), soft_wrap=True)
    for camera, cost in report.random_frame_costs.items():
        if cost > COSTLY:
            out.print(
                f"{as_markup(camera)}: keyframes are far apart; a random frame costs {cost:.0f} "
                f"decoded frames. {REMEDY}",
                soft_wrap=True,
            )
    show_findings(report.findings)
    if report.kept_episodes:
        total = report.kept_episodes + report.episodes
        out.print(
            f"the dataset had {report.kept_episodes} episodes, and has {total} now", soft_wrap=True
        )
    _show_skipped(report)


def _show_skipped(report: ConversionReport) -> None:
    if report.skipped:
        err.print(
            f"[bold yellow]{len(report.skipped)} episodes were left out[/]; "
            f"see {as_markup(str(report.destination))}/skipped.json",
            soft_wrap=True,
        )

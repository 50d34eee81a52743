"""`roboshard preview URL`: an episode as a picture, or for the Rerun viewer."""

from collections.abc import Sequence

import tyro
from rich.progress import Progress

from roboshard.cli.run import err, out
from roboshard.common.plain import as_markup
from roboshard.tools.preview import PreviewConfig, preview


def preview_command(arguments: Sequence[str]) -> None:
    """Parse and run."""
    config = tyro.cli(
        PreviewConfig,
        prog="roboshard preview",
        description="Draw an episode: frames of every camera, and below them state and action over time. "
        "Or write it as a recording for the Rerun viewer.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    hidden = config.rerun is None or not err.is_terminal
    with Progress(console=err, transient=True, disable=hidden) as progress:
        task = progress.add_task("frames", total=None)
        report = preview(
            config, lambda done, total: progress.update(task, completed=done, total=total)
        )
    for key, why in report.not_drawn.items():
        err.print(as_markup(f"not shown: {key} ({why})"), soft_wrap=True)
    for path in (report.output, report.rerun):
        if path is not None:
            what = (
                f"{report.dataset}, episode {report.episode_index}, {report.length} frames → {path}"
            )
            out.print(as_markup(what), soft_wrap=True)

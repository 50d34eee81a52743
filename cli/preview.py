"""`roboshard preview URL`: an episode as a picture, or for the Rerun viewer."""

from collections.abc import Sequence

from roboshard.cli.options import parse_options
from roboshard.cli.progress import counter
from roboshard.cli.run import err, out
from roboshard.common.plain import as_markup
from roboshard.tools.preview import PreviewConfig, preview


def preview_command(arguments: Sequence[str]) -> None:
    """Run `roboshard preview`: parse options, draw or record, and print what was written."""
    config = parse_options(
        PreviewConfig,
        "roboshard preview",
        arguments,
        "Draw an episode: frames of every camera, and below them state and action over time. "
        "Or write it as a recording for the Rerun viewer.",
    )
    with counter("frames", hidden=config.rerun is None) as on_progress:
        report = preview(config, on_progress)
    for key, why in report.not_drawn.items():
        err.print(as_markup(f"not shown: {key} ({why})"), soft_wrap=True)
    for path in (report.output, report.rerun):
        if path is not None:
            what = (
                f"{report.dataset}, episode {report.episode_index}, {report.length} frames → {path}"
            )
            out.print(as_markup(what), soft_wrap=True)

"""`roboshard idle URL`: frames in which nothing moves, and the ranges of all others for
`keep_ranges`.
"""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from roboshard.cli.options import parse_options
from roboshard.cli.progress import counter
from roboshard.cli.run import out
from roboshard.common.plain import as_markup
from roboshard.tools.idle import IdleConfig, IdleEpisode, IdleReport, find_idle

SHOWN = 20
WIDTH = 48
DROPPED, PARTLY, KEPT = "·", "▒", "█"


def idle_command(arguments: Sequence[str]) -> None:
    """Run `roboshard idle`: parse options, look and print."""
    config = parse_options(
        IdleConfig,
        "roboshard idle",
        arguments,
        "Find frames in which nothing moves for long, show them, and write the ranges of all "
        "others to a file: make_loader(keep_ranges=FILE) then trains on those alone, while "
        "windows see all.",
    )
    with counter("episodes") as on_episode:
        report = find_idle(config, on_episode)
    _show(report)


def _show(report: IdleReport) -> None:
    if report.idle:
        table = Table("episode", "frames", "dropped", f"{KEPT} kept  {DROPPED} dropped", box=None)
        most = sorted(report.idle, key=lambda episode: -episode.dropped)[:SHOWN]
        for episode in sorted(most, key=lambda episode: episode.episode_index):
            table.add_row(
                str(episode.episode_index),
                str(episode.length),
                str(episode.dropped),
                picture(episode),
            )
        out.print(table)
        if len(report.idle) > SHOWN:
            out.print(f"… and {len(report.idle) - SHOWN} episodes that lose fewer")
    whole = sum(not episode.kept for episode in report.idle)
    out.print(
        f"nothing moves in {report.dropped} of {report.frames} frames "
        f"({report.dropped / max(1, report.frames):.1%}), in {len(report.idle)} of "
        f"{report.episodes} episodes, {whole} of them from beginning to end; motion is that of "
        f"{as_markup(', '.join(report.features))}",
        soft_wrap=True,
    )
    if report.output is not None:
        out.print(f"→ {as_markup(str(report.output))}", soft_wrap=True)


def picture(episode: IdleEpisode) -> str:
    """Return a line that shows an episode from its beginning to its end: which of its frames are
    kept.
    """
    is_kept = np.zeros(episode.length, dtype=np.bool_)
    for first, stop in episode.kept:
        is_kept[first:stop] = True
    pieces = np.array_split(is_kept, min(WIDTH, episode.length))
    return "".join(KEPT if piece.all() else PARTLY if piece.any() else DROPPED for piece in pieces)

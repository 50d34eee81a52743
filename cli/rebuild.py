"""`roboshard rebuild ROOT`: manifests and index again, from the shards alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from roboshard.cli.options import parse_options
from roboshard.cli.run import out
from roboshard.common.plain import as_markup
from roboshard.shards import rebuild


@dataclass(frozen=True)
class RebuildOptions:
    """Derive dataset.json, episodes.parquet and the shard manifests again from the shards alone."""

    root: tyro.conf.Positional[Path]
    """The dataset's folder."""
    partial: bool = False
    """Accept that shards of the conversion are missing, and make a smaller dataset."""


def rebuild_command(arguments: Sequence[str]) -> None:
    """Run `roboshard rebuild`: parse options, rebuild and print what was written."""
    options = parse_options(
        RebuildOptions,
        "roboshard rebuild",
        arguments,
    )
    manifest = rebuild(options.root, partial_dataset=options.partial)
    out.print(
        f"{manifest.total_episodes} episodes, {manifest.total_frames} frames in "
        f"{len(manifest.shards)} shards: manifests and index written to "
        f"{as_markup(str(options.root))}",
        soft_wrap=True,
    )

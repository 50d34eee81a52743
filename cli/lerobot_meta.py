"""`roboshard lerobot-meta ROOT`: meta/ of a folder of shards, for LeRobot's own datasets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from roboshard.cli.options import parse_options
from roboshard.cli.run import out
from roboshard.common.plain import as_markup
from roboshard.tools.lerobot_storage import recover, write_meta


@dataclass(frozen=True)
class MetaOptions:
    """Write meta/ into a folder of shards, so that LeRobotDataset(root=ROOT) reads it.

    Run it again when the dataset has grown. For a URL it is not needed: LeRobotDataset(root=URL)
    finds the metadata by itself. Episodes that an interrupted recording left go into shards first.
    """

    root: tyro.conf.Positional[str]
    """The dataset: a folder, or with FOLDER a URL too."""
    folder: tyro.conf.Positional[Path | None] = None
    """Where meta/ is written; default: into ROOT."""


def lerobot_meta_command(arguments: Sequence[str]) -> None:
    """Run `roboshard lerobot-meta`: parse options, write meta/ and print where it is."""
    options = parse_options(MetaOptions, "roboshard lerobot-meta", arguments)
    if options.folder is None:
        left = recover(options.root)
        if left:
            out.print(f"{left} episodes of an interrupted recording put into shards")
    folder = write_meta(options.root, options.folder)
    out.print(f"meta/ written to {as_markup(str(folder))}", soft_wrap=True)

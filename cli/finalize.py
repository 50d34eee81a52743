"""`roboshard finalize SOURCE DESTINATION`: one dataset of shards that were converted in parts."""

from collections.abc import Sequence

from roboshard.cli.convert import parse_config, show_report
from roboshard.converter import finalize


def finalize_command(arguments: Sequence[str]) -> None:
    """Run `roboshard finalize`: parse as `convert-to-shards` does, check all shards, publish."""
    config = parse_config(
        arguments,
        prog="roboshard finalize",
        description="Check the shards that `convert-to-shards --shards I/N` wrote, and make a "
        "dataset of them: the index and, last, dataset.json. SOURCE, DESTINATION and options are "
        "those of the parts, without --shards.",
    )
    show_report(finalize(config))

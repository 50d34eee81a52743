"""How commands show what is odd in a source."""

from collections.abc import Sequence

from roboshard.cli.run import out
from roboshard.common.plain import as_markup
from roboshard.converter import FindingGroup


def show_findings(groups: Sequence[FindingGroup]) -> None:
    """Print each kind in a line: how often it was found, how it is read, and where first."""
    for group in groups:
        first = group.first[0]
        times = "" if group.count == 1 else f", {group.count} times"
        out.print(
            as_markup(f"{group.code}{times}: {group.read_as}. First: {first.where}: {first.what}"),
            soft_wrap=True,
        )

"""A benchmark's result, and Markdown of it."""

from collections.abc import Iterable, Sequence
from typing import Any

Result = dict[str, Any]
"""What a benchmark wrote: `benchmarks/results/NAME.json`."""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells may be empty."""
    return "\n".join([_line(heads), f"|{'---|' * len(heads)}", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def ratios(rows: Iterable[Sequence[str]]) -> str:
    """Ratios of a round's cases: name, median, and range of the rounds."""
    return table(("ratio of frames/s, round by round", "median", "range"), rows)


def provenance(result: Result) -> str:
    """The line under a table: what printed it, and where."""
    return f"`{result['command']}` on {result['machine']}."

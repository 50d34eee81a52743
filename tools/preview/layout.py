"""Where everything stands on a contact sheet. Arithmetic, in inches from the upper left corner."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 12.0
LEFT = 0.55
"""Inches left of strips and curves, for the numbers of axes."""
SIDE = 2.0
"""Inches right of strips and curves, for names."""
STRIP_WIDTH = WIDTH - LEFT - SIDE
HEAD = 0.82
TIMES = 0.2
GAP = 0.05
MAX_STRIP = 2.4
MIN_STRIP = 0.55
"""Least height of a strip in inches, which the lines of text beside it need."""
PANEL, LOW_PANEL = 1.15, 0.6
"""Least heights of the curves of a vector, and of a single number, in inches."""
PANEL_GAP = 0.16
LEGEND_LINE = 0.135
LEGEND_HEAD = 0.5
FOOT = 0.5


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """A rectangle on the sheet, in inches from its upper left corner."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where everything stands on a sheet, in inches from its upper left corner."""

    height: float
    times: float
    """How far down the middle of the line with the frames' times is."""
    gap: float
    """Space between neighbouring frames."""
    strips: tuple[Rectangle, ...]
    """The strip of each camera, from the top down."""
    panels: tuple[Rectangle, ...]
    """The panel of each feature with curves, below the strips."""


def panel_height(dimensions: int, legend_lines: int) -> float:
    """Return how high a feature's curves are, in inches."""
    return max(PANEL if dimensions > 1 else LOW_PANEL, LEGEND_HEAD + legend_lines * LEGEND_LINE)


def make_layout(
    *, columns: int, shapes: Sequence[tuple[int, ...]], panels: Sequence[float]
) -> Layout:
    """Place everything on a sheet.

    Args:
        columns: Frames per camera.
        shapes: (height, width) of each camera's pictures.
        panels: Height of each feature's curves.
    """
    top = HEAD + (TIMES if shapes else 0)
    strips, placed = [], []
    for height, width in shapes:
        wanted = (STRIP_WIDTH / columns - GAP) * height / width
        strips.append(
            Rectangle(
                left=LEFT, top=top, width=STRIP_WIDTH, height=min(max(wanted, MIN_STRIP), MAX_STRIP)
            )
        )
        top += strips[-1].height + GAP
    for panel in panels:
        top += PANEL_GAP
        placed.append(Rectangle(left=LEFT, top=top, width=STRIP_WIDTH, height=panel))
        top += panel
    return Layout(
        height=top + (FOOT if panels else GAP * 2),
        times=HEAD + TIMES / 2 - 0.03,
        gap=GAP,
        strips=tuple(strips),
        panels=tuple(placed),
    )

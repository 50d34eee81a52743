"""Where everything stands on a contact sheet. Arithmetic, in inches from the upper left corner."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 12.0
LEFT = 0.55
"""Before strips and curves, for the numbers of axes."""
SIDE = 2.0
"""After them, for names."""
STRIP_WIDTH = WIDTH - LEFT - SIDE
HEAD = 0.82
TIMES = 0.2
GAP = 0.05
MAX_STRIP = 2.4
MIN_STRIP = 0.55
"""Lines of text beside a strip need that."""
PANEL, LOW_PANEL = 1.15, 0.6
"""Of a vector, and of a single number."""
PANEL_GAP = 0.16
LEGEND_LINE = 0.135
LEGEND_HEAD = 0.5
FOOT = 0.5


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """A rectangle."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A sheet."""

    height: float
    times: float
    """The middle of the line with the frames' times."""
    gap: float
    """Between frames."""
    strips: tuple[Rectangle, ...]
    """Of each camera, from the top down."""
    panels: tuple[Rectangle, ...]
    """Of each feature with curves, below."""


def panel_height(dimensions: int, legend_lines: int) -> float:
    """How high a feature's curves are."""
    return max(PANEL if dimensions > 1 else LOW_PANEL, LEGEND_HEAD + legend_lines * LEGEND_LINE)


def make_layout(
    *, columns: int, shapes: Sequence[tuple[int, ...]], panels: Sequence[float]
) -> Layout:
    """Place everything.

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

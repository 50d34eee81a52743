"""The contact sheet: a strip of frames per camera, and below them curves on the same scale of time.

Needs matplotlib. The center of a frame stands above its moment in the curves.
"""

import io
import warnings
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType

from roboshard.common.plain import plain
from roboshard.tools.preview.content import Content, Curves
from roboshard.tools.preview.layout import (
    LEFT,
    LEGEND_LINE,
    LOW_PANEL,
    SIDE,
    STRIP_WIDTH,
    WIDTH,
    Layout,
    Rectangle,
    make_layout,
    panel_height,
)
from roboshard.tools.preview.thumbnails import Picture, depth_range

DPI = 110
BLACK, GREY, PALE = "0.1", "0.45", "0.88"
LABEL_GAP = 0.14
"""Inches between what is shown and the labels beside it."""
HUGE = 1e300
"""Values are drawn up to this one, of which twice is still a float64, for matplotlib's sums."""
MAX_NAMES = 16
"""Most names of dimensions that a legend shows."""
ONE_COLUMN, SHORT_NAME = 6, 11
"""Most names of a legend with one column; most characters of names that stand in two columns."""
SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
)
"""Fonts for what the default one lacks, where they are installed."""


def draw(content: Content, rows: Sequence[int], pictures: Mapping[str, Sequence[Picture]]) -> bytes:
    """Draw the sheet, and return it as a PNG file.

    Args:
        content: The episode.
        rows: Which of its rows the pictures show.
        pictures: Camera -> its pictures of these rows.
    """
    layout = make_layout(
        columns=len(rows),
        shapes=[frames[0].shape[:2] for frames in pictures.values()],
        panels=[
            panel_height(len(curves.names), _legend_size(curves)[0]) for curves in content.curves
        ],
    )
    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *(family for family in SCRIPTS if family in installed)]
    look = {
        "font.family": families,
        "font.size": 8,
        "text.parse_math": False,
        "axes.unicode_minus": False,
    }
    with style.context(look, after_reset=True), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a character that no font has is drawn as a box
        page = _Page(layout)
        page.title(content)
        if pictures:
            page.times(content, rows)
        for place, (key, frames) in zip(layout.strips, pictures.items(), strict=True):
            page.strip(place, key, frames)
        for place, curves in zip(layout.panels, content.curves, strict=True):
            page.panel(place, content, curves, rows, is_last=place is layout.panels[-1])
        return page.png()


def _legend_size(curves: Curves) -> tuple[int, int]:
    """Return the lines and columns of a feature's legend; (0, 1) for one without."""
    if not curves.named or len(curves.names) > MAX_NAMES:
        return 0, 1
    columns = (
        2 if len(curves.names) > ONE_COLUMN and max(map(len, curves.names)) <= SHORT_NAME else 1
    )
    return -(-len(curves.names) // columns), columns


def _colours(count: int) -> list[ColorType]:
    if count <= 10:
        return [mpl.colormaps["tab10"](i) for i in range(count)]
    return [
        tuple(0.88 * x for x in mpl.colormaps["turbo"](place)[:3])
        for place in np.linspace(0.05, 0.95, count)
    ]


class _Page:
    """A figure on which places are given in inches from the upper left corner."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._figure = Figure(figsize=(WIDTH, layout.height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self._figure)

    def title(self, content: Content) -> None:
        """Write the dataset and the episode, its facts, and its task."""
        right = LEFT + STRIP_WIDTH
        facts = (
            f"{content.length} frames · {content.length / content.fps:.2f} s · {content.fps:g} fps"
        )
        taken = self._text(right, 0.36, facts, room=4, size=9, colour=GREY, align="right")
        room, end = right - LEFT - taken - 0.3, f" · episode {content.episode_index}"
        self._text(LEFT, 0.36, content.dataset, end=end, room=room, size=13, weight="bold")
        tasks = " → ".join(dict.fromkeys(" ".join(task.split()) for _, task in content.tasks))
        self._text(LEFT, 0.62, tasks, room=WIDTH - LEFT - 0.2, size=9)

    def times(self, content: Content, rows: Sequence[int]) -> None:
        """Write the time of each frame, above the first strip."""
        cell = STRIP_WIDTH / len(rows)
        for i, row in enumerate(rows):
            time = f"{content.seconds[row]:.2f}" + (" s" if len(rows) <= 12 else "")
            self._text(
                LEFT + (i + 0.5) * cell,
                self._layout.times,
                time,
                room=cell,
                size=7,
                colour=GREY,
                align="center",
            )

    def strip(self, place: Rectangle, key: str, frames: Sequence[Picture]) -> None:
        """Draw the frames of a camera, and write its name."""
        depth = depth_range(frames) if frames[0].ndim == 2 else None
        cell = STRIP_WIDTH / len(frames)
        width = cell - self._layout.gap
        for i, frame in enumerate(frames):
            axis = self._axes(
                Rectangle(
                    left=LEFT + i * cell + self._layout.gap / 2,
                    top=place.top,
                    width=width,
                    height=place.height,
                )
            )
            axis.set(xticks=[], yticks=[])
            for edge in axis.spines.values():
                edge.set(color=PALE, linewidth=0.6)
            low, high = depth or (None, None)
            axis.imshow(
                frame,
                cmap="viridis",
                vmin=low,
                vmax=high,
                aspect="equal",
                interpolation="antialiased",
            )
        top = self._name(place, key)
        height, width_px = frames[0].shape[:2]
        lines = [f"{width_px} × {height}"] + (
            [f"{depth[0]:.0f} to {depth[1]:.0f} mm"] if depth else []
        )
        for i, line in enumerate(lines):
            self._side(top + 0.15 * i, line, size=7, colour=GREY)

    def panel(
        self,
        place: Rectangle,
        content: Content,
        curves: Curves,
        rows: Sequence[int],
        *,
        is_last: bool,
    ) -> None:
        """Draw the curves of a feature, and write their names."""
        axis = self._axes(place)
        seconds, end = content.seconds, float(content.seconds[-1])
        margin = (end - float(seconds[0])) / (2 * (len(rows) - 1)) if len(rows) > 1 else 0.5
        axis.set_xlim(float(seconds[0]) - margin, end + margin)
        for row in rows:
            axis.axvline(float(seconds[row]), color=PALE, linewidth=0.6, zorder=0)
        colours = _colours(len(curves.names))
        drawable = np.where(np.isfinite(curves.values), curves.values.clip(-HUGE, HUGE), np.nan)
        for values, colour in zip(drawable.T, colours, strict=True):
            marker, drawn = (
                "." if len(seconds) == 1 else "",
                "steps-post" if curves.boolean else "default",
            )
            axis.plot(seconds, values, color=colour, linewidth=0.9, marker=marker, drawstyle=drawn)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("0.7")
        axis.tick_params(length=2, labelsize=7, color="0.7", labelcolor=GREY, labelbottom=is_last)
        axis.yaxis.set_major_locator(
            MaxNLocator(5 if place.height > LOW_PANEL else 2, steps=[1, 2, 5, 10])
        )
        if curves.boolean:
            axis.set(ylim=(-0.15, 1.15), yticks=[0, 1], yticklabels=["false", "true"])
        if is_last:
            axis.set_xlabel("time in s", fontsize=7, color=GREY, labelpad=2)
        top = self._name(place, curves.key)
        self._legend(top, curves, colours)

    def png(self) -> bytes:
        """Return the page as a PNG file."""
        buffer = io.BytesIO()
        self._figure.savefig(
            buffer,
            format="png",
            dpi=DPI,
            metadata={"Software": "roboshard"},
            pil_kwargs={"optimize": True},
        )
        return buffer.getvalue()

    def _axes(self, place: Rectangle) -> Axes:
        height = self._layout.height
        bottom = height - place.top - place.height
        return self._figure.add_axes(
            (place.left / WIDTH, bottom / height, place.width / WIDTH, place.height / height)
        )

    def _legend(self, top: float, curves: Curves, colours: Sequence[ColorType]) -> None:
        lines, columns = _legend_size(curves)
        if not lines:
            count = len(curves.names)
            self._side(top, f"{count} dimensions" if count > 1 else "", size=7, colour=GREY)
            return
        room = (SIDE - LABEL_GAP) / columns
        for i, (name, colour) in enumerate(zip(curves.names, colours, strict=True)):
            left = LEFT + STRIP_WIDTH + LABEL_GAP + i // lines * room
            y = top + LEGEND_LINE * (i % lines)
            self._line(left, y, colour)
            self._text(left + 0.24, y, name, room=room - 0.3, size=7)

    def _line(self, left: float, top: float, colour: ColorType) -> None:
        y = 1 - top / self._layout.height
        self._figure.add_artist(
            Line2D([left / WIDTH, (left + 0.17) / WIDTH], [y, y], color=colour, linewidth=1.5)
        )

    def _name(self, place: Rectangle, key: str) -> float:
        """Write a feature's name at the side, the last part large, what is before it small; return
        where the next line stands.
        """
        before, dot, last = key.rpartition(".")
        top = place.top + 0.1
        if before:
            self._side(top, before + dot, size=7, colour=GREY)
            top += 0.15
        self._side(top + 0.02, last, size=9, weight="bold")
        return top + 0.19

    def _side(
        self,
        top: float,
        text: str,
        *,
        size: float,
        colour: ColorType = BLACK,
        weight: str = "normal",
    ) -> None:
        left = LEFT + STRIP_WIDTH + LABEL_GAP
        self._text(
            left, top, text, room=SIDE - LABEL_GAP - 0.1, size=size, colour=colour, weight=weight
        )

    def _text(  # noqa: PLR0913 - place and look of a text
        self,
        left: float,
        top: float,
        text: str,
        *,
        room: float,
        size: float,
        end: str = "",
        colour: ColorType = BLACK,
        weight: str = "normal",
        align: str = "left",
    ) -> float:
        """Write one line, its middle at `top`, and return how wide it is in inches.

        The line is cut before `end` where it is wider than `room`.
        """
        x, y = left / WIDTH, 1 - top / self._layout.height
        text = plain(text)
        line = text + end
        artist = self._figure.text(
            x, y, line, fontsize=size, color=colour, fontweight=weight, ha=align, va="center"
        )
        kept = len(text)
        while (width := artist.get_window_extent().width / DPI) > room and kept > 1:
            kept = min(kept - 1, int(kept * room / width))
            artist.set_text(text[:kept].rstrip() + "…" + end)
        return width

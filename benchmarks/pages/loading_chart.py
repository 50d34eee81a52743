"""The charts of benchmarks/loading.py: every contender, and every setting, as a part of the
limit.
"""

from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from loading_cases import ORDERS, matrix_case
from pages.markdown import Result
from pages.matrix import LIMIT, matrix_groups

COLORS = {"torchcodec": "0.4", "roboshard": "tab:blue", "lerobot": "0.7", "webdataset": "0.7"}
COLORS_OF_ORDERS = ("tab:blue", "tab:orange")
LABELS = {
    "torchcodec_sequential": "the limit: decoding in order",
    "roboshard_sweep": "roboshard, sweep",
    "roboshard_uniform": "roboshard, uniform",
    "roboshard_sweep_float32": "roboshard, sweep, float32",
    "roboshard_uniform_float32": "roboshard, uniform, float32",
    "lerobot": "LeRobot 0.4.4, float32",
    "webdataset_jpeg": "WebDataset with JPEGs",
}
TITLES = {"source": "videos as recorded", "long_gop": "H.264, a keyframe every 250 frames"}


def draw_loading(result: Result, path: Path) -> None:
    """Frames/s over the limit's: bars are medians, ticks are the rounds.

    One panel for each kind of video.
    """
    mpl.use("agg")
    panels = {videos: headline(result, videos) for videos in TITLES}
    panels = {videos: names for videos, names in panels.items() if names}
    heights = [len(names) for names in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(9, 0.7 + 0.34 * sum(heights)),
        constrained_layout=True,
        height_ratios=heights,
        squeeze=False,
    )
    for axis, (videos, names) in zip(axes[:, 0], panels.items(), strict=True):
        draw_panel(axis, result, names)
        axis.set_title(
            f"{TITLES[videos]}: frames/s over the limit's (bars: medians, ticks: runs)", fontsize=9
        )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def headline(result: Result, videos: str) -> list[str]:
    """The labeled cases of this kind of video, the limit first."""
    names = [name for name, case in result["cases"].items() if case["settings"]["videos"] == videos]
    return [name for name in names if short(name) in LABELS]


def short(name: str) -> str:
    """The case's name without the kind of video."""
    return name.removeprefix("long_gop_")


def draw_panel(axis: Axes, result: Result, names: list[str]) -> None:
    """Horizontal bars from the top down."""
    for row, name in enumerate(names):
        case = result["cases"][name]
        rounds = relative(result, names[0], name)
        value = median(rounds)
        axis.barh(row, value, color=COLORS[case["settings"]["contender"]])
        axis.plot(rounds, [row] * len(rounds), "|", color="black", markersize=8)
        speed = f"{value:.2f}   {case['median']['frames_per_s']:,.0f} frames/s"
        axis.text(max([value, *rounds]) + 0.01, row, speed, va="center", fontsize=8)
    axis.set_yticks(range(len(names)), [LABELS[short(name)] for name in names], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.3)
    axis.spines[["top", "right"]].set_visible(False)


def relative(result: Result, limit: str, name: str) -> list[float]:
    """Frames/s of the rounds over the limit's."""
    rounds: list[float] = (
        [1.0] if name == limit else result["ratios"][f"{name} / {limit}"]["rounds"]
    )
    return rounds


def draw_matrix(result: Result, path: Path) -> None:
    """Frames/s over the limit's, a panel for each setting: dots are medians, ticks rounds, dotted
    the default.
    """
    mpl.use("agg")
    groups = matrix_groups(result)
    figure, axes = plt.subplots(
        1, len(groups), figsize=(12, 2.8), constrained_layout=True, sharey=True
    )
    for axis, (keyword, values) in zip(axes, groups.items(), strict=True):
        for order, names, color in zip(
            ORDERS, zip(*values.values(), strict=True), COLORS_OF_ORDERS, strict=True
        ):
            rounds = [relative(result, LIMIT, name) for name in names]
            default = relative(result, LIMIT, matrix_case("source", order, "default"))
            axis.axhline(median(default), linestyle=":", color=color, linewidth=1)
            axis.plot(
                [median(each) for each in rounds], "o-", color=color, markersize=4, label=order
            )
            for place, each in enumerate(rounds):
                axis.plot([place] * len(each), each, "_", color=color, markersize=7)
        axis.set_xticks(
            range(len(values)), [label.replace(", ", ",\n") for label in values], fontsize=7
        )
        axis.set_title(keyword, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 1.3)
    axes[0].set_ylabel("frames/s over the limit's", fontsize=8)
    axes[0].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)

"""What benchmarks/shuffle_quality.py found, as a table and as charts over pool sizes."""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from pages.markdown import Result, table

TITLES = {
    "distinct_episodes_over_true_shuffle": "distinct episodes in a batch, of a true shuffle's",
    "neighbour_distance_over_true_shuffle": "distance of neighbours, of a true shuffle's",
    "mean_abs_autocorrelation": "autocorrelation, mean of |r| at lags 1 to 64",
    "window_variance": "variance of the mean of {window} batches, of a true shuffle's",
}
COLUMNS = (
    "frame_order",
    "ranks",
    "workers of each",
    "pool",
    "distinct episodes in a global batch, of a true shuffle's",
    "distance of neighbours, of a true shuffle's",
    "autocorrelation (true shuffle's)",
    "variance of the mean of {window} batches, of a true shuffle's (measured of one)",
)
MARKERS = ("o", "s", "^", "D")


def shuffle_table(result: Result) -> str:
    """Every frame order with its default pool, beside a true shuffle."""
    heads = [column.format(window=result["window"]) for column in COLUMNS]
    rows = []
    for row in result["settings"]:
        if row["is_default"]:
            cells = (
                f"`{row['order']}`",
                str(row["ranks"]),
                _workers(result, row),
                f"{row['pool']:,}",
                f"{row['distinct_episodes_over_true_shuffle']:.2f}",
                f"{row['neighbour_distance_over_true_shuffle']:.2f}",
                _beside_true(row, "mean_abs_autocorrelation", digits=4),
                _beside_true(row, "window_variance", digits=2),
            )
            rows.append(cells)
    return table(heads, rows)


def _workers(result: Result, row: Result) -> str:
    counts = ", ".join(map(str, result["workers"]))
    return counts if row["is_same_for_all_workers"] else f"{counts}: not the same"


def _beside_true(row: Result, name: str, *, digits: int) -> str:
    return f"{row[name]:.{digits}f} ({row[f'{name}_of_true_shuffle']:.{digits}f})"


def draw_shuffle(result: Result, path: Path) -> None:
    """Draw one row of panels for each number of ranks, one column per number; dashed: the true
    shuffle.
    """
    mpl.use("agg")
    ranks = sorted({row["ranks"] for row in result["settings"]})
    figure, axes = plt.subplots(
        len(ranks), len(TITLES), figsize=(15, 2.6 * len(ranks)), squeeze=False, sharex=True
    )
    for line, number in zip(axes, ranks, strict=True):
        rows = [row for row in result["settings"] if row["ranks"] == number]
        for axis, name in zip(line, TITLES, strict=True):
            _draw_panel(axis, rows, name)
        line[0].set_ylabel(f"{number} rank{'s' if number > 1 else ''}")
    for axis, title in zip(axes[0], TITLES.values(), strict=True):
        axis.set_title(title.format(window=result["window"]), fontsize=8.5)
    for axis in axes[-1]:
        axis.set_xlabel("pool_episodes (large: the default)", fontsize=9)
    axes[0][0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_panel(axis: Axes, rows: list[Result], name: str) -> None:
    """Draw one number over pool sizes, a line for each frame order."""
    orders = list(dict.fromkeys(row["order"] for row in rows))
    for order, marker in zip(orders, MARKERS, strict=False):
        mine = sorted((row for row in rows if row["order"] == order), key=lambda row: row["pool"])
        pools, values = [row["pool"] for row in mine], [row[name] for row in mine]
        (line,) = axis.plot(pools, values, marker=marker, markersize=3, linewidth=1, label=order)
        default = next(row for row in mine if row["is_default"])
        axis.plot(default["pool"], default[name], marker, color=line.get_color(), markersize=8)
    is_ratio = name != "mean_abs_autocorrelation"
    true = 1.0 if is_ratio else rows[0][f"{name}_of_true_shuffle"]
    axis.axhline(true, color="black", linestyle="--", linewidth=1, label="true shuffle")
    axis.set_xscale("log", base=2)
    if name == "window_variance":
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)

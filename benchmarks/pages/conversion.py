"""What benchmarks/conversion.py found, as a table and as a chart."""

import shlex
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from pages.markdown import Result, table


def conversion_table(result: Result) -> str:
    """Conversion beside copy and hash."""
    words = shlex.split(result["command"])
    repeated = Path(words[words.index("--source") + 1]).name
    return table(
        (f"{result['source_bytes'] / 1e9:.2f} GB of {repeated}, repeated", "MB/s", "peak memory"),
        [
            ("`cp -r`, then `sha256sum` of the copy", str(result["copy_and_hash_mb_per_s"]), ""),
            (
                "`convert-to-shards`",
                str(result["convert_mb_per_s"]),
                f"{result['peak_rss_mb']} MB, all processes",
            ),
            ("ratio, run by run (median)", str(result["throughput_over_copy_and_hash"]), ""),
            (
                "`convert-to-shards` of a quarter of it",
                "",
                f"{result['peak_rss_mb_of_a_quarter_of_the_data']} MB",
            ),
        ],
    )


def draw_conversion(result: Result, path: Path) -> None:
    """Throughput of each run, and memory over the size of the data."""
    mpl.use("agg")
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 2.6), constrained_layout=True, width_ratios=[3, 2]
    )
    size = result["source_bytes"] / 1e6
    for row, (name, label) in enumerate(
        (("convert_s", "convert-to-shards"), ("copy_and_hash_s", "cp -r + sha256sum"))
    ):
        speeds = [size / seconds for seconds in result[name]]
        left.barh(row, sorted(speeds)[len(speeds) // 2], color=("tab:blue", "0.7")[row])
        left.plot(speeds, [row] * len(speeds), "|", color="black", markersize=9)
        left.text(5, row, label, va="center", color="white" if row == 0 else "black", fontsize=9)
    left.set_yticks([])
    left.set_title("MB/s of source (bars: medians, ticks: runs)", fontsize=9)
    sizes = [f"{size / 4000:.2f} GB", f"{size / 1000:.2f} GB"]
    right.bar(
        sizes, [result["peak_rss_mb_of_a_quarter_of_the_data"], result["peak_rss_mb"]], width=0.5
    )
    right.set_title("peak memory of all processes, MB", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)

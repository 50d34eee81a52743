"""Put what the benchmarks printed into the pages: tables between markers, and a chart.

    python benchmarks/publish.py

Reads benchmarks/results/*.json. A page holds `<!-- NAME -->` … `<!-- /NAME -->`; what is between them is made here.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))

Result = dict[str, Any]


def main() -> None:
    """Fill the pages, draw the chart."""
    blocks = render_blocks()
    for page in PAGES:
        page.write_text(fill(page.read_text(), blocks))
    draw_conversion(load("conversion"), PROJECT / "docs" / "pictures" / "conversion.png")


def render_blocks() -> dict[str, str]:
    """Block name -> Markdown."""
    makers: dict[str, Callable[[Result], str]] = {
        "conversion": conversion_table,
        "plan_scale": plan_table,
        "resume_cost": resume_table,
    }
    return {name: make(load(name)) for name, make in makers.items()}


def fill(page: str, blocks: dict[str, str]) -> str:
    """The page with every block that it has filled anew."""
    for name, text in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = pattern.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)
    return page


def load(name: str) -> Result:
    """A benchmark's result."""
    result: Result = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def provenance(result: Result) -> str:
    """The line under a table: what printed it, and where."""
    return f"\n`{result['command']}` on {result['machine']}."


def conversion_table(result: Result) -> str:
    """Conversion beside copy and hash."""
    return "\n".join(
        [
            f"| {result['source_bytes'] / 1e9:.2f} GB of aloha_sim, repeated | MB/s | peak memory |",
            "|---|---|---|",
            f"| `cp -r`, then `sha256sum` of the copy | {result['copy_and_hash_mb_per_s']} | |",
            f"| `convert-to-shards` | {result['convert_mb_per_s']} | {result['peak_rss_mb']} MB, all processes |",
            f"| ratio, run by run (median) | {result['throughput_over_copy_and_hash']} | |",
            f"| `convert-to-shards` of a quarter of it | | {result['peak_rss_mb_of_a_quarter_of_the_data']} MB |",
            provenance(result),
        ]
    )


def plan_table(result: Result) -> str:
    """Cost of a plan at scale."""
    rows = [
        f"| `{order}` | {result[order]['build_s']} s | {result[order]['build_peak_mb']} MB "
        f"| {result[order]['seek_ms_median']} ms | {result[order]['seek_ms_p99']} ms |"
        for order in ("uniform", "sweep")
    ]
    return "\n".join(
        [
            "| frame_order | built in | memory to build | any step of 64 samples, median | p99 |",
            "|---|---|---|---|---|",
            *rows,
            provenance(result),
        ]
    )


def resume_table(result: Result) -> str:
    """Cost of resuming beside starting."""
    rows = [
        f"| {name.replace('_', ' ')} | {result[name]['step']} | {1000 * result[name]['first_batch_s']:.0f} ms "
        f"| {result[name]['time_over_start']} | {result[name]['bytes_read'] / 1e6:.1f} MB "
        f"| {result[name]['bytes_over_start']} |"
        for name in ("start", "step_1", "half", "last")
    ]
    return "\n".join(
        [
            f"| resumed at | step of {result['steps_per_epoch']} | to first batch | over start | read | over start |",
            "|---|---|---|---|---|---|",
            *rows,
            provenance(result),
        ]
    )


def draw_conversion(result: Result, path: Path) -> None:
    """Throughput of each run, and memory over the size of the data."""
    mpl.use("agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6), constrained_layout=True, width_ratios=[3, 2])
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
    right.bar(sizes, [result["peak_rss_mb_of_a_quarter_of_the_data"], result["peak_rss_mb"]], width=0.5)
    right.set_title("peak memory of all processes, MB", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()

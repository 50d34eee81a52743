"""Put what the benchmarks printed into the pages: tables between markers, and a chart.

    python benchmarks/publish.py

Reads benchmarks/results/*.json. A page holds `<!-- NAME -->` … `<!-- /NAME -->`; what is between them is made here.
"""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from scale_tables import (
    many_episodes_table,
    memory_table,
    open_scale_table,
    remote_warm_table,
    worker_cost_table,
)

from loading_cases import ORDERS
from loading_chart import draw_loading, draw_matrix
from loading_matrix import LIMIT, matrix_rows
from peers_table import peers_lines
from shuffle_chart import draw_shuffle, shuffle_table

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))

Result = dict[str, Any]


def main() -> None:
    """Fill the pages, draw the chart."""
    blocks = render_blocks()
    for page in PAGES:
        page.write_text(fill(page.read_text(), blocks))
    pictures = PROJECT / "docs" / "pictures"
    draw_conversion(load("conversion"), pictures / "conversion.png")
    draw_loading(load("loading"), pictures / "loading.png")
    draw_matrix(load("matrix"), pictures / "matrix.png")
    draw_shuffle(load("shuffle_quality"), pictures / "shuffle.png")


def render_blocks() -> dict[str, str]:
    """Block name -> Markdown, of what has been measured."""
    makers: dict[str, Callable[[Result], str]] = {
        "conversion": conversion_table,
        "loading": loading_table,
        "loading_256x256": loading_table,
        "loading_96x96": loading_table,
        "long_gop": loading_table,
        "peers_480x640": peers_table,
        "peers_256x256": peers_table,
        "peers_96x96": peers_table,
        "matrix": matrix_table,
        "consumer": consumer_table,
        "steady": steady_table,
        "plan_scale": plan_table,
        "many_datasets": many_datasets_table,
        "shuffle_quality": shuffle_quality_table,
        "frame_cache": frame_cache_table,
        "resume_cost": resume_table,
        "remote": remote_table,
        "profile_loading": profile_table,
        "memory": with_provenance(memory_table),
        "many_episodes": with_provenance(many_episodes_table),
        "worker_cost": with_provenance(worker_cost_table),
        "open_scale": with_provenance(open_scale_table),
        "remote_warm": with_provenance(remote_warm_table),
    }
    return {name: make(load(name)) for name, make in makers.items() if result_file(name).exists()}


def fill(page: str, blocks: dict[str, str]) -> str:
    """The page with every block that it has filled anew."""
    for name, text in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = pattern.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)
    return page


def load(name: str) -> Result:
    """A benchmark's result."""
    result: Result = json.loads(result_file(name).read_text())
    return result


def result_file(name: str) -> Path:
    """Where a benchmark leaves its result."""
    return RESULTS / f"{name}.json"


def provenance(result: Result) -> str:
    """The line under a table: what printed it, and where."""
    return f"\n`{result['command']}` on {result['machine']}."


def with_provenance(make: Callable[[Result], str]) -> Callable[[Result], str]:
    """A maker of a table with the line that belongs under it."""
    return lambda result: f"{make(result)}\n{provenance(result)}"


def conversion_table(result: Result) -> str:
    """Conversion beside copy and hash."""
    words = shlex.split(result["command"])
    repeated = Path(words[words.index("--source") + 1]).name
    return "\n".join(
        [
            f"| {result['source_bytes'] / 1e9:.2f} GB of {repeated}, repeated | MB/s | peak memory |",
            "|---|---|---|",
            f"| `cp -r`, then `sha256sum` of the copy | {result['copy_and_hash_mb_per_s']} | |",
            f"| `convert-to-shards` | {result['convert_mb_per_s']} | {result['peak_rss_mb']} MB, all processes |",
            f"| ratio, run by run (median) | {result['throughput_over_copy_and_hash']} | |",
            f"| `convert-to-shards` of a quarter of it | | {result['peak_rss_mb_of_a_quarter_of_the_data']} MB |",
            provenance(result),
        ]
    )


def loading_table(result: Result) -> str:
    """Every contender of the loading benchmark."""
    lines = [
        "| | frames/s | of the limit | batch, p50 / p95 / p99 | first batch | CPU a frame | peak memory (PSS) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in result["cases"].items():
        found = case["median"]
        limit = (
            "long_gop_torchcodec_sequential"
            if name.startswith("long_gop_")
            else "torchcodec_sequential"
        )
        over = 1.0 if name == limit else result["ratios"][f"{name} / {limit}"]["median"]
        waits = " / ".join(f"{found[f'p{percent}_ms']:.0f}" for percent in (50, 95, 99))
        first_s = found["time_to_first_batch_s"]
        lines.append(
            f"| `{name}` | {found['frames_per_s']:,.0f} | {over:.2f} | {waits} ms | {first_s:.1f} s "
            f"| {found['cpu_ms_per_frame']:.2f} ms | {found['peak_pss_mb']:,} MB |"
        )
    between = [
        f"| `{pair}` | {ratio['median']:.2f} | {min(ratio['rounds']):.2f} to {max(ratio['rounds']):.2f} |"
        for pair, ratio in result["ratios"].items()
        if not pair.endswith("torchcodec_sequential")
    ]
    return "\n".join(
        [
            *lines,
            "",
            "| ratio of frames/s, round by round | median | range |",
            "|---|---|---|",
            *between,
            provenance(result),
        ]
    )


def peers_table(result: Result) -> str:
    """Other loaders on the same frames."""
    return "\n".join([*peers_lines(result), provenance(result)])


def matrix_table(result: Result) -> str:
    """The loader's settings, one at a time away from the default."""
    rows = []
    for setting, names in matrix_rows(result).items():
        cells = [setting]
        for name in names:
            found = result["cases"][name]["median"]
            over = result["ratios"][f"{name} / {LIMIT}"]["median"]
            cells += [
                f"{found['frames_per_s']:,.0f}",
                f"{over:.2f}",
                f"{found['peak_pss_mb']:,} MB",
            ]
        rows.append(f"| {' | '.join(cells)} |")
    columns = [
        f"{order}, {column}"
        for order in ORDERS
        for column in ("frames/s", "of the limit", "memory")
    ]
    return "\n".join(
        [
            f"| | {' | '.join(columns)} |",
            f"|{'---|' * (1 + len(columns))}",
            *rows,
            provenance(result),
        ]
    )


def consumer_table(result: Result) -> str:
    """What a training loop notices."""
    idle, python, slow = (result[name] for name in ("idle", "python", "slow"))
    slower = f"{python['slower_than_idle_ms']} ms slower than idle"
    waits = f"{slow['waiting']:.2%}, {slow['waiting_within_epochs']:.2%} but for the first batches of epochs"

    def row(name: str, found: dict[str, Any], note: str, waiting: str) -> str:
        return (
            f"| {name} | {found['ms_per_batch']} ms{note} | {waiting} | {found['letting_go']:.1%} |"
        )

    return "\n".join(
        [
            "| consumer | a batch | waiting for data | letting go of the last batch |",
            "|---|---|---|---|",
            f"| idle: decoding is all there is | {idle['ms_per_batch']} ms | | |",
            row("20 ms of pure Python a batch", python, f", {slower}", f"{python['waiting']:.1%}"),
            row("slower than decoding: sleeps two idle batches", slow, "", waits),
            provenance(result),
        ]
    )


def steady_table(result: Result) -> str:
    """Memory over epochs."""
    rows = []
    for name in ("workers_0", "workers_2"):
        found = result[name]
        memory, files, threads = found["memory_mb"], found["open_files"], found["threads"]
        rows.append(
            f"| {name[-1]} | {memory[0]:,} / {memory[1]:,} / {memory[-1]:,} MB | "
            f"{found['growth_since_second_epoch']:+.1%} | {files[1]} / {files[-1]} | {threads[1]} / {threads[-1]} |"
        )
    return "\n".join(
        [
            f"| num_workers | memory after epoch 1 / 2 / {result['epochs']} | most over 2nd | open files | threads |",
            "|---|---|---|---|---|",
            *rows,
            provenance(result),
        ]
    )


def remote_table(result: Result) -> str:
    """Object storage beside the local disk."""
    columns = (
        "episode_order",
        "samples/s, remote of local",
        "ratio",
        "first batch, remote of local",
    )
    columns += ("bytes read over needed", "requests an episode")
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for order in ("global", "shard"):
        found = result[order]
        remote, local = found["remote"], found["local"]
        lines.append(
            f"| `{order}` | {remote['samples_per_s']} of {local['samples_per_s']} | {found['remote_over_local']:.2f} "
            f"| {remote['first_batch_s']} of {local['first_batch_s']} s "
            f"| {found['bytes_over_needed']:.3f} | {found['requests_per_episode']} |"
        )
    server = f"{result['latency_ms']:.0f} ms before each reply, {result['mb_per_s_per_connection']:.0f} MB/s"
    return "\n".join([*lines, "", f"{server} a connection.", provenance(result)])


def profile_table(result: Result) -> str:
    """Where a loader's time goes."""
    orders = ("sweep", "uniform")
    stages = sorted(
        result["uniform"]["share"], key=result["uniform"]["share"].__getitem__, reverse=True
    )
    rows = [
        f"| {s} | {' | '.join(format(result[o]['share'].get(s, 0.0), '.1%') for o in orders)} |"
        for s in stages
    ]
    rows.append(
        f"| threads busy at once | {' | '.join(str(result[o]['busy_threads']) for o in orders)} |"
    )
    held = " | ".join(f"{result[o]['lock_held']:.0%} of the time" for o in orders)
    return "\n".join(
        [
            "| | sweep | uniform |",
            "|---|---|---|",
            *rows,
            f"| interpreter's lock held | {held} |",
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


def many_datasets_table(result: Result) -> str:
    """Fifty datasets beside one."""
    names = {
        "one": "one, of as many episodes",
        "alike": f"{result['datasets']}, alike",
        "by_dataset": f'{result["datasets"]}, alike, `batches="by_dataset"`',
        "unlike": f"{result['datasets']}, each without a feature of the others",
    }
    rows = [
        f"| {name} | {result['pictures'][kind]['step_ms']} ms | {result['rows'][kind]['step_ms']} ms "
        f"| {result['pictures'][kind]['peak_mb']} MB | {result['rows'][kind]['open_s']} s |"
        for kind, name in names.items()
    ]
    return "\n".join(
        [
            "| datasets | a step of 64 samples, CPU time | without pictures | memory, peak | opened in |",
            "|---|---|---|---|---|",
            *rows,
            provenance(result),
        ]
    )


def shuffle_quality_table(result: Result) -> str:
    """The default pools beside a true shuffle."""
    return "\n".join([shuffle_table(result), provenance(result)])


def frame_cache_table(result: Result) -> str:
    """Epochs out of a frame cache, beside decoding and copying."""
    names = {
        "decode": "decoding, as without it",
        "frame_cache": "from the second epoch on",
        "copy": "copy",
    }
    rates, ratios = result["frames_per_s"], result["ratios"]
    rows = [f"| {label} | {rates[name]:,} |" for name, label in names.items()]
    found = [
        f"| {name} | {each['median']} | {each['least']} to {each['most']} |"
        for name, each in ratios.items()
    ]
    return "\n".join(
        [
            "| | frames/s |",
            "|---|---|",
            *rows,
            "",
            "| ratio of frames/s, round by round | median | range |",
            "|---|---|---|",
            *found,
            "",
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


if __name__ == "__main__":
    main()

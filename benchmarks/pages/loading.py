"""Tables of benchmarks/loading.py: its contenders, and every setting."""

import statistics

from loading_cases import LIMITS, ORDERS
from pages.markdown import Result, ratios, table
from pages.matrix import LIMIT, matrix_rows


def loading_table(result: Result) -> str:
    """Return the table of every contender."""
    heads = (
        "",
        "frames/s",
        "of the limit",
        "batch, p50 / p95 / p99",
        "first batch",
        "CPU a frame",
        "of the limit, by CPU",
        "peak memory (PSS)",
    )
    between = [
        (f"`{pair}`", f"{ratio['median']:.2f}", _range(ratio["rounds"]))
        for pair, ratio in result["ratios"].items()
        if not pair.endswith(LIMIT)
    ]
    cases = [_case(result, name) for name in result["cases"]]
    return f"{table(heads, cases)}\n\n{ratios(between)}"


def _case(result: Result, name: str) -> tuple[str, ...]:
    found = result["cases"][name]["median"]
    limit = LIMITS[result["cases"][name]["settings"]["videos"]]
    pair = f"{name} / {limit}"
    over = result["ratios"][pair]["median"] if pair in result["ratios"] else 1.0
    waits = " / ".join(f"{found[f'p{percent}_ms']:.0f}" for percent in (50, 95, 99))
    return (
        f"`{name}`",
        f"{found['frames_per_s']:,.0f}",
        f"{over:.2f}",
        f"{waits} ms",
        f"{found['time_to_first_batch_s']:.1f} s",
        f"{found['cpu_ms_per_frame']:.2f} ms",
        f"{_cpu_over(result, name, limit):.2f}",
        f"{found['peak_pss_mb']:,.0f} MB",
    )


def _cpu_over(result: Result, name: str, limit: str) -> float:
    """CPU time of a frame of the limit, in its turns beside a case or in a turn of its own, over
    that of the case: 1 where a frame costs no more.
    """
    rounds = zip(result["cases"][limit]["runs"], result["cases"][name]["runs"], strict=True)
    return statistics.median(
        own.get("limit_cpu_ms_per_frame", bound["cpu_ms_per_frame"]) / own["cpu_ms_per_frame"]
        for bound, own in rounds
    )


def _range(rounds: list[float]) -> str:
    return f"{min(rounds):.2f} to {max(rounds):.2f}"


def matrix_table(result: Result) -> str:
    """The loader's settings, one at a time away from the default."""
    columns = ("frames/s", "of the limit", "memory")
    heads = ("", *(f"{order}, {column}" for order in ORDERS for column in columns))
    rows = []
    for setting, names in matrix_rows(result).items():
        cells = [setting]
        for name in names:
            found = result["cases"][name]["median"]
            over = result["ratios"][f"{name} / {LIMIT}"]["median"]
            cells += [
                f"{found['frames_per_s']:,.0f}",
                f"{over:.2f}",
                f"{found['peak_pss_mb']:,.0f} MB",
            ]
        rows.append(cells)
    return table(heads, rows)

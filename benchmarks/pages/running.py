"""Tables of what a run notices of the loader: waiting, memory, caches, resuming, remote data."""

from collections import Counter
from typing import Any

from pages.markdown import Result, ratios, table


def consumer_table(result: Result) -> str:
    """Return the table of what a training loop notices."""
    idle, python, slow = (result[name] for name in ("idle", "python", "slow"))
    slower = f", {python['slower_than_idle_ms']} ms slower than idle"
    waits = (
        f"{slow['waiting']:.2%}, {slow['waiting_within_epochs']:.2%} but for the first batches of"
        " epochs"
    )

    def row(name: str, found: dict[str, Any], note: str, waiting: str) -> tuple[str, ...]:
        return name, f"{found['ms_per_batch']} ms{note}", waiting, f"{found['letting_go']:.1%}"

    return table(
        ("consumer", "a batch", "waiting for data", "letting go of the last batch"),
        [
            ("idle: decoding is all there is", f"{idle['ms_per_batch']} ms", "", ""),
            row("20 ms of pure Python a batch", python, slower, f"{python['waiting']:.1%}"),
            row("slower than decoding: sleeps two idle batches", slow, "", waits),
        ],
    )


def steady_table(result: Result) -> str:
    """Return the table of memory over epochs."""
    heads = (
        "num_workers",
        f"memory after epoch 1 / 2 / {result['epochs']}",
        "most over 2nd",
        "open files",
        "threads",
    )
    rows = []
    for name in ("workers_0", "workers_2"):
        found = result[name]
        memory, files, threads = found["memory_mb"], found["open_files"], found["threads"]
        rows.append(
            (
                name[-1],
                f"{memory[0]:,} / {memory[1]:,} / {memory[-1]:,} MB",
                f"{found['growth_since_second_epoch']:+.1%}",
                f"{files[1]} / {files[-1]}",
                f"{threads[1]} / {threads[-1]}",
            )
        )
    return table(heads, rows)


def remote_table(result: Result) -> str:
    """Object storage beside the local disk."""
    heads = (
        "episode_order",
        "samples/s, remote of local",
        "ratio",
        "first batch, remote of local",
        "bytes read over needed",
        "requests an episode",
    )
    rows = []
    for order in ("global", "shard"):
        found = result[order]
        remote, local = found["remote"], found["local"]
        rows.append(
            (
                f"`{order}`",
                f"{remote['samples_per_s']} of {local['samples_per_s']}",
                f"{found['remote_over_local']:.2f}",
                f"{remote['first_batch_s']} of {local['first_batch_s']} s",
                f"{found['bytes_over_needed']:.3f}",
                str(found["requests_per_episode"]),
            )
        )
    server = (
        f"{result['latency_ms']:.0f} ms before each reply, "
        f"{result['mb_per_s_per_connection']:.0f} MB/s a connection."
    )
    return f"{table(heads, rows)}\n\n{server}"


def profile_table(result: Result) -> str:
    """Where a loader's time goes."""
    found = {
        f"{name}, {order}": of_order
        for name, orders in result["datasets"].items()
        for order, of_order in orders.items()
    }
    total = Counter[str]()
    for of_order in found.values():
        total.update(of_order["share"])
    rows = [
        (stage, *(f"{of_order['share'].get(stage, 0.0):.1%}" for of_order in found.values()))
        for stage, _ in total.most_common()
    ]
    for label, key, unit in (
        ("threads busy at once", "busy_threads", ""),
        ("interpreter's lock held, of the time", "lock_held", ".0%"),
        ("interpreter's lock held, microseconds a frame", "lock_held_us_per_frame", ""),
    ):
        rows.append((label, *(format(of_order[key], unit) for of_order in found.values())))
    return table(("", *found), rows)


def frame_cache_table(result: Result) -> str:
    """Epochs out of a frame cache, beside decoding and copying."""
    names = {
        "decode": "decoding, as without it",
        "frame_cache": "from the second epoch on",
        "copy": "copy",
    }
    rates = table(
        ("", "frames/s"),
        [(label, f"{result['frames_per_s'][name]:,}") for name, label in names.items()],
    )
    found = [
        (name, str(each["median"]), f"{each['least']} to {each['most']}")
        for name, each in result["ratios"].items()
    ]
    return f"{rates}\n\n{ratios(found)}\n"


def resume_table(result: Result) -> str:
    """Cost of resuming beside starting."""
    heads = (
        "resumed at",
        f"step of {result['steps_per_epoch']}",
        "to first batch",
        "over start",
        "read",
        "over start",
    )
    rows = [
        (
            name.replace("_", " "),
            str(result[name]["step"]),
            f"{1000 * result[name]['first_batch_s']:.0f} ms",
            str(result[name]["time_over_start"]),
            f"{result[name]['bytes_read'] / 1e6:.1f} MB",
            str(result[name]["bytes_over_start"]),
        )
        for name in ("start", "step_1", "half", "last")
    ]
    return table(heads, rows)

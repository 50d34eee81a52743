"""Tables of what loading takes as pools, datasets, plans and workers grow, and of remote shards."""

import statistics

from pages.markdown import Result, table


def memory_table(result: Result) -> str:
    """What a loader's memory depends on."""
    heads = (
        f"{result['steps']} steps of {result['batch_size']} samples",
        "memory, peak",
        "of episodes",
        "episodes read",
        "of them again",
        "batches",
    )
    rows = []
    for name, found in result["cases"].items():
        same = found["is_same_as"]
        rows.append(
            (
                name,
                f"{found['peak_mb']:,} MB",
                f"{found['episodes_mb']} MB",
                f"{found['episodes_read']:,}",
                f"{found['episodes_read_again']:,}",
                "" if same == name else f"those of {same}",
            )
        )
    return table(heads, rows)


def many_episodes_table(result: Result) -> str:
    """An epoch of very many small episodes."""
    heads = ("episodes x shards", "first batch, CPU time", "memory after it", "after each quarter")
    rows = []
    for shape, found in result["shapes"].items():
        first, *quarters = found["memory_mb"]
        rows.append(
            (
                shape.replace("x", " x "),
                f"{found['first_batch_cpu_s']} s",
                f"{first:.0f} MB",
                " / ".join(f"{memory:.0f}" for memory in quarters) + " MB",
            )
        )
    return table(heads, rows)


def worker_cost_table(result: Result) -> str:
    """What a sample costs with each number of workers."""
    heads = (
        "dataset",
        "`frame_order`",
        "pool",
        "workers",
        "CPU time a sample",
        "frames decoded for each used",
        "episodes read a step",
    )
    rows = []
    for name, rounds in result["cases"].items():
        found = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        rows.append(
            (
                *name.replace("_shards", "").split(", "),
                f"{found['cpu_ms_per_sample']:.3f} ms",
                f"{found['frames_decoded_per_used']:.2f}",
                f"{found['episodes_read_per_step']:.2f}",
            )
        )
    return table(heads, rows)


def worker_start_table(result: Result) -> str:
    """How soon workers give a first batch, and what they take."""
    heads = (
        "workers",
        "loader of the program",
        "first batch",
        "CPU time until then",
        "a worker's own memory",
        "memory of all processes",
    )
    rows = [
        (
            *name.split(", "),
            f"{found['first_batch_s']:.1f} s",
            f"{found['cpu_s']:.1f} s",
            f"{found['worker_mb']:,.0f} MB" if found["worker_mb"] else "",
            f"{found['all_mb']:,.0f} MB",
        )
        for name, found in result["cases"].items()
    ]
    return table(heads, rows)


def open_scale_table(result: Result) -> str:
    """Opening a million episodes in a hundred thousand shards."""
    names = {
        "dataset": "`ShardedDataset.open`",
        "loader": "`make_loader`",
        "step": "`make_loader` and the first step",
    }
    heads = (
        f"{result['episodes']:,} episodes in {result['shards']:,} shards",
        "from",
        "wall-clock",
        "CPU time",
        "memory, peak",
        "kept",
    )
    rows = [
        (
            label,
            place,
            f"{found['s']} s",
            f"{found['cpu_s']} s",
            f"{found['peak_mb']} MB",
            f"{found['kept_mb']} MB",
        )
        for name, label in names.items()
        for place in ("local", "http")
        for found in [result[place][name]]
    ]
    worker = result["worker"]
    rows.append(
        (
            "each worker process",
            "the loader",
            f"{worker['s']} s",
            f"{worker['cpu_s']} s",
            "",
            f"{worker['private_mb']} MB",
        )
    )
    return table(heads, rows)


def remote_warm_table(result: Result) -> str:
    """Object storage beside the local disk, from the second epoch on."""
    heads = (
        "frame_order",
        "workers",
        "pool",
        "samples/s, remote of local",
        "ratio",
        "the same of CPU time",
        "bytes read over needed",
    )
    rows = []
    for name, found in result["cases"].items():
        order, _, workers = name.partition("_workers_")
        rows.append(
            (
                f"`{order}`",
                workers,
                f"{found['pool_episodes']:,}",
                f"{found['remote']['samples_per_s']} of {found['local']['samples_per_s']}",
                f"{found['remote_over_local']:.2f}",
                f"{found['local_cpu_over_remote_cpu']:.2f}",
                f"{found['bytes_over_needed_at_the_end']:.3f}",
            )
        )
    return table(heads, rows)


def plan_table(result: Result) -> str:
    """Return the table of the cost of a plan at scale."""
    heads = (
        "frame_order",
        "built in",
        "memory to build",
        "any step of 64 samples, median",
        "p99",
    )
    rows = [
        (
            f"`{order}`",
            f"{found['build_s']} s",
            f"{found['build_peak_mb']} MB",
            f"{found['seek_ms_median']} ms",
            f"{found['seek_ms_p99']} ms",
        )
        for order in ("uniform", "sweep")
        for found in [result[order]]
    ]
    return table(heads, rows)


def many_datasets_table(result: Result) -> str:
    """Fifty datasets beside one."""
    names = {
        "one": "one, of as many episodes",
        "alike": f"{result['datasets']}, alike",
        "by_dataset": f'{result["datasets"]}, alike, `batches="by_dataset"`',
        "unlike": f"{result['datasets']}, each without a feature of the others",
    }
    heads = (
        "datasets",
        "a step of 64 samples, CPU time",
        "without pictures",
        "memory, peak",
        "opened in",
    )
    rows = [
        (
            name,
            f"{result['pictures'][kind]['step_ms']} ms",
            f"{result['rows'][kind]['step_ms']} ms",
            f"{result['pictures'][kind]['peak_mb']} MB",
            f"{result['rows'][kind]['open_s']} s",
        )
        for kind, name in names.items()
    ]
    return table(heads, rows)

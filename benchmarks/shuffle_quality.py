"""How random the order is, measured against a true uniform shuffle of all frames.

    python benchmarks/shuffle_quality.py --shards DATASET

Lays a dataset's episodes out --copies times as one epoch and walks it as a loader does: by the real plan, through
the stages that share it out over ranks and workers. No video is read. Per setting of ranks, workers, pool and frame
order:

- distinct episodes in a global batch, over those in a global batch of the true shuffle;
- mean distance on the unshuffled tape between neighbours in a batch, over that of the true shuffle;
- autocorrelation of a state feature along the stream of samples at lags 1 to 64: mean of the absolute values.
"""

from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import matplotlib as mpl
import numpy as np
import tyro
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from report import print_result
from roboshard.loader import topology
from roboshard.loader.config import FrameOrder, LoaderConfig, OrderConfig, SplitConfig
from roboshard.loader.order.plan import Episodes, EpochPlan, Slots
from roboshard.loader.order.pools import default_pool
from roboshard.loader.pipeline import draw_epoch
from roboshard.shards import ShardedDataset
from roboshard.shards.rows import decode_rows

LAGS = range(1, 65)
ORDERS: tuple[FrameOrder, ...] = ("uniform", "sweep")
IN_THE_CHART = {"ranks": 1, "workers": 0}


@dataclass(frozen=True)
class Options:
    """Randomness of the order."""

    shards: str
    """A roboshard dataset."""
    copies: int = 288
    batch_size: int = 64
    """Samples a step of each rank."""
    feature: str = "observation.state"
    component: int = 1
    ranks: tuple[int, ...] = (1, 8, 64)
    """World sizes, which are also the number of rank slots."""
    workers: tuple[int, ...] = (0, 2, 8, 16)
    pools: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    """Beside the default one; with one rank and no worker."""
    output: Path | None = None
    """Write the JSON here too."""
    chart: Path | None = None
    """Draw the chart here."""


@dataclass(frozen=True)
class Stream:
    """An epoch's samples in order: place on the unshuffled tape, and episode, of each."""

    tape: NDArray[np.int64]
    episode: NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """Who loads, and in which order."""

    ranks: int
    workers: int
    order: FrameOrder
    pool: int
    is_default: bool = True


def main() -> None:
    """Measure, print and draw."""
    options = tyro.cli(Options)
    lengths, feature = read_feature(options)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    shuffled = np.random.default_rng(0).permutation(int(starts[-1]))
    truth = Stream(shuffled, np.searchsorted(starts, shuffled, side="right") - 1)
    rows = []
    for setting in settings(options):
        batch = options.batch_size * setting.ranks
        found = measure(walk(lengths, starts, setting, options.batch_size), feature, batch)
        true = measure(truth, feature, batch)
        rows.append(vars(setting) | compared(found, true))
    values: dict[str, Any] = {
        "episodes": len(lengths),
        "frames": int(starts[-1]),
        "batch_size": options.batch_size,
        "feature": f"{options.feature}[{options.component}]",
        "settings": rows,
    }
    print_result("shuffle_quality", values, options.output)
    if options.chart:
        draw(values, options.chart)


def settings(options: Options) -> list[Setting]:
    """All ranks and workers with the default pool; then other pools."""
    found = []
    for order in ORDERS:
        for ranks in options.ranks:
            batch = options.batch_size * ranks
            pool = default_pool(order, rank_slots=ranks, global_batch_size=batch)
            found += [Setting(ranks, workers, order, pool) for workers in options.workers]
        one = Setting(1, 0, order, 0, is_default=False)
        found += [replace(one, pool=pool) for pool in options.pools]
    return found


def read_feature(options: Options) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(lengths of all episodes, the feature over the whole tape), repeated."""
    dataset = ShardedDataset.open(options.shards)
    columns = []
    for position in range(len(dataset.index)):
        data = dataset.read_episode(position, [])
        table = decode_rows(data.rows, data.where, data.record.length, [options.feature])
        values = np.stack(table.column(options.feature).to_pylist())
        columns.append(values[:, options.component])
    lengths = np.array([len(column) for column in columns] * options.copies, dtype=np.int64)
    return lengths, np.concatenate(columns * options.copies)


def walk(
    lengths: NDArray[np.int64], starts: NDArray[np.int64], setting: Setting, batch_size: int
) -> Stream:
    """The full epoch, global batch by global batch, as all ranks and workers load it."""
    numbers = np.arange(len(lengths))
    episodes = Episodes(
        position=numbers,
        first_row=numbers * 0,
        num_rows=lengths,
        storage_rank=numbers,
        shard=numbers * 0,
    )
    slots = Slots(rank_slots=setting.ranks, global_batch_size=batch_size * setting.ranks)
    order = OrderConfig(frame_order=setting.order, pool_episodes=setting.pool)
    plan = EpochPlan(episodes, order, slots, epoch=0)
    ranks = [rank_draws(plan, rank, setting, batch_size) for rank in range(setting.ranks)]
    draws = list(chain(*zip(*ranks, strict=True)))
    episode = np.concatenate([draw.positions for draw in draws])
    return Stream(starts[episode] + np.concatenate([draw.rows for draw in draws]), episode)


def rank_draws(plan: EpochPlan, rank: int, setting: Setting, batch_size: int) -> list[Any]:
    """What a rank's workers draw, in the order in which torch's DataLoader collects it."""
    split = SplitConfig(
        batch_size=batch_size, rank=rank, world_size=setting.ranks, max_world_size=setting.ranks
    )
    config, num_workers = cast(LoaderConfig, SimpleNamespace(split=split)), max(1, setting.workers)
    shares = []
    for worker in range(num_workers):
        with patch.object(topology, "worker", return_value=(worker, num_workers)):
            shares.append(list(draw_epoch(plan, 0, config).run()))
    return [draw for turn in zip_longest(*shares) for draw in turn if draw is not None]


def measure(stream: Stream, feature: NDArray[np.float64], batch: int) -> dict[str, float]:
    """The three numbers."""
    count = len(stream.tape) // batch * batch
    batches = np.sort(stream.episode[:count].reshape(-1, batch), axis=1)
    distinct = 1 + (np.diff(batches, axis=1) != 0).sum(axis=1)
    distance = np.abs(np.diff(stream.tape[:count].reshape(-1, batch), axis=1)).mean()
    values = feature[stream.tape]
    values = (values - values.mean()) / values.std()
    correlation = [abs(float(np.mean(values[lag:] * values[:-lag]))) for lag in LAGS]
    return {
        "distinct_episodes": float(distinct.mean()),
        "neighbour_distance": float(distance),
        "mean_abs_autocorrelation": float(np.mean(correlation)),
    }


def compared(found: dict[str, float], true: dict[str, float]) -> dict[str, float]:
    """The numbers beside the true shuffle's."""
    name = "mean_abs_autocorrelation"
    return {
        "distinct_episodes_over_true_shuffle": round(
            found["distinct_episodes"] / true["distinct_episodes"], 3
        ),
        "neighbour_distance_over_true_shuffle": round(
            found["neighbour_distance"] / true["neighbour_distance"], 3
        ),
        name: round(found[name], 4),
        f"{name}_of_true_shuffle": round(true[name], 4),
    }


def draw(values: dict[str, Any], path: Path) -> None:
    """One panel per number, over pool sizes; the dashed line is the true shuffle."""
    mpl.use("agg")
    titles = {
        "distinct_episodes_over_true_shuffle": "distinct episodes per batch / true shuffle's",
        "neighbour_distance_over_true_shuffle": "distance between neighbours / true shuffle's",
        "mean_abs_autocorrelation": f"mean |autocorrelation| of {values['feature']}",
    }
    alone = [row for row in values["settings"] if IN_THE_CHART.items() <= row.items()]
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for order, marker in zip(ORDERS, ("o", "s"), strict=True):
            rows = sorted(
                (row for row in alone if row["order"] == order), key=lambda row: int(row["pool"])
            )
            axis.plot(
                [row["pool"] for row in rows],
                [row[name] for row in rows],
                marker=marker,
                label=order,
            )
        is_ratio = name.endswith("_over_true_shuffle")
        true = 1.0 if is_ratio else alone[0][f"{name}_of_true_shuffle"]
        axis.axhline(true, color="black", linestyle="--", linewidth=1, label="true shuffle")
        axis.set_xscale("log", base=2)
        axis.set_xlabel("pool_episodes")
        axis.set_title(title, fontsize=10)
        axis.set_ylim(bottom=0)
    axes[0].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

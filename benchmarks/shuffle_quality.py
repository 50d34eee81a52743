"""How random the order is, measured against a true uniform shuffle of all frames.

    python benchmarks/shuffle_quality.py --shards DATASET

Lays a dataset's episodes out --copies times as one epoch and walks it by the real plan, for both frame orders and
several pool sizes, without reading video. Per order:

- distinct episodes in a batch over the batch size;
- mean distance on the unshuffled tape between neighbours in a batch, over that of a uniform shuffle (a third of the
  epoch);
- autocorrelation of a state feature along the stream of samples at lags 1 to 64: mean of the absolute values.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tyro
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from report import print_result
from roboshard.loader.config import FrameOrder, OrderConfig
from roboshard.loader.order.plan import Episodes, EpochPlan, Slots
from roboshard.shards import ShardedDataset
from roboshard.shards.rows import decode_rows

LAGS = range(1, 65)


@dataclass(frozen=True)
class Options:
    """Randomness of the order."""

    shards: str
    """A roboshard dataset."""
    copies: int = 32
    batch_size: int = 64
    feature: str = "observation.state"
    component: int = 1
    pools: tuple[int, ...] = (1, 4, 8, 16, 32, 64, 128)
    output: Path | None = None
    """Write the JSON here too."""
    chart: Path | None = None
    """Draw the chart here."""


@dataclass(frozen=True)
class Stream:
    """An epoch's samples in order: place on the unshuffled tape, and episode, of each."""

    tape: NDArray[np.int64]
    episode: NDArray[np.int64]


def main() -> None:
    """Measure, print and draw."""
    options = tyro.cli(Options)
    lengths, feature = read_feature(options)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    shuffled = np.random.default_rng(0).permutation(int(starts[-1]))
    truth = Stream(shuffled, np.searchsorted(starts, shuffled, side="right") - 1)
    orders: tuple[FrameOrder, ...] = ("uniform", "sweep")
    values: dict[str, Any] = {
        "episodes": len(lengths),
        "frames": int(starts[-1]),
        "batch_size": options.batch_size,
        "feature": f"{options.feature}[{options.component}]",
        "true_shuffle": measure(truth, feature, options.batch_size),
    }
    for order in orders:
        values[order] = {
            str(pool): measure(
                walk(lengths, starts, order, pool, options), feature, options.batch_size
            )
            for pool in options.pools
        }
    print_result("shuffle_quality", values, options.output)
    if options.chart:
        draw(values, options.chart)


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
    lengths: NDArray[np.int64],
    starts: NDArray[np.int64],
    order: FrameOrder,
    pool: int,
    options: Options,
) -> Stream:
    """The full epoch as one rank sees it."""
    numbers = np.arange(len(lengths))
    episodes = Episodes(
        position=numbers,
        first_row=numbers * 0,
        num_rows=lengths,
        storage_rank=numbers,
        shard=numbers * 0,
    )
    slots = Slots(rank_slots=1, global_batch_size=options.batch_size)
    plan = EpochPlan(episodes, OrderConfig(frame_order=order, pool_episodes=pool), slots, epoch=0)
    draws = [plan.step(step, [0]) for step in range(plan.num_steps)]
    episode = np.concatenate([draw.positions for draw in draws])
    return Stream(starts[episode] + np.concatenate([draw.rows for draw in draws]), episode)


def measure(stream: Stream, feature: NDArray[np.float64], batch_size: int) -> dict[str, float]:
    """The three numbers."""
    count = len(stream.tape) // batch_size * batch_size
    batches = np.sort(stream.episode[:count].reshape(-1, batch_size), axis=1)
    distinct = 1 + (np.diff(batches, axis=1) != 0).sum(axis=1)
    distance = np.abs(np.diff(stream.tape[:count].reshape(-1, batch_size), axis=1)).mean()
    values = feature[stream.tape]
    values = (values - values.mean()) / values.std()
    correlation = [abs(float(np.mean(values[lag:] * values[:-lag]))) for lag in LAGS]
    return {
        "distinct_episodes_over_batch_size": round(float(distinct.mean()) / batch_size, 3),
        "neighbour_distance_over_uniform": round(float(distance) / (len(stream.tape) / 3), 3),
        "mean_abs_autocorrelation": round(float(np.mean(correlation)), 4),
    }


def draw(values: dict[str, Any], path: Path) -> None:
    """One panel per number, over pool sizes; the dashed line is the true shuffle."""
    mpl.use("agg")
    titles = {
        "distinct_episodes_over_batch_size": "distinct episodes per batch / batch size",
        "neighbour_distance_over_uniform": "distance between neighbours / uniform",
        "mean_abs_autocorrelation": f"mean |autocorrelation| of {values['feature']}",
    }
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for order, marker in (("uniform", "o"), ("sweep", "s")):
            pools = [int(pool) for pool in values[order]]
            axis.plot(
                pools,
                [values[order][str(pool)][name] for pool in pools],
                marker=marker,
                label=order,
            )
        axis.axhline(
            values["true_shuffle"][name],
            color="black",
            linestyle="--",
            linewidth=1,
            label="true shuffle",
        )
        axis.set_xscale("log", base=2)
        axis.set_xlabel("pool_episodes")
        axis.set_title(title, fontsize=10)
        axis.set_ylim(bottom=0)
    axes[0].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

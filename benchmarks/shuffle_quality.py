"""How random the order is, measured against a true uniform shuffle of all frames.

    python benchmarks/shuffle_quality.py --shards DATASET

Lays a dataset's episodes out --copies times as one epoch and walks it as a loader does: by the real
plan, through the stages that share it out over ranks and workers. No video is read. Per setting of
ranks, pool and frame order:

- distinct episodes in a global batch, over those in a global batch of the true shuffle;
- mean distance on the unshuffled tape between neighbours in a batch, over that of the true shuffle;
- autocorrelation of a feature's components along the stream of samples at lags 1 to 64: mean of the
  absolute values;
- variance of their mean over --window global batches in a row, over that of the true shuffle: how
  noisy a gradient is over some steps.

For the default pool the epoch is walked with every number of workers, and has to be the same.
Prints a table, and whether the default frame order is accepted: 0.9 of the true shuffle's distinct
episodes with any of the ranks and workers. The exit code is 1 if it is not.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args
from unittest.mock import patch

import numpy as np
import tyro
from numpy.typing import NDArray

from pages.shuffle import draw_shuffle, shuffle_table
from report import print_result
from roboshard.loader import topology
from roboshard.loader.config import FrameOrder, LoaderConfig, OrderConfig, SplitConfig
from roboshard.loader.order.plan import Episodes, EpochPlan, Slots
from roboshard.loader.order.pools import default_pool
from roboshard.loader.pipeline import draw_epoch
from roboshard.shards import ShardedDataset
from roboshard.shards.rows import decode_rows

LAGS = range(1, 65)
ORDERS: tuple[FrameOrder, ...] = get_args(FrameOrder)
ACCEPTED = 0.9
"""Least share of a true shuffle's distinct episodes in a batch, for the default settings."""

Numbers = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """Measure the randomness of the order."""

    shards: str
    """A roboshard dataset."""
    copies: int = 288
    batch_size: int = 64
    """Samples a step of each rank."""
    feature: str = "observation.state"
    ranks: tuple[int, ...] = (1, 8, 64)
    """World sizes, which are also the number of rank slots."""
    workers: tuple[int, ...] = (0, 2, 8, 16)
    pools: tuple[int, ...] = (4, 16, 64, 256, 1024)
    """Sizes of pools in episodes, beside the default one."""
    window: int = 8
    """How many global batches in a row the variance of the mean is of."""
    epochs: int = 4
    """How many epochs the numbers are averaged over."""
    output: Path | None = None
    """Write the JSON to this file too."""
    chart: Path | None = None
    """Draw the chart to this file."""


@dataclass(frozen=True)
class Tape:
    """The epoch before it is shuffled: all episodes, end to end."""

    lengths: Numbers
    starts: Numbers
    """The frame that each episode starts at, and last the number of frames."""
    feature: Values
    """(components, frames), of mean 0 and variance 1."""


@dataclass(frozen=True)
class Stream:
    """An epoch's samples in order: place on the unshuffled tape, and episode, of each."""

    tape: Numbers
    episode: Numbers

    def equals(self, other: "Stream") -> bool:
        """Whether it is the same samples in the same order."""
        return np.array_equal(self.tape, other.tape)


@dataclass(frozen=True)
class Setting:
    """Who loads, and in which order."""

    ranks: int
    order: FrameOrder
    pool: int
    is_default: bool


def main() -> None:
    """Measure, print and draw."""
    options = tyro.cli(Options)
    tape = read_tape(options)
    true = {ranks: true_numbers(tape, ranks, options) for ranks in options.ranks}
    rows = []
    for setting in settings(options):
        row: dict[str, Any] = dict(vars(setting))
        if setting.is_default:
            first, *others = (
                walk(tape, setting, options.batch_size, workers=workers)
                for workers in options.workers
            )
            row["is_same_for_all_workers"] = all(first.equals(other) for other in others)
        found = numbers_of(tape, setting, options)
        rows.append(row | compared(found, true[setting.ranks]))
    values: dict[str, Any] = {
        "episodes": len(tape.lengths),
        "frames": int(tape.starts[-1]),
        "batch_size": options.batch_size,
        "feature": options.feature,
        "workers": list(options.workers),
        "window": options.window,
        "settings": rows,
    }
    values["accepted"] = is_accepted(rows)
    print_result("shuffle_quality", values, options.output)
    if options.chart:
        draw_shuffle(values, options.chart)
    print(shuffle_table(values), verdict(values), sep="\n\n", file=sys.stderr)
    sys.exit(0 if values["accepted"] else 1)


def verdict(values: dict[str, Any]) -> str:
    """Whether the default order is accepted, in words."""
    shares = ", ".join(
        f"{row['distinct_episodes_over_true_shuffle']:.2f} with {row['ranks']} ranks"
        for row in values["settings"]
        if row["is_default"] and row["order"] == OrderConfig.frame_order
    )
    return (
        f"{'accepted' if values['accepted'] else 'NOT accepted'}: of a true shuffle's distinct "
        f"episodes in a batch, default settings have {shares}; at least {ACCEPTED} are wanted, and "
        f"the same samples with {', '.join(map(str, values['workers']))} workers"
    )


def is_accepted(rows: list[dict[str, Any]]) -> bool:
    """Whether the default frame order is as mixed as was promised."""
    return all(
        row["distinct_episodes_over_true_shuffle"] >= ACCEPTED and row["is_same_for_all_workers"]
        for row in rows
        if row["is_default"] and row["order"] == OrderConfig.frame_order
    )


def settings(options: Options) -> Iterator[Setting]:
    """All frame orders and ranks, with the default pool and with others."""
    for order in ORDERS:
        for ranks in options.ranks:
            batch = options.batch_size * ranks
            default = default_pool(order, rank_slots=ranks, global_batch_size=batch)
            for pool in sorted({default, *options.pools}):
                yield Setting(ranks, order, pool, is_default=pool == default)


def read_tape(options: Options) -> Tape:
    """Return the tape of all episodes, repeated."""
    dataset = ShardedDataset.open(options.shards)
    columns = []
    for position in range(len(dataset.index)):
        data = dataset.read_episode(position, [])
        table = decode_rows(data.rows, data.where, data.record.length, [options.feature])
        columns.append(np.stack(table.column(options.feature).to_pylist()).astype(np.float64))
    lengths = np.array([len(column) for column in columns] * options.copies, dtype=np.int64)
    feature = np.concatenate(columns).T
    feature = feature[feature.std(axis=1) > 0]
    feature = (feature - feature.mean(axis=1)[:, None]) / feature.std(axis=1)[:, None]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Tape(lengths, starts, np.tile(feature, options.copies))


def walk(
    tape: Tape, setting: Setting, batch_size: int, *, workers: int = 0, epoch: int = 0
) -> Stream:
    """The full epoch, global batch by global batch, as all ranks and workers load it."""
    numbers = np.arange(len(tape.lengths))
    episodes = Episodes(
        position=numbers,
        first_row=numbers * 0,
        num_rows=tape.lengths,
        storage_rank=numbers,
        shard=numbers * 0,
    )
    slots = Slots(rank_slots=setting.ranks, global_batch_size=batch_size * setting.ranks)
    order = OrderConfig(frame_order=setting.order, pool_episodes=setting.pool)
    plan = EpochPlan(episodes, order, slots, epoch)
    ranks = [
        rank_draws(plan, rank, setting.ranks, batch_size, max(1, workers))
        for rank in range(setting.ranks)
    ]
    draws = list(chain(*zip(*ranks, strict=True)))
    episode = np.concatenate([draw.positions for draw in draws])
    return Stream(tape.starts[episode] + np.concatenate([draw.rows for draw in draws]), episode)


def rank_draws(
    plan: EpochPlan, rank: int, ranks: int, batch_size: int, num_workers: int
) -> list[Any]:
    """What a rank's workers draw, in the order in which torch's DataLoader collects it."""
    split = SplitConfig(batch_size=batch_size, rank=rank, world_size=ranks, max_world_size=ranks)
    config = cast(LoaderConfig, SimpleNamespace(split=split))
    shares = []
    for worker in range(num_workers):
        with patch.object(topology, "worker", return_value=(worker, num_workers)):
            shares.append(list(draw_epoch(plan, 0, config).run()))
    return [draw for turn in zip_longest(*shares) for draw in turn if draw is not None]


def true_shuffle(tape: Tape, seed: int) -> Stream:
    """All frames of the epoch in a random permutation."""
    shuffled = np.random.default_rng(seed).permutation(int(tape.starts[-1]))
    return Stream(shuffled, np.searchsorted(tape.starts, shuffled, side="right") - 1)


def numbers_of(tape: Tape, setting: Setting, options: Options) -> dict[str, float]:
    """What `measure` says of a setting, over some epochs."""
    streams = (
        walk(tape, setting, options.batch_size, epoch=epoch) for epoch in range(options.epochs)
    )
    return averaged(measure(stream, tape, setting.ranks, options) for stream in streams)


def true_numbers(tape: Tape, ranks: int, options: Options) -> dict[str, float]:
    """What `measure` says of as many true shuffles."""
    streams = (true_shuffle(tape, seed) for seed in range(options.epochs))
    return averaged(measure(stream, tape, ranks, options) for stream in streams)


def averaged(measured: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each number."""
    rows = list(measured)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def measure(stream: Stream, tape: Tape, ranks: int, options: Options) -> dict[str, float]:
    """Return the four numbers of an epoch."""
    batch = options.batch_size * ranks
    count = len(stream.tape) // batch * batch
    batches = np.sort(stream.episode[:count].reshape(-1, batch), axis=1)
    distinct = 1 + (np.diff(batches, axis=1) != 0).sum(axis=1)
    distance = np.abs(np.diff(stream.tape[:count].reshape(-1, batch), axis=1)).mean()
    values = tape.feature[:, stream.tape]
    correlation = [np.abs((values[:, lag:] * values[:, :-lag]).mean(axis=1)) for lag in LAGS]
    return {
        "distinct_episodes": float(distinct.mean()),
        "neighbour_distance": float(distance),
        "mean_abs_autocorrelation": float(np.mean(correlation)),
        "window_variance": window_variance(values, batch * options.window),
    }


def window_variance(values: Values, size: int) -> float:
    """Return the mean square of the means over stretches of so many samples, over what it is in a
    true shuffle.
    """
    total = values.shape[1]
    count = total // size
    means = values[:, : count * size].reshape(len(values), count, size).mean(axis=2)
    expected = (total - size) / (total - 1) / size  # drawn without replacement, of variance 1
    return float(np.mean(means**2) / expected)


def compared(found: dict[str, float], true: dict[str, float]) -> dict[str, float]:
    """Return the numbers beside the true shuffle's."""
    compared = {
        f"{name}_over_true_shuffle": round(found[name] / true[name], 3)
        for name in ("distinct_episodes", "neighbour_distance")
    }
    for name, digits in (("mean_abs_autocorrelation", 4), ("window_variance", 2)):
        compared[name] = round(found[name], digits)
        compared[f"{name}_of_true_shuffle"] = round(true[name], digits)
    return compared


if __name__ == "__main__":
    main()

"""Draws docs/pictures/order.png from the real plan: tape, lanes, pools and steps of a small epoch.

python docs/pictures/order.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from roboshard.loader.config import OrderConfig
from roboshard.loader.order.plan import Episodes, EpochPlan, Slots

LENGTHS = np.array([9, 14, 7, 11, 8, 13, 10, 12, 6, 9])
SLOTS = Slots(rank_slots=2, global_batch_size=8)
ORDER = OrderConfig(seed=1, pool_episodes=4)
COLOURS = mpl.colormaps["tab10"]


def main() -> None:
    """Draw and save."""
    mpl.use("agg")
    plan = EpochPlan(_episodes(), ORDER, SLOTS, epoch=0)
    figure, axes = plt.subplots(
        3, 1, figsize=(13, 6.2), height_ratios=[1.1, 2.4, 5], constrained_layout=True
    )
    draw_tape(axes[0], plan)
    draw_lanes(axes[1], plan)
    draw_steps(axes[2], plan)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


def _episodes() -> Episodes:
    count = len(LENGTHS)
    return Episodes(
        position=np.arange(count),
        first_row=np.zeros(count, dtype=np.int64),
        num_rows=LENGTHS,
        storage_rank=np.arange(count),
        shard=np.zeros(count, dtype=np.int64),
    )


def draw_tape(axis: Axes, plan: EpochPlan) -> None:
    """Episodes in the epoch's order, end to end, cut into lanes."""
    unmixed = EpochPlan(_episodes(), OrderConfig(seed=1, pool_episodes=1), SLOTS, epoch=0)
    place = 0
    for lane in range(SLOTS.rank_slots):
        start, stop = plan.lane_bounds(lane)
        episodes, _ = unmixed.lane_samples(lane, np.arange(stop - start))
        for episode in episodes:
            _cell(axis, place, 0, int(episode))
            place += 1
        axis.plot([start, start], [-0.3, 1.3], color="black", linewidth=1.6)
        axis.text((start + stop) / 2, 1.45, f"lane {lane}", ha="center", fontsize=9)
    axis.plot([place, place], [-0.3, 1.3], color="black", linewidth=1.6)
    _finish(
        axis,
        place,
        1.6,
        "tape: the frames of all episodes, in a keyed order of episodes (one colour each)",
    )


def draw_lanes(axis: Axes, plan: EpochPlan) -> None:
    """What each lane emits, in order; brackets show steps, hatching what is left over."""
    size = SLOTS.per_rank_slot
    for lane in range(SLOTS.rank_slots):
        start, stop = plan.lane_bounds(lane)
        episodes, rows = plan.lane_samples(lane, np.arange(stop - start))
        y = (SLOTS.rank_slots - 1 - lane) * 1.3
        for place, (episode, row) in enumerate(zip(episodes, rows, strict=True)):
            left_over = place >= plan.num_full_steps * size
            _cell(axis, place, y, int(episode), str(row), hatched=left_over)
        for step in range(plan.num_full_steps):
            axis.add_patch(Rectangle((step * size, y), size, 0.86, fill=False, linewidth=1.8))
            axis.text(step * size + size / 2, y + 0.9, f"step {step}", ha="center", fontsize=7.5)
        label = f"lane {lane}\n(rank slot {lane})"
        axis.text(-0.4, y + 0.4, label, ha="right", va="center", fontsize=8)
    longest = plan.lane_bounds(1)[0]
    _finish(
        axis,
        longest + 1,
        2.4,
        "lanes: pools of four episodes, mixed (numbers are rows); hatched: left over",
    )


def draw_steps(axis: Axes, plan: EpochPlan) -> None:
    """The global batch of every step: rank slot 0's samples, then rank slot 1's."""
    columns = 5
    rows_of_steps = -(-plan.num_steps // columns)
    for step in range(plan.num_steps):
        x, y = (
            (step % columns) * (SLOTS.global_batch_size + 2),
            (rows_of_steps - 1 - step // columns) * 1.5,
        )
        place = 0
        for slot in range(SLOTS.rank_slots):
            draw = plan.step(step, [slot])
            for episode, row in zip(draw.positions, draw.rows, strict=True):
                _cell(axis, x + place + 0.3 * slot, y, int(episode), str(row))
                place += 1
        axis.text(x, y + 0.95, f"step {step}: rank slot 0 | rank slot 1", fontsize=7.5)
    width = columns * (SLOTS.global_batch_size + 2)
    padded = f"; the last one repeats {plan.num_padded}" if plan.num_padded else ""
    _finish(
        axis,
        width,
        rows_of_steps * 1.5 - 0.4,
        f"steps: global batches of {SLOTS.global_batch_size} samples{padded}",
    )


def _cell(  # noqa: PLR0913 - a drawing
    axis: Axes, x: float, y: float, episode: int, text: str = "", *, hatched: bool = False
) -> None:
    cell = Rectangle(
        (x, y), 0.94, 0.86, facecolor=COLOURS(episode % 10), edgecolor="white", linewidth=0.3
    )
    cell.set_hatch("///" if hatched else "")
    axis.add_patch(cell)
    axis.text(x + 0.47, y + 0.4, text, ha="center", va="center", fontsize=6, color="white")


def _finish(axis: Axes, width: float, height: float, title: str) -> None:
    axis.set_title(title, fontsize=10, loc="left", pad=4)
    axis.set_xlim(-5 if "lanes" in title else -0.5, width + 0.5)
    axis.set_ylim(-0.4, height + 0.4)
    axis.axis("off")


if __name__ == "__main__":
    main()

"""`make demo`: convert the bundled dataset, load a batch of it, and show what is in there.

Writes the shards and a contact sheet of one batch to demo_output/.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from roboshard.converter import ConversionReport, ConvertConfig, convert
from roboshard.loader import Loader, make_loader

PROJECT = Path(__file__).resolve().parent.parent
SOURCE = PROJECT / "tests" / "data" / "pusht_sim"
OUTPUT = PROJECT / "demo_output"
CAMERA = "observation.image"
FRAME_OFFSETS_S = [-0.4, -0.2, 0.0]
ACTION_OFFSETS_S = [i / 10 for i in range(16)]
SHOWN_SAMPLES = 6


def main() -> None:
    """Convert, load, report."""
    shards = OUTPUT / "pusht_sim_shards"
    shutil.rmtree(shards, ignore_errors=True)
    started = time.perf_counter()
    report = convert(
        ConvertConfig(source=str(SOURCE), destination=str(shards), shard_size="200KB", workers=1)
    )
    converted_s = time.perf_counter() - started

    loader = make_loader(
        str(shards),
        batch_size=16,
        delta_timestamps={CAMERA: FRAME_OFFSETS_S, "action": ACTION_OFFSETS_S},
        pool_episodes=8,
    )
    first = next(iter(loader))
    started = time.perf_counter()
    samples = sum(len(batch["index"]) for batch in loader)
    loaded_s = time.perf_counter() - started

    sheet = OUTPUT / "batch.png"
    contact_sheet(first, sheet)
    show_summary(report, loader, converted_s, samples / loaded_s)
    Console().print(f"One batch with its delta windows: {sheet.relative_to(PROJECT)}")


def show_summary(
    report: ConversionReport, loader: Loader, converted_s: float, samples_per_s: float
) -> None:
    """What went in, what came out, how fast on this machine."""
    bytes_in = sum(path.stat().st_size for path in SOURCE.rglob("*") if path.is_file())
    table = Table("", "", title="pusht_sim: LeRobot dataset → shards → batches", show_header=False)
    table.add_row("episodes, frames", f"{report.episodes}, {report.frames}")
    table.add_row("bytes in", decimal(bytes_in))
    table.add_row("bytes out", f"{decimal(report.bytes_written)} in {report.shards} shards")
    table.add_row("converted", f"{report.frames / converted_s:,.0f} frames/s")
    table.add_row(
        "loaded, decoded", f"{samples_per_s:,.0f} samples/s of {len(FRAME_OFFSETS_S)} frames each"
    )
    table.add_row(
        "frames decoded per frame used",
        f"{loader.stats().frames_decoded / loader.stats().frames_used:.2f}",
    )
    Console().print(table)


def contact_sheet(batch: dict[str, Any], path: Path) -> None:
    """Draw samples as rows: the frames of the window, and the actions that follow over the last of
    them.
    """
    mpl.use("agg")
    count = min(SHOWN_SAMPLES, len(batch["index"]))
    figure, axes = plt.subplots(
        count,
        len(FRAME_OFFSETS_S) + 1,
        figsize=(8, 2.05 * count),
        constrained_layout=True,
        squeeze=False,
    )
    figure.suptitle(
        "One batch of pusht_sim: three past frames, and sixteen actions to come", fontsize=11
    )
    for row in range(count):
        for column, offset in enumerate(FRAME_OFFSETS_S):
            show_frame(
                axes[row, column],
                batch[CAMERA][row, column],
                bool(batch[f"{CAMERA}_is_pad"][row, column]),
            )
            if row == 0:
                axes[row, column].set_title(f"{offset:+.1f} s", fontsize=9)
        label = (
            f"episode {int(batch['episode_index'][row])}\nframe {int(batch['frame_index'][row])}"
        )
        axes[row, 0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
        show_actions(axes[row, -1], batch, row)
    axes[0, -1].set_title("action, 0 … 1.5 s", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show_frame(axis: Axes, frame: torch.Tensor, is_pad: bool) -> None:
    """One frame; padding (the episode's boundary frame, repeated) is pale and says so."""
    axis.imshow(frame.permute(1, 2, 0).numpy(), alpha=0.35 if is_pad else 1.0)
    axis.set_xticks([])
    axis.set_yticks([])
    if is_pad:
        axis.text(0.5, 0.5, "pad", transform=axis.transAxes, ha="center", va="center", fontsize=9)


def show_actions(axis: Axes, batch: dict[str, Any], row: int) -> None:
    """The path that the actions draw; hollow where it is padding.

    The workspace is 512 x 512 pixels.
    """
    action, is_pad = batch["action"][row], batch["action_is_pad"][row]
    axis.plot(action[:, 0], action[:, 1], color="0.75", linewidth=1)
    axis.scatter(
        action[~is_pad, 0],
        action[~is_pad, 1],
        c=torch.arange(len(action))[~is_pad],
        cmap="viridis",
        s=14,
    )
    axis.scatter(action[is_pad, 0], action[is_pad, 1], facecolors="none", edgecolors="0.6", s=14)
    axis.set_xlim(0, 512)
    axis.set_ylim(512, 0)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])


if __name__ == "__main__":
    main()

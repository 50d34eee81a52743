"""The timed window that every contender runs, in whatever environment it lives: standard library
only.

A contender is a program that gets its case as one JSON argument and speaks to the harness by lines
of JSON on standard output. After each it waits for a line on standard input: till then the harness
holds its processes, and looks at them.

    {"event": "window"}                                    it is warm: its window begins
    {"event": "turn", "frames": ..., "elapsed_s": ...}     a turn is over, and the next one begins
    {"event": "result", "frames": ..., "elapsed_s": ...}   the window is over, and all ends

`frames` and `elapsed_s` count from the window's beginning, in the contender's own turns alone.
"""

import itertools
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Timing:
    """How long a contender runs."""

    warmup_s: float
    warmup_batches: int
    """Least batches of the warm-up; these and `warmup_s` are both waited for."""
    window_s: float
    min_batches: int
    """Least batches of the window, which is lengthened for those that do not give as many in it."""
    min_epochs: int = 0
    """Least epochs of the window, which then begins with an epoch and ends with one; for contenders
    that say how many batches an epoch has. 0: windows begin and end anywhere.
    """
    per_epoch: int = 0
    """Batches of an epoch; 0: that is not known."""
    turn_s: float = 0.0
    """Seconds after which it lets another contender have a turn; 0: the window is one turn."""

    def is_warm(self, batches: int) -> bool:
        """Whether the window may begin after so many batches, as far as they count."""
        return batches >= self.warmup_batches and self._is_whole(batches)

    def is_over(self, batches: int, elapsed_s: float) -> bool:
        """Whether the window may end after so many batches and seconds."""
        least = max(self.min_batches, self.min_epochs * self.per_epoch)
        return elapsed_s >= self.window_s and batches >= least and self._is_whole(batches)

    def _is_whole(self, batches: int) -> bool:
        return not (self.min_epochs and self.per_epoch) or batches % self.per_epoch == 0


def read_case() -> tuple[dict[str, Any], Timing]:
    """Return (what to load and how, how long), from the command line."""
    case = json.loads(sys.argv[1])
    return case, Timing(**case.pop("timing"))


class Turns:
    """The window of a contender, as a clock that stands still while others have their turns."""

    def __init__(self, turn_s: float) -> None:
        """Tell the harness that the window begins, and wait for the first turn."""
        _say({"event": "window"})
        self._turn_s = turn_s or math.inf
        self._before = 0.0
        self._began = time.perf_counter()

    def now(self) -> float:
        """Return the seconds of the window so far."""
        return self._before + time.perf_counter() - self._began

    def pass_on_if_due(self, frames: int, now: float) -> None:
        """Let the other one have its turn, if this one has lasted long enough.

        `frames` is what the window has given so far, and `now` when the last of them came.
        """
        if now - self._before >= self._turn_s:
            _say({"event": "turn", "frames": frames, "elapsed_s": now})
            self._before, self._began = now, time.perf_counter()


def report(result: dict[str, Any]) -> None:
    """Tell the harness what was measured, and wait until it has looked at the processes."""
    _say({"event": "result", **result})


class Watch(Protocol):
    """Looks at something else in the window."""

    def begin(self) -> None:
        """Note that the window begins."""

    def since(self, begin: float) -> dict[str, float]:
        """Return what it has seen since a `time.perf_counter()`, for the report."""


def measure_batches(
    batches: Iterator[Mapping[str, Any]],
    cameras: list[str],
    timing: Timing,
    started: float,
    watch: Watch | None = None,
) -> None:
    """Warm up, measure and report an endless stream of batches.

    The window runs from the arrival of the last warm-up batch to the arrival of the first batch
    after `window_s`; throughput is what arrived in between over the wall-clock time in between, but
    for that of others' turns. A turn ends with the first batch after `turn_s`.
    Where epochs are not alike, as pictures are kept from one for the next, `Timing.min_epochs` has
    it hold whole ones.
    Latency is how long the consumer, which does nothing else, waited for each batch of the window.
    `started` is when the contender began to make its loader.
    """
    batch = next(batches)
    first_batch_s = time.perf_counter() - started
    shapes = {key: describe(value) for key, value in batch.items()}
    samples, frames = count(batch, cameras)
    warm_until, taken = time.perf_counter() + timing.warmup_s, 1
    while time.perf_counter() < warm_until or not timing.is_warm(taken):
        batch, taken = next(batches), taken + 1
    del batch
    if timing.turn_s:
        watch = None  # the seconds that it counts would be those of other turns too
    if watch:
        watch.begin()
    turns, began = Turns(timing.turn_s), time.perf_counter()
    arrivals, samples, frames = [0.0], 0, 0
    while not timing.is_over(len(arrivals) - 1, arrivals[-1]):
        turns.pass_on_if_due(frames, arrivals[-1])
        batch = next(batches)
        arrivals.append(turns.now())
        new_samples, new_frames = count(batch, cameras)
        samples, frames = samples + new_samples, frames + new_frames
        del batch
    report(
        {
            "samples": samples,
            "frames": frames,
            "time_to_first_batch_s": round(first_batch_s, 3),
            **summary([late - early for early, late in itertools.pairwise(arrivals)]),
            "elapsed_s": arrivals[-1],
            **(watch.since(began) if watch else {}),
            "batch": shapes,
        }
    )


def summary(waits: list[float]) -> dict[str, float]:
    """Percentiles of the waits (nearest rank), in milliseconds, and how many there were."""
    ordered = sorted(waits)
    ranks = {
        f"p{percent}_ms": ordered[math.ceil(percent / 100 * len(ordered)) - 1]
        for percent in (50, 95, 99)
    }
    return {"batches": len(waits), **{name: round(1000 * wait, 2) for name, wait in ranks.items()}}


def count(batch: Mapping[str, Any], cameras: list[str]) -> tuple[int, int]:
    """(samples, frames) in a batch of (B, C, H, W) or (B, T, C, H, W) pictures."""
    shapes = [tuple(batch[camera].shape) for camera in cameras]
    return shapes[0][0], sum(math.prod(shape[:-3]) for shape in shapes)


def describe(value: object) -> str:
    """Shape and dtype, by which a reader can tell that contenders made the same."""
    if hasattr(value, "shape"):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"  # type: ignore[attr-defined]
    return type(value).__name__


def _say(message: dict[str, Any]) -> None:
    """Tell the harness, and wait until it has heard."""
    print(json.dumps(message), flush=True)
    sys.stdin.readline()

"""Which pictures are wanted and not begun yet: step by step, of each slice a GOP at a time. No thread, no decoder."""

from collections.abc import Container, Mapping
from typing import NamedTuple

from roboshard.loader.batches.pending import PendingStep
from roboshard.loader.episodes.episode import Episode


class Slice(NamedTuple):
    """One camera or image feature of one episode in memory: what one decoder serves."""

    episode: Episode
    key: str


class Target(NamedTuple):
    """Where a picture is wanted."""

    step: PendingStep
    place: int


Requests = dict[int, list[Target]]
"""Frame of a slice -> where it is wanted."""


class Wanted:
    """Requests of steps, the most urgent step first.

    A slice is visited for what the most urgent step wants of it. A decoder passes through a GOP from its keyframe on:
    whoever else wants a frame of one that is decoded now gets it now.
    """

    def __init__(self) -> None:
        self._steps: list[dict[Slice, dict[int, Requests]]] = []

    def add(self, requests: Mapping[Slice, Requests]) -> None:
        """What one more step wants, after those before it."""
        of_step: dict[Slice, dict[int, Requests]] = {}
        for slot, frames in requests.items():
            gops = of_step[slot] = {}
            for frame, targets in frames.items():
                gops.setdefault(slot.episode.gop(slot.key, frame), {})[frame] = targets
        if of_step:
            self._steps.append(of_step)

    def num_free(self, busy: Container[Slice]) -> int:
        """Slices that something is wanted of, and that are not busy."""
        return len({slot for of_step in self._steps for slot in of_step if slot not in busy})

    def take(self, busy: Container[Slice]) -> tuple[Slice, Requests] | None:
        """What to decode next of a slice that is not busy; None: nothing."""
        for number, of_step in enumerate(self._steps):
            slot = next((slot for slot in of_step if slot not in busy), None)
            if slot is not None:
                gops = of_step.pop(slot)
                for later in self._steps[number + 1 :]:
                    _move(slot, gops, later)
                self._steps = [left for left in self._steps if left]
                return slot, {frame: targets for frames in gops.values() for frame, targets in frames.items()}
        return None


def _move(slot: Slice, gops: Mapping[int, Requests], later: dict[Slice, dict[int, Requests]]) -> None:
    """To these GOPs what a later step wants of them."""
    wanted = later.get(slot, {})
    for gop in gops.keys() & wanted.keys():
        for frame, targets in wanted.pop(gop).items():
            gops[gop].setdefault(frame, []).extend(targets)
    if slot in later and not wanted:
        del later[slot]

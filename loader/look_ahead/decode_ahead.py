"""Stage: the pictures of the coming steps, decoded ahead.

Two or more steps have memory and are decoded at once: the look-ahead. More steps are drawn and
announced, but take no memory yet. In uniform order two frames of a GOP are rarely wanted within the
look-ahead; of a GOP that is decoded what announced steps want of it is kept, as long as there is
room for it, instead of being decoded again.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch

from roboshard.common.errors import RoboshardError
from roboshard.loader.batches.pending_batch import PendingBatch
from roboshard.loader.episodes.episode import Episode
from roboshard.loader.look_ahead.decode_threads import DecodeThreads
from roboshard.loader.order.plan import Draw
from roboshard.loader.samples.rows import Batch, WindowedStep
from roboshard.loader.stats import StatsCounter

LOOK_AHEAD_BYTES = 512 << 20
"""Most bytes of batches that are being decoded at once; two steps at least, so that no thread waits
for a step's last frame.
"""
LOOK_AHEAD_STEPS = (2, 8)
ANNOUNCED_SHARE = 1 / 16
"""Bytes of announced steps (rows, and notes of pictures) for each byte of the pictures that may be
kept for them, after which no more are drawn.
"""
NOTE_BYTES = 1 << 10
"""About how many bytes the note of a picture that is wanted takes."""
ANNOUNCED_PER_KEPT = 12
"""Pictures that announced steps may want for each that there is room to keep: more would be kept
for longer, and so fewer in all.
"""
DRAWN_AT_ONCE = (4, 64)
"""Steps drawn between two batches, until enough are announced: the first number whatever happens,
the second at the most, as long as the batch that is waited for is not ready. Before the first batch
it is one.
"""


Again = Callable[[Draw, Collection[Any], RoboshardError], WindowedStep]
"""Makes a step again of what it was drawn as, with other episodes in the place of these, in which a
frame of it cannot be decoded."""


def decode_video(
    steps: Iterable[WindowedStep],
    threads: DecodeThreads,
    counter: StatsCounter,
    episode_bytes: int,
    again: Again | None = None,
) -> Iterator[Batch]:
    """Yield the batches of steps, with pictures (n, C, H, W), or (n, T, C, H, W) under a window.

    Args:
        steps: Those of this process, in order.
        threads: What decodes.
        counter: Counts for the loader's statistics.
        episode_bytes: Bytes of the episodes that announced steps may hold in memory.
        again: What makes a step again of which a frame cannot be decoded; None: that is an error.
    """
    announced = Announced(steps, threads, episode_bytes)
    begun: deque[PendingBatch] = deque()
    most = look_ahead_steps(LOOK_AHEAD_BYTES)  # until the first batch shows how large one is
    try:
        while True:
            while len(begun) < most and announced.may_begin(waits=not begun):
                begun.append(threads.begin(announced.next()))
            if not begun:
                announced.end()
                return
            # Now: who takes the batch will want the interpreter's lock.
            announced.draw_ahead(awaited=begun[0])
            counter.set(steps_ahead=len(begun))
            started = time.perf_counter()
            begun[0] = _complete(begun[0], threads, again)
            counter.spans.add("wait for pictures", started)
            most = look_ahead_steps(begun[0].num_bytes)
            # held by nobody here, so that its memory is free as the user lets go
            yield begun.popleft().batch()
    finally:
        threads.close()


def _complete(pending: PendingBatch, threads: DecodeThreads, again: Again | None) -> PendingBatch:
    """Wait until the step is complete, and return it, or one in its place that can be."""
    spoiled: set[Any] = set()
    while True:
        try:
            return threads.wait_for(pending)
        except RoboshardError as error:
            if again is None or pending.draw is None or not pending.spoiled:
                raise
            spoiled |= pending.spoiled
            pending = threads.insert(again(pending.draw, spoiled, error))


class Announced:
    """Steps that have been drawn and have not begun, in order."""

    def __init__(
        self, steps: Iterable[WindowedStep], threads: DecodeThreads, episode_bytes: int
    ) -> None:
        """Announce nothing yet. `episode_bytes`: bytes of the steps' episodes after which no more
        is drawn ahead.
        """
        self._coming = iter(steps)
        self._threads = threads
        self._announced: deque[tuple[PendingBatch, WindowedStep]] = deque()
        self._holding = Holding()
        self._episode_bytes = episode_bytes
        self._most_at_once = 1
        self._failure: RoboshardError | None = None

    def may_begin(self, waits: bool) -> bool:
        """Whether there is a step to begin, and memory for it; if it `waits`, not before there
        is.
        """
        if not self._announced and not self._draw():
            return False
        return self._threads.may_begin(self._announced[0][0], waits)

    def next(self) -> PendingBatch:
        """Return the next step to begin."""
        pending, step = self._announced.popleft()
        self._holding.remove(step)
        return pending

    def draw_ahead(self, awaited: PendingBatch) -> None:
        """Draw the step after the next one, or more where pictures are kept for them.

        `awaited`: what is waited for next.
        """
        least, most = DRAWN_AT_ONCE
        for number in range(self._most_at_once):
            is_time = number < least or awaited.left > 0
            if not is_time or self._are_enough() or not self._draw():
                break
        self._most_at_once = min(most, 2 * self._most_at_once)

    def end(self) -> None:
        """Raise what went wrong as the step after the last one was drawn: those before it have been
        loaded.
        """
        if self._failure is not None:
            raise self._failure

    def _draw(self) -> bool:
        if self._failure is not None:
            return False
        try:
            step = next(self._coming, None)
        except RoboshardError as error:
            self._failure = error
            return False
        if step is None:
            return False
        self._announced.append((self._threads.announce(step), step))
        self._holding.add(step)
        return True

    def _are_enough(self) -> bool:
        most_kept = self._threads.most_early
        if not most_kept:
            return len(self._announced) >= 1
        held = self._holding
        return (
            held.num_pictures >= ANNOUNCED_PER_KEPT * most_kept
            or held.row_bytes + NOTE_BYTES * held.num_pictures
            >= ANNOUNCED_SHARE * self._threads.early_bytes
            or held.episode_bytes >= self._episode_bytes
        )


class Holding:
    """What steps that have not begun hold in memory."""

    def __init__(self) -> None:
        """Start with no steps."""
        self.row_bytes = 0
        self.num_pictures = 0
        """How many pictures the steps want."""
        self.episode_bytes = 0
        """Bytes of the steps' episodes, each counted once."""
        self._steps_of: dict[Episode, int] = {}
        """Episode -> how many of the steps it is of."""

    def add(self, step: WindowedStep) -> None:
        """Count one more step."""
        self._count(step, 1)
        for episode in step.episodes:
            before = self._steps_of.get(episode, 0)
            self._steps_of[episode] = before + 1
            if not before:
                self.episode_bytes += episode.held_bytes

    def remove(self, step: WindowedStep) -> None:
        """Forget a step that was added."""
        self._count(step, -1)
        for episode in step.episodes:
            self._steps_of[episode] -= 1
            if not self._steps_of[episode]:
                del self._steps_of[episode]
                self.episode_bytes -= episode.held_bytes

    def _count(self, step: WindowedStep, sign: int) -> None:
        values = [value for value in step.values.values() if isinstance(value, torch.Tensor)]
        self.row_bytes += sign * sum(value.nbytes for value in values)
        self.num_pictures += sign * sum(frames.size for frames in step.frames.values())


def look_ahead_steps(bytes_per_step: int) -> int:
    """Return how many steps are decoded at once."""
    least, most = LOOK_AHEAD_STEPS
    return min(most, max(least, LOOK_AHEAD_BYTES // max(1, bytes_per_step)))

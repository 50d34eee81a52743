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

from roboshard.common.errors import RoboshardError
from roboshard.loader.batches.decode_threads import DecodeThreads
from roboshard.loader.batches.pending_batch import PendingBatch
from roboshard.loader.order.plan import Draw
from roboshard.loader.samples.rows import Batch, WindowedStep
from roboshard.loader.stats import Counter

LOOK_AHEAD_BYTES = 512 << 20
"""Of batches that are being decoded at once; two steps at least, so that no thread waits for a
step's last frame.
"""
LOOK_AHEAD_STEPS = (2, 8)
ANNOUNCED_SAMPLES = 1024
"""In steps that are announced, where pictures are kept for them."""
ANNOUNCED_STEPS = 32
"""At most."""
DRAWN_AT_ONCE = 4
"""Steps, between two batches, until so many are announced; before the first batch one, for it is
waited for.
"""


Again = Callable[[Draw, Collection[Any], RoboshardError], WindowedStep]
"""Makes a step again of what it was drawn as, with other episodes in the place of these, in which a
frame of it cannot be decoded."""


def decode_video(
    steps: Iterable[WindowedStep],
    threads: DecodeThreads,
    counter: Counter,
    again: Again | None = None,
) -> Iterator[Batch]:
    """Add the pictures: (n, C, H, W), or (n, T, C, H, W) under a window.

    Args:
        steps: Those of this process, in order.
        threads: What decodes.
        counter: For the loader's statistics.
        again: What makes a step again of which a frame cannot be decoded; None: that is an error.
    """
    announced = Announced(steps, threads)
    begun: deque[PendingBatch] = deque()
    most = look_ahead_steps(LOOK_AHEAD_BYTES)  # until the first batch shows how large one is
    try:
        while True:
            while len(begun) < most and (step := announced.next()) is not None:
                begun.append(threads.begin(step))
            if not begun:
                announced.end()
                return
            announced.draw_ahead()  # now: who takes the batch will want the interpreter's lock
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
    """The step, when it is complete, or one in its place that can be."""
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

    def __init__(self, steps: Iterable[WindowedStep], threads: DecodeThreads) -> None:
        self._coming = iter(steps)
        self._threads = threads
        self._announced: deque[PendingBatch] = deque()
        self._most_at_once = 1
        self._failure: RoboshardError | None = None

    def next(self) -> PendingBatch | None:
        """The next step to begin; None: there is none any more."""
        return self._announced.popleft() if self._announced or self._draw() else None

    def draw_ahead(self) -> None:
        """Draw the step after the next one, or more where pictures are kept for them."""
        for _ in range(self._most_at_once):
            if self._are_enough() or not self._draw():
                break
        self._most_at_once = min(DRAWN_AT_ONCE, 1 + self._most_at_once)

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
        self._announced.append(self._threads.announce(step))
        return True

    def _are_enough(self) -> bool:
        if not self._threads.keeps_early:
            return len(self._announced) >= 1
        num_samples = sum(step.num_samples for step in self._announced)
        return num_samples >= ANNOUNCED_SAMPLES or len(self._announced) >= ANNOUNCED_STEPS


def look_ahead_steps(bytes_per_step: int) -> int:
    """How many steps are decoded at once."""
    least, most = LOOK_AHEAD_STEPS
    return min(most, max(least, LOOK_AHEAD_BYTES // max(1, bytes_per_step)))

"""Which frames a contender without an order of its own is asked for, and how long it fetched and
decoded.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds of several threads, by what they did; tells those since the window began."""

    def __init__(self) -> None:
        """Begin with nothing measured."""
        self._lock = threading.Lock()
        self._spans: list[tuple[str, float, float]] = []

    def begin(self) -> None:
        """Forget what was before the window."""
        with self._lock:
            self._spans.clear()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time what is done inside, in this thread."""
        began = time.perf_counter()
        yield
        with self._lock:
            self._spans.append((name, began, time.perf_counter()))

    def add(self, name: str, seconds: float) -> None:
        """Take what another process has measured, as if it ended now."""
        now = time.perf_counter()
        with self._lock:
            self._spans.append((name, now, now + seconds))

    def since(self, begin: float) -> dict[str, float]:
        """Return seconds over all threads, of what began since then."""
        with self._lock:
            spans = [span for span in self._spans if span[1] >= begin]
        names = sorted({name for name, _, _ in spans})
        return {
            f"{name}_s": round(sum(end - began for each, began, end in spans if each == name), 3)
            for name in names
        }


def shuffled(lengths: list[int], seed: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (episode, frame) of all frames in a random order, epoch after epoch."""
    order = random.Random(seed)  # noqa: S311
    frames = [(episode, frame) for episode, length in enumerate(lengths) for frame in range(length)]
    while True:
        order.shuffle(frames)
        yield from frames


def window_of(frame: int, window: int) -> list[int]:
    """The frame and those before it, in order; what would lie before the episode is left out."""
    return list(range(max(0, frame - window + 1), frame + 1))


def padded(count: int, window: int) -> list[int]:
    """Positions among `count` frames that make a window of them: the first one is repeated."""
    return [max(0, position - (window - count)) for position in range(window)]

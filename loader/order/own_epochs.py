"""Which epoch of its own each sample of a mixture's dataset is of, where epochs may differ in
length.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from roboshard.loader.order.episodes import Episodes

IntArray = NDArray[np.int64]
KEPT_STARTS = 64
"""Starts of epochs that are remembered: each is a sum over all episodes."""


class OwnEpochs:
    """The epochs of a dataset laid end to end.

    An epoch may be empty, where all weights are fractions.
    """

    def __init__(self, episodes: Episodes) -> None:
        """Count the frames of episodes that come as often as their weights say."""
        self._episodes = episodes
        repeats = episodes.repeats
        self._num_frames = int(episodes.num_rows.sum())
        self.is_even = repeats is None
        """Whether all epochs have as many frames."""
        self.average = self._num_frames
        """Frames of an epoch, rounded up: over many epochs, and of each where there are no
        weights.
        """
        if repeats is not None:
            weights = repeats.numerator / repeats.denominator
            self.average = max(1, int(np.ceil((episodes.num_rows * weights).sum())))
        self.start: Callable[[int], int] = lru_cache(KEPT_STARTS)(episodes.frames_before)
        """The number of an epoch's first sample."""

    def __reduce__(self) -> tuple[type["OwnEpochs"], tuple[Episodes]]:
        """A copy remembers no starts."""
        return OwnEpochs, (self._episodes,)

    def epochs(self, numbers: IntArray) -> IntArray:
        """Return the epochs that samples of these numbers are of."""
        if self.is_even:
            even: IntArray = numbers // self._num_frames
            return even
        first, last = self._epoch(int(numbers.min())), self._epoch(int(numbers.max()))
        starts = np.asarray([self.start(epoch) for epoch in range(first, last + 1)])
        found: IntArray = first + np.searchsorted(starts, numbers, side="right") - 1
        return found

    def place(self, number: int) -> tuple[int, int]:
        """Return the epoch of a sample, and how many samples of it come before."""
        epoch = self._epoch(number)
        return epoch, number - self.start(epoch)

    def _epoch(self, number: int) -> int:
        """Return the last epoch that begins at or before a sample: by bisection, from where it
        would be on average.
        """
        if self.is_even:
            return number // self._num_frames
        low = high = number // self.average
        step = 1
        while self.start(low) > number:
            low, step = max(0, low - step), 2 * step
        step = 1
        while self.start(high) <= number:
            high, step = high + step, 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.start(middle) <= number else (low, middle)
        return low


def epochs_of(own: Sequence[OwnEpochs], datasets: IntArray, numbers: IntArray) -> IntArray:
    """Return the epochs that samples of several datasets are of.

    Args:
        own: epochs of each dataset.
        datasets: (n,) which of them each sample is of.
        numbers: (n,) of the samples, among those of their dataset.
    """
    epochs: IntArray = numbers // np.asarray([dataset.average for dataset in own])[datasets]
    for dataset in np.unique(datasets).tolist():
        if not own[dataset].is_even:
            mine = datasets == dataset
            epochs[mine] = own[dataset].epochs(numbers[mine])
    return epochs

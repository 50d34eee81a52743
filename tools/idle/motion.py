"""Where nothing moves: arithmetic on the numbers of an episode's rows."""

import numpy as np
from numpy.typing import NDArray

Ranges = list[tuple[int, int]]


def kept_ranges(
    values: NDArray[np.float64], threshold: NDArray[np.float64], most_still: float
) -> Ranges:
    """Return the ranges (first, stop) of rows that are not part of a long standstill.

    A row is still if no number differs by more than its threshold from the row before; the first
    one, if the second one is. What is NaN is taken to move.

    Args:
        values: the numbers of each row (rows, numbers).
        threshold: how much each number may change and be still (numbers,).
        most_still: longer runs of still rows than this are dropped.
    """
    num_rows = len(values)
    still = np.zeros(num_rows, dtype=np.bool_)
    if num_rows > 1:
        still[1:] = (np.abs(np.diff(values, axis=0)) <= threshold).all(axis=1)
        still[0] = still[1]
    starts, stops = _runs(still)
    is_long = stops - starts > most_still
    is_kept = np.ones(num_rows, dtype=np.bool_)
    for start, stop in zip(starts[is_long].tolist(), stops[is_long].tolist(), strict=True):
        is_kept[start:stop] = False
    first, stop = _runs(is_kept)
    return list(zip(first.tolist(), stop.tolist(), strict=True))


def _runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (starts, stops) of the runs of true values."""
    edges = np.diff(np.r_[0, mask.astype(np.int8), 0])
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)

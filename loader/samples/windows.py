"""Delta windows: arithmetic from offsets in seconds to rows, as LeRobot defines it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from roboshard.common.errors import OptionError

MAX_OFFSET_S = 1e9
Window = tuple[NDArray[np.int64], NDArray[np.bool_]]


def frame_offsets(
    delta_timestamps: Mapping[str, Sequence[float]], fps: float, tolerance_s: float
) -> dict[str, NDArray[np.int64]]:
    """Return feature key -> offsets in frames, (T,).

    Raises:
        OptionError: an offset that is not a whole number of frames within `tolerance_s`, or no list
            of numbers.
    """
    offsets = {}
    for key, deltas in delta_timestamps.items():
        seconds = _seconds(deltas)
        if (
            seconds.ndim != 1 or seconds.size == 0 or not np.all(np.abs(seconds) <= MAX_OFFSET_S)
        ):  # NaN is not
            raise OptionError(
                f"delta_timestamps[{key!r}] must be a list of at least one number of seconds, each "
                f"within ±{MAX_OFFSET_S:g}, not {deltas!r:.100}"
            )
        frames = np.round(seconds * fps)
        wrong = seconds[np.abs(seconds * fps - frames) / fps > tolerance_s]
        if wrong.size:
            raise OptionError(
                f"delta_timestamps[{key!r}]: {', '.join(map(str, wrong.tolist()))} s is not a "
                f"whole number of frames at {fps:g} fps within tolerance_s={tolerance_s}; use "
                f"multiples of 1/{fps:g}"
            )
        offsets[key] = frames.astype(np.int64)
    return offsets


def _seconds(deltas: Sequence[float]) -> NDArray[np.float64]:
    try:
        return np.asarray(deltas, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)


def window(
    rows: NDArray[np.int64], offsets: NDArray[np.int64], lengths: NDArray[np.int64]
) -> Window:
    """Return the rows of the windows around some rows, clamped to their episodes, and which of them
    are padding.

    Args:
        rows: (n,) rows of episodes.
        offsets: (T,) of the window, in frames.
        lengths: (n,) rows that the episode of each has.

    Returns:
        rows (n, T) in 0..length-1, and is_pad (n, T), True where the window leaves the episode.
    """
    around = rows[:, None] + offsets
    last = lengths[:, None] - 1
    return np.clip(around, 0, last), (around < 0) | (around > last)

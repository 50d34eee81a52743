"""What reading frames out of a compressed stream costs, in frames decoded, from where its keyframes
are.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COSTLY = 4.0
"""Frames decoded for one that is used, from which on users are told what helps."""


def distances(keyframes: Sequence[int], num_frames: int) -> NDArray[np.int64]:
    """(len(keyframes),) frames from each keyframe to the next, and from the last to the end."""
    bounds = np.asarray([*keyframes, num_frames], dtype=np.int64)
    return bounds[1:] - bounds[:-1]


def last_keyframe(keyframes: Sequence[int], frame: int) -> int:
    """The last one up to a frame."""
    return keyframes[max(0, bisect_right(keyframes, frame) - 1)]


def lowest_later(ticks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each packet, in decode order, the lowest time of those after it; the last has
    none.
    """
    later = np.append(ticks[1:], np.iinfo(np.int64).max)
    return np.minimum.accumulate(later[::-1])[::-1]


def mean_random_cost(keyframes: Sequence[int], num_frames: int) -> float:
    """Frames decoded for one frame picked at random: from the keyframe before it up to itself.

    1 where every frame is a keyframe, about half the distance between keyframes where that is long.
    """
    lengths = distances(keyframes, num_frames).astype(
        np.float64
    )  # n frames from a keyframe on cost 1, 2, … n
    return float(np.sum(lengths * (lengths + 1) / 2) / max(1.0, np.sum(lengths)))


def frames_passed(frames: Sequence[int], keyframes: Sequence[int], last: int | None) -> list[int]:
    """Return the frames that `decode_cost` counts, ascending as these are; one before the first
    keyframe by itself.
    """
    passed: list[int] = []
    shown = -1 if last is None else last
    for frame in frames:
        begin = max(last_keyframe(keyframes, frame), shown + 1 if shown < frame else 0)
        passed += range(min(begin, frame), frame + 1)
        shown = frame
    return passed


def decode_cost(frames: Sequence[int], keyframes: Sequence[int], last: int | None) -> int:
    """Frames decoded for these, ascending, by a decoder that has shown frame `last` (None: that was
    just opened).

    It goes on from where it is, or from the last keyframe before a frame if that is nearer.
    """
    cost, shown = 0, -1 if last is None else last
    for frame in frames:
        from_keyframe = last_keyframe(keyframes, frame)
        cost += frame - max(from_keyframe, shown + 1 if shown < frame else 0) + 1
        shown = frame
    return cost

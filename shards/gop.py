"""What reading frames out of a compressed stream costs, in frames decoded, from where its keyframes are."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np


def mean_random_cost(keyframes: Sequence[int], num_frames: int) -> float:
    """Frames decoded for one frame picked at random: from the keyframe before it up to itself.

    1 where every frame is a keyframe, about half the distance between keyframes where that is long.
    """
    bounds = np.asarray([*keyframes, num_frames], dtype=np.float64)
    lengths = np.diff(bounds)  # n frames from a keyframe on cost 1, 2, … n
    return float(np.sum(lengths * (lengths + 1) / 2) / max(1.0, np.sum(lengths)))


def decode_cost(frames: Sequence[int], keyframes: Sequence[int], last: int | None) -> int:
    """Frames decoded for these, ascending, by a decoder that has shown frame `last` (None: that was just opened).

    It goes on from where it is, or from the last keyframe before a frame if that is nearer.
    """
    cost, shown = 0, -1 if last is None else last
    for frame in frames:
        from_keyframe = keyframes[max(0, bisect_right(keyframes, frame) - 1)]
        cost += frame - max(from_keyframe, shown + 1 if shown < frame else 0) + 1
        shown = frame
    return cost

"""When packets are decoded, where their file does not say: Matroska has only the times at which
frames are shown.
"""

import numpy as np

from roboshard.converter.video.packets import IntArray

MAX_REORDERED = 16
"""Packets that may come before one that is shown before them, in any codec (H.264 A.3, H.265
A.4).
"""


def decode_times(pts: IntArray) -> IntArray:
    """Return (num_packets,) times of decoding, each the latest that leaves all frames their time to
    be shown.

    Args:
        pts: When each packet is shown, in ticks, in decode order.
    """
    in_order, number = np.sort(pts), np.arange(len(pts))
    place = np.empty_like(number)
    place[np.argsort(pts, kind="stable")] = number
    delay = int(np.max(number - place, initial=0))
    step = max(1, int(np.diff(in_order).min())) if len(pts) > 1 else 1
    lead = in_order[:1] - step * np.arange(delay, 0, -1)
    return np.concatenate([lead, in_order])[: len(pts)]

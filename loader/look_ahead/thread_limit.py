"""How many threads gain something by decoding. Arithmetic alone.

What Python does around each frame is done under the interpreter's lock, by one thread at a time,
and threads that wait for it cost time of their own. The smaller the pictures, the more of a frame's
time that is. Of the smallest even one thread beside the one that draws steps and waits for batches
is too many: that one decodes them itself.
"""

import math

PIXELS_A_THREAD = 14_000
"""Pixels decoded for each frame that is used, for each thread: below that, another thread gains
nothing, and one alone less than none.
"""
JUDGED_FRAMES = 256
"""Frames used, after which it is known how many are decoded for each."""
FORGOTTEN_FRAMES = 8192
"""Frames used, after which those before them count half."""


class ThreadLimit:
    """How many threads decode: all at first, for the first batch is waited for and may cost many
    decodes.

    Example:
        >>> limit = ThreadLimit(most=16, pixels=96 * 96)
        >>> limit.now
        16
        >>> limit.count(used=256, decoded=256)
        >>> limit.now  # none: whoever waits for a batch decodes it
        0
        >>> limit.count(used=256, decoded=10_000)  # keyframes are far apart
        >>> limit.now
        14
    """

    def __init__(self, most: int, pixels: float | None, least: int = 0) -> None:
        """Allow `most` threads at the most.

        Args:
            most: Threads at the most, and at first.
            pixels: Pixels of a picture, on average; None: always allow all threads.
            least: Threads at the least, 0 or 1.
        """
        self.now = most
        self._least = least
        self._most = most
        self._pixels = pixels
        self._used = self._decoded = 0.0

    def count(self, used: float, decoded: float) -> None:
        """Count frames that were used, and those that were decoded for them."""
        self._used += used
        self._decoded += decoded
        if self._pixels is None or self._used < JUDGED_FRAMES:
            return
        work = self._pixels * max(1.0, self._decoded / self._used)
        threads = math.ceil(work / PIXELS_A_THREAD)
        self.now = self._least if threads <= 1 else min(self._most, threads)
        if self._used >= FORGOTTEN_FRAMES:
            self._used, self._decoded = self._used / 2, self._decoded / 2

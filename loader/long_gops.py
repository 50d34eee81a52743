"""A warning where frames are drawn at random from videos whose keyframes are far apart."""

from roboshard.common.caller import warn_caller
from roboshard.loader.config import OrderConfig
from roboshard.loader.stats import Counter
from roboshard.shards.gop import COSTLY

WARN_AFTER = 256
"""Video frames used before the cost of decoding them is judged."""


class LongGopWarning:
    """Warns once, when the first frames have shown what a frame in random order costs."""

    def __init__(self, order: OrderConfig) -> None:
        self._is_judged = not order.shuffle or order.frame_order != "uniform"

    def judge(self, counter: Counter) -> None:
        """Warn of what the frames so far have cost, if they are enough to tell.

        Called in the loader's iteration.
        """
        if self._is_judged:
            return
        stats = counter.snapshot()
        if stats.frames_used < WARN_AFTER:
            return
        self._is_judged = True
        cost = stats.frames_decoded_per_frame_used
        if cost > COSTLY:
            warn_caller(
                f"{cost:.1f} frames are decoded for every frame used, because keyframes are far "
                'apart. frame_order="sweep" decodes frames in order; or convert the source again '
                "with `convert-to-shards --video reencode --gop 2`, which makes every other frame "
                "a keyframe",
            )

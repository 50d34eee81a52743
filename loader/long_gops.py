"""A warning where keyframes are far apart, and frames drawn at random or for workers in turn."""

from roboshard.common.caller import warn_caller
from roboshard.loader.config import OrderConfig
from roboshard.loader.stats import LoaderStats, StatsCounter
from roboshard.shards.gop import COSTLY

FIRST_FRAMES = 2048
"""Video frames used that say little: few later ones are known yet that share their GOPs."""
JUDGED_FRAMES = 256
"""Video frames used after the `FIRST_FRAMES`, by which the cost of decoding is judged."""

IN_ORDER = 'frame_order="sweep" decodes frames in order'
BY_THREADS = "num_workers=0 decodes them once, by threads"
OF_WORKERS = " and workers that serve other steps decode their way to the same frames"


class LongGopWarning:
    """Warns once, when enough frames have shown what a frame costs, where that can be helped: in
    random order, and where several workers, or teams of them, decode their way to frames of the
    same episodes.
    """

    def __init__(self, order: OrderConfig, num_teams: int) -> None:
        """Judge nothing yet. `num_teams`: of workers that serve steps of their own."""
        self._is_judged = order.is_forward and num_teams < 2
        self._cause, self._remedy = "", IN_ORDER
        if order.is_forward:
            self._cause, self._remedy = OF_WORKERS, BY_THREADS
        self._first: LoaderStats | None = None
        """The statistics after the frames that say little; None: these were not used yet."""

    def judge(self, counter: StatsCounter) -> None:
        """Warn of what frames have cost of late, if there were enough to tell.

        Called in the loader's iteration.
        """
        if self._is_judged:
            return
        stats = counter.snapshot()
        if self._first is None:
            self._first = stats if stats.frames_used >= FIRST_FRAMES else None
            return
        num_used = stats.frames_used - self._first.frames_used
        if num_used < JUDGED_FRAMES:
            return
        self._is_judged = True
        cost = (stats.frames_decoded - self._first.frames_decoded) / num_used
        if cost > COSTLY:
            warn_caller(
                f"{cost:.1f} frames are decoded for every frame used, because keyframes are far "
                f"apart{self._cause}. {self._remedy}; or convert the source again with "
                "`convert-to-shards --video reencode --gop 2`, which makes every other frame a "
                "keyframe",
            )

"""Which episodes are held out: a pure function of the seed, the fraction and an episode's index.

Of each run of 1/fraction indices in a row, one is held out, drawn by the seed. So whichever
episodes there are beside it, which of them are chosen, and however many are added, an episode is on
the same side. Of n episodes with indices in a row n times the fraction are held out, give or take
one; of those of a task, recorded in one go, as well, and of tasks that take turns as many as chance
has it.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from roboshard.common.permute import derive_key, keyed_integers

LARGEST_DENOMINATOR = 1 << 20
"""Fractions are held out as the nearest one with a denominator up to this."""


def held_out(episode_index: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return whether each episode is held out, (num_episodes,)."""
    share = Fraction(fraction).limit_denominator(LARGEST_DENOMINATOR)
    up, down = share.numerator, share.denominator
    if up == 0:
        return np.zeros(len(episode_index), dtype=np.bool_)
    run = (
        episode_index * up // down
    )  # this run begins at the first index i with i * up >= run * down
    first, end = -(-run * down // up), -(-(run + 1) * down // up)
    chance = keyed_integers(run.astype(np.uint64), derive_key("split", seed))
    drawn = first + (chance % (end - first).astype(np.uint64)).astype(np.int64)
    held: NDArray[np.bool_] = drawn == episode_index
    return held

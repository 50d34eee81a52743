"""How many episodes are mixed with each other where the user leaves it open: arithmetic alone."""

import math

from roboshard.loader.config import FrameOrder

AT_LEAST = 64
"""Fewest episodes of a pool."""
AT_LEAST_OVER_ALL = 1024
"""Fewest episodes of the pools of all rank slots together."""
PER_SAMPLE = 8
"""Episodes of a pool for each sample that a step takes of it: then two of them are seldom of one
episode.
"""
IN_A_SWEEP = 64
"""Episodes of a pool that is swept: each of them may keep a decoder open for every camera."""


def default_pool(frame_order: FrameOrder, *, rank_slots: int, global_batch_size: int) -> int:
    """Return the episodes of a pool whose batches are about as mixed as those of a true shuffle.

    A step takes b = B/R samples of a pool. Of P episodes they are of P (1 - (1 - 1/P)^b) different
    ones, about b (1 - b / 2P), where a true shuffle of many episodes has nearly b. So P = 8 b
    leaves 0.94 of them.

    Args:
        frame_order: How the frames of a pool are mixed.
        rank_slots: R, each of which has a pool of its own.
        global_batch_size: B, the samples of a step.
    """
    if frame_order == "sweep":
        return IN_A_SWEEP
    per_slot = math.ceil(global_batch_size / rank_slots)
    return max(AT_LEAST, math.ceil(AT_LEAST_OVER_ALL / rank_slots), PER_SAMPLE * per_slot)

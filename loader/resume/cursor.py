"""Where a rank stands in its lanes, for people and tools: it follows from the step, and nothing is
stored.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from roboshard import storage
from roboshard.loader.job import Plan
from roboshard.loader.sources import Source


@dataclass(frozen=True, kw_only=True)
class LaneCursor:
    """The sample that comes next in a lane."""

    rank_slot: int
    """Number of the lane, among the lanes of all ranks."""
    dataset_index: int
    """Number of the dataset in a mixture; 0 for one dataset."""
    shard: str
    """URL of the shard, without signatures and passwords."""
    offset: int
    """Byte of the shard at which the episode begins."""
    episode_index: int
    frame: int
    """Row of the episode, from 0."""


def lane_cursors(
    plan: Plan, step: int, rank_slots: Sequence[int], sources: Sequence[Source]
) -> list[LaneCursor]:
    """Return where each lane goes on at a step of the plan's epoch."""
    first = [source.first for source in sources]
    found = []
    for slot in rank_slots:
        draw = plan.step(step, [slot])
        position = int(draw.positions[0])
        number = bisect_right(first, position) - 1
        dataset, place = sources[number].dataset, position - first[number]
        entry = dataset.manifest.shards[int(dataset.index.shard[place])]
        found.append(
            LaneCursor(
                rank_slot=slot,
                dataset_index=number,
                shard=storage.redacted(storage.join(dataset.root, entry.name)),
                offset=int(dataset.index.offset[place]),
                episode_index=int(dataset.index.episode_index[place]),
                frame=int(draw.rows[0]),
            )
        )
    return found

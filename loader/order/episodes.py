"""What an epoch is made of: episodes, which of their frames are samples, and how often each comes.

all frames of a stretch    first_row, num_rows      two numbers an episode
some ranges of frames      kept                     the ranges of all episodes, end to end
other numbers than once    repeats                  a fraction an episode: arithmetic on the epoch
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from roboshard.loader.order.repeats import Repeats

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class KeptRanges:
    """The rows used of episodes of which only ranges of rows are: all ranges end to end, episode by
    episode.
    """

    first_row: IntArray
    """(num_ranges,) first row of each range, within its episode."""
    start: IntArray
    """(num_ranges,) rows in the ranges before each, over all episodes."""
    episode_start: IntArray
    """(num_episodes,) rows in the ranges of the episodes before each."""

    def rows(self, episode: IntArray, within: IntArray) -> IntArray:
        """Return the row of frame number `within` among those used, for each of `episode`."""
        place = self.episode_start[episode] + within
        found = np.searchsorted(self.start, place, side="right") - 1
        rows: IntArray = self.first_row[found] + place - self.start[found]
        return rows


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Episodes and their frames: arrays of shape (num_episodes,), in dataset order; every episode
    has a frame.
    """

    position: IntArray
    """Position of each episode in the dataset's episode index."""
    first_row: IntArray
    """The first row used of each episode."""
    num_rows: IntArray
    """How many rows of each episode are used, at least one."""
    storage_rank: IntArray
    """Where the episode lies among all others, by shard and offset."""
    shard: IntArray
    kept: KeptRanges | None = None
    """Which rows of the episodes are used; None: those from `first_row` on."""
    repeats: Repeats | None = None
    """How often each episode comes; None: once an epoch."""

    def __len__(self) -> int:
        return len(self.position)

    def rows(self, episode: IntArray, within: IntArray) -> IntArray:
        """Return the rows of used frames: number `within` of the episode at place `episode`, for
        each pair.
        """
        if self.kept is not None:
            return self.kept.rows(episode, within)
        rows: IntArray = self.first_row[episode] + within
        return rows

    def nearest_used(self, place: int, rows: IntArray) -> IntArray:
        """Return, for each of `rows`, the last row used at or before it; before the first one, that
        one.

        Args:
            place: of an episode in these arrays.
            rows: of any other episode.
        """
        within = np.arange(int(self.num_rows[place]), dtype=np.int64)
        used = self.rows(np.full(len(within), place, dtype=np.int64), within)
        nearest: IntArray = used[np.searchsorted(used, rows, side="right").clip(min=1) - 1]
        return nearest

    def in_epoch(self, epoch: int) -> "Episodes":
        """Return the episodes of one epoch, each as often as it comes, those that come twice side
        by side.
        """
        if self.repeats is None:
            return self
        return self.take(np.repeat(np.arange(len(self)), self.repeats.in_epoch(epoch)))

    def take(self, places: IntArray) -> "Episodes":
        """Return the episodes at places in these arrays, each once an epoch for each time that it
        is named.
        """
        kept = self.kept
        if kept is not None:
            kept = replace(kept, episode_start=kept.episode_start[places])
        return Episodes(
            position=self.position[places],
            first_row=self.first_row[places],
            num_rows=self.num_rows[places],
            storage_rank=self.storage_rank[places],
            shard=self.shard[places],
            kept=kept,
        )

    def frames_before(self, epoch: int) -> int:
        """Return how many frames all epochs before this one have."""
        if self.repeats is None:
            return epoch * int(self.num_rows.sum())
        return int((self.num_rows * self.repeats.before(epoch)).sum())

    def num_frames(self, epoch: int) -> int:
        """Return how many frames an epoch has."""
        if self.repeats is None:
            return int(self.num_rows.sum())
        return int((self.num_rows * self.repeats.in_epoch(epoch)).sum())

"""The episodes in memory: those used last, as many as their pools have and some more where they are
small, under a budget of bytes.
"""

from collections import OrderedDict
from weakref import WeakValueDictionary

from roboshard.loader.episodes.episode import Episode
from roboshard.loader.stats import StatsCounter

MAX_REMEMBERED = 1 << 16
"""Most positions that are remembered of episodes dropped for lack of room."""


class ResidentEpisodes:
    """Episodes by position, least recently used first. For one thread.

    What is dropped for lack of room can be read again: so the budget decides how fast it goes, and
    nothing else.
    """

    def __init__(self, most: int, max_bytes: int, more_bytes: int, counter: StatsCounter) -> None:
        """Hold `most` episodes of `max_bytes` in all, beside those that are needed at once.

        More than `most` are held as long as all of them are of `more_bytes`: so small datasets are
        read once.
        """
        self._most = most
        self._max_bytes = max_bytes
        self._more_bytes = min(more_bytes, max_bytes)
        self._counter = counter
        self._held: OrderedDict[int, Episode] = OrderedDict()
        self._num_bytes = 0
        self._in_use: WeakValueDictionary[int, Episode] = WeakValueDictionary()
        """Episodes that were dropped, by their positions, as long as coming steps hold them."""
        self._dropped: set[int] = set()
        """Positions of episodes dropped for lack of room: read again, they count as such."""

    def __contains__(self, position: int) -> bool:
        """Whether an episode is in memory."""
        return position in self._held or position in self._in_use

    def get(self, position: int) -> Episode | None:
        """Return an episode that is in memory, which is now the one used last."""
        episode = self._held.get(position)
        if episode is not None:
            self._held.move_to_end(position)
            return episode
        episode = self._in_use.pop(position, None)
        if episode is not None:
            self._hold(position, episode)
        return episode

    def add(self, position: int, episode: Episode) -> None:
        """Hold an episode that has been read."""
        if position in self._dropped:
            self._dropped.remove(position)
            self._counter.add(episodes_read_again=1)
        self._hold(position, episode)

    def shrink(self, needed: int) -> None:
        """Drop what was used longest ago, as far as there is no room, but not the last `needed`."""
        most = max(self._most, needed)
        while len(self._held) > most and self._num_bytes > self._more_bytes:
            self._drop()
        while self._num_bytes > self._max_bytes and len(self._held) > needed:
            position = self._drop()
            self._counter.add(episodes_evicted=1)
            if len(self._dropped) < MAX_REMEMBERED:
                self._dropped.add(position)
        self._counter.set(resident_bytes=self._num_bytes)

    def _hold(self, position: int, episode: Episode) -> None:
        self._held[position] = episode
        self._num_bytes += episode.held_bytes

    def _drop(self) -> int:
        position, episode = self._held.popitem(last=False)
        self._num_bytes -= episode.held_bytes
        self._in_use[position] = episode
        return position

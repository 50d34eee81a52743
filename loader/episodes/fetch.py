"""Stage: the episodes that a step needs, read ahead, verified and kept while their pool is in
use.
"""

import itertools
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import cast

import numpy as np
from numpy.typing import NDArray

from roboshard import storage
from roboshard.common.errors import RoboshardError, StorageError
from roboshard.loader.config import OnError
from roboshard.loader.decoding.settings import PictureSettings
from roboshard.loader.decoding.slice_bytes import InFile, InMemory, SliceBytes
from roboshard.loader.episodes.episode import Episode
from roboshard.loader.episodes.parsed import ParsedEpisode, parse_episode
from roboshard.loader.episodes.prefetch import EpisodePrefetcher
from roboshard.loader.episodes.resident import ResidentEpisodes
from roboshard.loader.episodes.shared import SharedEpisodes
from roboshard.loader.episodes.spill import SpillStore
from roboshard.loader.order.plan import Draw
from roboshard.loader.sources import Source
from roboshard.loader.stats import StatsCounter
from roboshard.storage.stored import OpenFiles

DRAWS_AT_ONCE = 8
"""Steps whose episodes are wanted together, so that neighbours in a shard are found."""
LOOKS_EVERY = 4
"""Steps between two looks ahead after one that found nothing to read: as long as everything is in
memory, drawing far ahead gains nothing and takes time from the steps at hand.
"""
MAX_DRAWS = 4096
"""Steps that are looked ahead at the most: an epoch in which nothing new comes is not drawn at
once.
"""


@dataclass(frozen=True, kw_only=True)
class DrawnStep:
    """The samples of a step: rows of episodes in memory."""

    episodes: Sequence[Episode]
    """Episodes that the step draws from, each once."""
    episode_of: NDArray[np.int64]
    """(n,) Which of `episodes` each sample is of."""
    rows: NDArray[np.int64]
    """(n,) The samples' rows in their episodes."""
    draw: Draw | None = None
    """What the step was drawn as, for where it has to be made again."""


class EpisodePool:
    """The episodes that steps need: read when they are not in memory, and replaced where they may
    be.
    """

    def __init__(  # noqa: PLR0913 - keyword-only
        self,
        *,
        sources: Sequence[Source],
        reads: EpisodePrefetcher,
        pictures: PictureSettings,
        most: int,
        max_bytes: int,
        more_bytes: int,
        on_error: OnError,
        counter: StatsCounter,
        shared: SharedEpisodes | None = None,
    ) -> None:
        """Hold `most` episodes of `max_bytes` in all, beside those of the current step; more than
        `most` as long as all are of `more_bytes`.

        `shared`: what other workers have read, and are given what this one reads; None: there are
        none.
        """
        self.max_bytes = max_bytes
        self._sources = sources
        self._first = [source.first for source in sources]
        self._reads = reads
        self._pictures = pictures
        self._on_error = on_error
        self._counter = counter
        self._shared = shared
        self._resident = ResidentEpisodes(most, max_bytes, more_bytes, counter)
        self._files = OpenFiles()
        self._spill = SpillStore()
        self._damaged: set[int] = set()  # positions
        self._hits = 0
        """Episodes of this step that were in memory."""
        self._told: set[int] = set()
        """Positions of episodes with frames that cannot be decoded, which were counted."""

    def expect(self, draws: Sequence[Draw]) -> bool:
        """Begin to read the episodes of coming steps that are not in memory, and return whether
        there are any.
        """
        drawn = np.concatenate([draw.positions for draw in draws])
        positions, first_drawn = np.unique(drawn, return_index=True)
        in_order = positions[np.argsort(first_drawn)].tolist()
        lacking = [
            position
            for position in in_order  # the damaged are never taken again
            if position not in self._resident and position not in self._damaged
            if self._shared is None or position not in self._shared
        ]
        self._reads.want(lacking)
        return bool(lacking)

    @property
    def substitutes(self) -> bool:
        """Whether other episodes take the place of those that cannot be read or decoded."""
        return self._on_error == "skip"

    def step(self, draw: Draw, spoiled: Collection[int] = ()) -> DrawnStep:
        """Return the samples of a step; waits for the episodes that are not in memory yet.

        Args:
            draw: Which samples.
            spoiled: Positions of episodes with frames for this step that cannot be decoded. Others
                take their place in it, and in no other step: so what a step holds does not depend
                on the steps before it.
        """
        positions, episode_of = np.unique(draw.positions, return_inverse=True)
        needed = [self._unspoiled(position, spoiled) for position in positions.tolist()]
        self._resident.shrink(len(needed))
        self._counter.add(episode_hits=self._hits)
        self._hits = 0
        rows = draw.rows.copy()
        for number, (episode, position) in enumerate(zip(needed, positions.tolist(), strict=True)):
            if episode.position != position:  # a substitute can be shorter, or use other rows
                stood_in = episode_of == number
                rows[stood_in] = self._nearest_used(episode.position, rows[stood_in])
        return DrawnStep(episodes=needed, episode_of=episode_of, rows=rows, draw=draw)

    def _nearest_used(self, position: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        episodes = self._source(position).episodes
        return episodes.nearest_used(int(np.searchsorted(episodes.position, position)), rows)

    def tell(self, spoiled: Collection[int], error: RoboshardError) -> None:
        """Note and count, once for each episode, that another one takes its place where it cannot
        be decoded.
        """
        new = set(spoiled) - self._told
        if new:
            self._told |= new
            self._counter.add(substituted_episodes=len(new))
            self._counter.skipped[min(new)] = str(error)

    def _unspoiled(self, position: int, spoiled: Collection[int]) -> Episode:
        """Return the episode at `position`, or the next one in use of its dataset that is not
        spoiled.
        """
        episode = self._get(position)
        if episode.position not in spoiled:
            return episode
        used = self._source(position).episodes.position
        place = int(np.searchsorted(used, position))
        for candidate in np.roll(used, -place)[1:].tolist():
            if candidate not in spoiled and candidate not in self._damaged:
                episode = self._get(candidate)
                if episode.position not in spoiled:
                    return episode
        raise RoboshardError("no episode can be decoded that might take its place")

    def _get(self, position: int) -> Episode:
        episode = self._resident.get(position)
        if episode is not None:
            self._hits += 1
            return episode
        episode = self._read_or_substitute(position)
        self._resident.add(position, episode)
        return episode

    def _read_or_substitute(self, position: int) -> Episode:
        """Return the episode at `position`, or with on_error="skip" the next one in use of its
        dataset that can be read.
        """
        source = self._source(position)
        used = source.episodes.position
        place = int(np.searchsorted(used, position))
        if self._on_error == "raise":
            return self._read(source, place)
        failure: RoboshardError | None = None
        for offset in range(len(used)):
            candidate = (place + offset) % len(used)
            if int(used[candidate]) in self._damaged:
                continue
            try:
                episode = self._read(source, candidate)
            except (
                StorageError
            ):  # an outage is no damage: it would be met again at every other episode
                raise
            except RoboshardError as error:
                self._damaged.add(int(used[candidate]))
                failure = failure or error
                self._counter.skipped[int(used[candidate])] = str(error)
                continue
            self._counter.add(substituted_episodes=int(offset > 0))
            return episode
        raise failure or RoboshardError("no episode can be read")

    def _read(self, source: Source, place: int) -> Episode:
        episodes = source.episodes
        position = int(episodes.position[place])
        videos: Mapping[str, memoryview] = {}
        parsed = self._shared_episode(position)
        if parsed is None:
            data = self._reads.take(position)
            self._counter.add(episodes_read=1)
            started = time.perf_counter()
            parsed = parse_episode(data, source.features, source.tasks, source.membership)
            self._counter.spans.add("parse", started, episode=data.record.episode_index)
            videos = data.videos
            self._share(position, parsed)
        else:  # it may have been wanted here too, before another worker had it
            self._reads.forget(position)
        episode = Episode(
            parsed,
            source.features,
            source.tasks,
            self._pictures,
            membership=source.membership,
            slices=partial(self._open_slice, source, position, parsed, videos),
            spill=self._spill,
        )
        episode.position = position
        if self._on_error == "skip":  # another episode can take its place now, and no longer
            episode.check_images()
        return episode

    def _shared_episode(self, position: int) -> ParsedEpisode | None:
        """Return an episode that another worker has read; None: none has."""
        kept = None if self._shared is None else self._shared.get(position)
        if kept is None:
            return None
        self._counter.add(episodes_shared=1)
        parsed, identities = ForkingPickler.loads(kept)  # by a process of this loader
        for path, identity in identities.items():
            self._files.expect(path, identity)
        return cast(ParsedEpisode, parsed)

    def _share(self, position: int, parsed: ParsedEpisode) -> None:
        """Keep an episode for the other workers, if they can do with what lies in files."""
        if self._shared is None or not parsed.is_whole:
            return
        try:
            paths = {stored.path for stored in parsed.stored.values()}
            identities = {path: self._files.identity(path) for path in paths}
        except OSError:  # its file is no more: whoever wants a frame is told, or fetches it again
            return
        self._shared.put(position, bytes(ForkingPickler.dumps((parsed, identities))))

    def _open_slice(
        self,
        source: Source,
        position: int,
        parsed: ParsedEpisode,
        videos: Mapping[str, memoryview],
        key: str,
    ) -> SliceBytes:
        """Return a slice that is read where it lies; a disk cache may remove it, and then it is
        fetched again.
        """
        stored = parsed.stored.get(key)
        if stored is None:
            return InMemory(videos[key])
        is_local = storage.is_local(source.dataset.root)
        again = None if is_local else partial(self._reads.read_again, position, key)
        where = f"{parsed.where}, camera {key!r}"
        return InFile(self._files, stored, where, again, self._counter.packets_read)

    def _source(self, position: int) -> Source:
        return self._sources[bisect_right(self._first, position) - 1]


def fetch_episodes(
    draws: Iterable[Draw], pool: EpisodePool, reads: EpisodePrefetcher, counter: StatsCounter
) -> Iterator[DrawnStep]:
    """Yield the samples of each draw, with their episodes in memory; those of the coming draws are
    read meanwhile.
    """
    remaining = iter(draws)
    coming: deque[Draw] = deque()
    pause = 0
    while True:
        pause -= 1
        if not coming or (pause <= 0 and reads.has_room and len(coming) < MAX_DRAWS):
            further = list(itertools.islice(remaining, DRAWS_AT_ONCE))
            if further:
                pause = 0 if pool.expect(further) else LOOKS_EVERY
                coming.extend(further)
        if not coming:
            return
        started = time.perf_counter()
        step = pool.step(coming.popleft())
        counter.add(fetch_seconds=time.perf_counter() - started)
        counter.spans.add("fetch", started, episodes=len(step.episodes))
        yield step

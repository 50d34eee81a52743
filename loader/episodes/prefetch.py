"""Reading episodes before they are needed: in the order of need, neighbours together, under a
budget of bytes.

Threads do nothing but read and verify. Who needs an episode takes it, or what went wrong with it,
when it is there.
"""

import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import NamedTuple

from roboshard.common.errors import RoboshardError
from roboshard.loader.sources import ConcatDataset
from roboshard.loader.stats import StatsCounter
from roboshard.shards.fetch import MAX_GAP, MAX_READ, Origin
from roboshard.shards.ranges import ByteRange, neighbours
from roboshard.shards.reader import EpisodeData, ShardedDataset

MAX_WASTE = 0.05
"""Most bytes of episodes that lie between those that are wanted, as a share of these: they would be
read twice.
"""
CLOSE_S = 1.0
"""How long reads under way are waited for when nobody wants them any more."""


class _Request(NamedTuple):
    """An episode that somebody will take."""

    position: int
    num_bytes: int
    """Bytes of the episode in its shard, as the index says."""
    future: Future[EpisodeData]


class EpisodePrefetcher:
    """Reads episodes before they are needed. `want` and `take` are for one thread."""

    def __init__(
        self,
        dataset: ShardedDataset | ConcatDataset,
        cameras: Sequence[str],
        num_threads: int,
        max_bytes: int,
        counter: StatsCounter,
    ) -> None:
        """Start no thread before the first episode is wanted."""
        self._process = os.getpid()
        self._dataset = dataset
        self._cameras = cameras
        self._num_threads = num_threads
        self._max_bytes = max_bytes
        self._counter = counter
        self._coming: dict[int, _Request] = {}
        self._coming_bytes = 0
        self._tasks: queue.SimpleQueue[list[_Request] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    @property
    def has_room(self) -> bool:
        """Whether there is room to want more episodes."""
        return self._coming_bytes < self._max_bytes

    def want(self, positions: Sequence[int]) -> None:
        """Begin to read these episodes, in this order, but for those that are on their way."""
        new = []
        for position in positions:
            if position not in self._coming and not self._closed:
                request = _Request(position, int(self._dataset.index.size[position]), Future())
                self._coming[position] = request
                self._coming_bytes += request.num_bytes
                new.append(request)
        for task in self._together(new):
            self._tasks.put(task)
            if len(self._threads) < self._num_threads:
                self._threads.append(
                    threading.Thread(target=self._work, name="roboshard-read", daemon=True)
                )
                self._threads[-1].start()

    def take(self, position: int) -> EpisodeData:
        """Return an episode when it is there.

        Raises what `ShardedDataset.read_episode` raises; CancelledError when another thread has
        called `stop`.
        """
        self.want([position])
        if self._closed:
            raise CancelledError
        request = self._coming[position]
        started = time.perf_counter()
        try:
            return request.future.result()
        finally:
            self._counter.spans.add("wait for an episode", started)
            self.forget(position)
            del request  # its error's traceback holds this frame, and all that the callers' hold

    def forget(self, position: int) -> None:
        """Hold an episode no longer that nobody will take, if it was wanted: it is there, or on its
        way.
        """
        request = self._coming.pop(position, None)
        if request is not None:
            self._coming_bytes -= request.num_bytes
            request.future.cancel()

    def read_again(self, position: int, camera: str) -> memoryview:
        """Return a slice that was read before; for any thread. Raises what `take` raises."""
        (outcome,) = self._dataset.read_episodes([position], self._cameras, self._count)
        if isinstance(outcome, RoboshardError):
            raise outcome
        return outcome.videos[camera]

    def stop(self) -> None:
        """Begin nothing more, and let nobody wait any longer. May be called from any thread."""
        self._closed = True
        if os.getpid() != self._process:
            return  # a fork has no threads, and futures whose locks may have been taken then
        for request in list(self._coming.values()):
            request.future.cancel()

    def close(self) -> None:
        """End the threads.

        Reads that hang end by themselves, and do not hold up the program's end.
        """
        self.stop()
        if os.getpid() != self._process:
            return
        for _ in self._threads:
            self._tasks.put(None)
        patient_until = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, patient_until - time.monotonic()))
        self._threads.clear()

    def _together(self, requests: Sequence[_Request]) -> list[list[_Request]]:
        """Return groups of neighbours in one shard, each of which one read brings, in the order in
        which the first of each is needed.
        """
        index = self._dataset.index
        of_shard: dict[int, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            of_shard[int(index.shard[request.position])].append(place)
        tasks: list[list[int]] = []
        for places in of_shard.values():
            ranges = [
                ByteRange(int(index.offset[requests[i].position]), requests[i].num_bytes)
                for i in places
            ]
            groups = neighbours(ranges, max_gap=MAX_GAP, max_length=MAX_READ, max_waste=MAX_WASTE)
            tasks += [[places[member] for member in group] for group in groups]
        return [[requests[place] for place in task] for task in sorted(tasks, key=min)]

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._closed:
            self._run(task)
            # A thread that waits holds nothing: an error of this task holds its taker's frames, and
            # with them whoever would end the thread.
            del task

    def _run(self, task: Sequence[_Request]) -> None:
        try:
            self._read(task)
        except BaseException as error:  # noqa: BLE001 - of whatever kind, it is the takers'
            for request in task:
                _settle(request.future, error)

    def _read(self, task: Sequence[_Request]) -> None:
        """Read neighbours and hand each one over as it comes."""
        spans, since = self._counter.spans, time.perf_counter()

        def on_read(num_bytes: int, origin: Origin) -> None:
            nonlocal since
            self._count(num_bytes, origin)
            spans.add("read", since, bytes=num_bytes, origin=origin)
            since = time.perf_counter()

        positions = [request.position for request in task]
        outcomes = self._dataset.read_episodes(positions, self._cameras, on_read)
        for request in task:
            if self._closed:  # nobody takes the rest; a server that is away would be tried for each
                return
            since = time.perf_counter()
            _settle(request.future, next(outcomes))
            spans.add("verify", since)

    def _count(self, num_bytes: int, origin: Origin) -> None:
        if origin == "cache":
            self._counter.add(cache_hits=1, cached_bytes_read=num_bytes)
        else:
            network = num_bytes if origin == "network" else 0
            self._counter.add(bytes_read=num_bytes, network_bytes_read=network, reads=1)


def _settle(future: Future[EpisodeData], outcome: EpisodeData | BaseException) -> None:
    """Give the taker an episode, or what went wrong with it, unless nobody waits any more."""
    with suppress(InvalidStateError):  # stopped meanwhile, or settled before
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

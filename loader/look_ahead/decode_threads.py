"""Threads that decode the pictures of several steps straight into the memory of their batches.

Steps are served in their order; of a slice what one of them needs is decoded together, in
ascending order, and with it what others need of the same GOPs (request_queue.py). A slice is served
by one thread at a time. What a frame cache has is copied out of it instead (copies.py); what it is
to have is put there as it is decoded. Where no thread beside it gains anything (thread_limit.py),
the one that waits for a step serves slices itself until that step is complete.
"""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Condition, RLock

from roboshard.common.errors import RoboshardError
from roboshard.loader.batches.buffers import Buffers
from roboshard.loader.batches.pending_batch import PendingBatch
from roboshard.loader.decoding.pictures import Picture, owned_copy, with_pixels
from roboshard.loader.frame_cache.frames import EpisodeRows, FrameCache
from roboshard.loader.look_ahead.copies import Copy, copies_of, others
from roboshard.loader.look_ahead.kept_frames import requests_of_kept
from roboshard.loader.look_ahead.request_queue import (
    PictureSource,
    RequestQueue,
    Requests,
    Slice,
    Target,
    requests_of,
)
from roboshard.loader.look_ahead.switch_interval import SHORT_SWITCH_INTERVAL
from roboshard.loader.look_ahead.thread_limit import ThreadLimit
from roboshard.loader.look_ahead.visit import Visit
from roboshard.loader.samples.rows import PictureKey, WindowedStep
from roboshard.loader.stats import StatsCounter

SETTLED_AT_ONCE = 8
"""Frames of a slice after which the steps that they are of are told."""

GUESSED_BYTES = 1 << 20
"""Bytes that a picture is taken to have until the first one shows its size."""

Task = Slice | Copy


class DecodeThreads:
    """Threads that serve the requests of several steps."""

    def __init__(  # noqa: PLR0913 - keyword-only
        self,
        *,
        limit: ThreadLimit,
        pictures: Sequence[PictureKey],
        as_float: bool,
        buffers: Buffers,
        counter: StatsCounter,
        early_bytes: int,
        cache: FrameCache | None = None,
    ) -> None:
        """Start no thread before it is needed.

        `early_bytes`: bytes of pictures kept for steps that have not begun; 0: none are kept.
        """
        self._process = os.getpid()
        self._cache = cache
        self._copies: deque[Copy] = deque()
        """Copies out of the frame cache for begun steps, which no thread has taken yet."""
        self._announced_copies: dict[PendingBatch, list[Copy]] = {}
        """Step that has not begun -> what it has in the frame cache."""
        self._pictures = pictures
        self._as_float = as_float
        self._buffers = buffers
        self._counter = counter
        self._limit = limit
        self._executor = ThreadPoolExecutor(limit.now, thread_name_prefix="roboshard-decode")
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._waiting = RequestQueue()
        self._served: dict[Slice, Requests] = {}
        self._num_serving = 0
        self._stopped = False
        self.early_bytes = early_bytes
        self._largest_early = 0
        SHORT_SWITCH_INTERVAL.begin()

    @property
    def most_early(self) -> int:
        """About how many pictures may be kept for steps that have not begun."""
        return self.early_bytes // (self._largest_early or GUESSED_BYTES)

    def announce(self, step: WindowedStep) -> PendingBatch:
        """Announce a step that will begin after those announced before it, and return it."""
        pending = PendingBatch(step, self._pictures, self._as_float)
        copies = copies_of(pending, step, self._cache)
        requests = requests_of(step, pending, others(step, copies))
        with self._changed:
            self._waiting.announce(pending, requests)
            self._announced_copies[pending] = copies
        return pending

    def may_begin(self, pending: PendingBatch, waits: bool) -> bool:
        """Whether there is memory for a step; if it `waits`, not before there is."""
        return pending.share is None or self._buffers.may_begin(pending.share, waits)

    def begin(self, pending: PendingBatch) -> PendingBatch:
        """Decode the pictures of the step that was announced first of those that have not begun."""
        with self._changed:
            self._waiting.begin(requests_of_kept(pending.begin()))
            self._copies += self._announced_copies.pop(pending)
            self._start_serving()
        return pending

    def insert(self, step: WindowedStep) -> PendingBatch:
        """Decode the pictures of a step that was not announced, before those of all others."""
        pending = PendingBatch(step, self._pictures, self._as_float)
        pending.begin()
        copies = copies_of(pending, step, self._cache)
        with self._changed:
            self._copies.extendleft(copies)
            self._waiting.insert(pending, requests_of(step, pending, others(step, copies)))
            self._start_serving()
        return pending

    def wait_for(self, pending: PendingBatch) -> PendingBatch:
        """Return the step, when it is complete. Raises what went wrong with one of its slices."""
        while True:
            with self._changed:
                self._start_serving()
                self._changed.wait_for(lambda: pending.is_over or self._is_left_to_waiter())
                if pending.is_over:
                    break
                self._num_serving += 1
            self._serve_here(pending)
        if pending.error:
            raise pending.error
        return pending

    def _is_left_to_waiter(self) -> bool:
        """Whether there is something to do that no thread is to begin."""
        return not self._limit.now and (
            len(self._copies) + self._waiting.num_free(self._served) > 0
        )

    def _serve_here(self, until: PendingBatch) -> None:
        """Serve slices until a step is over, in the thread that waits for it."""
        now: list[Task] = []
        try:
            self._serve(now, until)
        except BaseException as error:  # noqa: BLE001 - it is of those who need what is at hand
            self._failed(now, error)

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        if os.getpid() != self._process:
            return  # a fork has none of them, and their lock as it was then: taken, maybe
        with self._changed:
            was_stopped, self._stopped = self._stopped, True
        self._executor.shutdown(wait=True, cancel_futures=True)
        if not was_stopped:
            SHORT_SWITCH_INTERVAL.end()

    def _start_serving(self) -> None:
        """Start as many threads as there is to do for; one task serves slice after slice."""
        idle = self._limit.now - self._num_serving
        if idle <= 0:
            return
        free = len(self._copies) + self._waiting.num_free(self._served)
        for _ in range(min(free, idle)):
            self._num_serving += 1
            now: list[Task] = []
            self._executor.submit(self._serve, now).add_done_callback(partial(self._after, now))

    def _serve(self, now: list[Task], until: PendingBatch | None = None) -> None:
        """Copy and decode until nothing is left, or a step is over; `now` holds what is at hand."""
        task: Task | None = None
        while (task := self._next(task, until)) is not None:
            now[:] = [task]
            if isinstance(task, Copy):
                self._copy(task)
            else:
                self._serve_slice(task)
            if self._stopped:
                return
            now.clear()

    def _next(self, done: Task | None, until: PendingBatch | None) -> Task | None:
        """Return what to do first of what no other thread does, after what this one has `done`.

        None: there is nothing for now, or the step that it serves `until` is over.
        """
        with self._changed:
            if isinstance(done, Slice):
                del self._served[done]
            if self._num_serving > self._limit.now if until is None else until.is_over:
                self._num_serving -= 1
                self._changed.notify_all()  # what it leaves may be for who waits
                return None
            if self._copies and not self._stopped:
                return self._copies.popleft()
            taken = None if self._stopped else self._waiting.take(self._served, self.most_early)
            if taken is None:
                self._num_serving -= 1
                return None
            slot, self._served[slot] = taken
            return slot

    def _copy(self, copy: Copy) -> None:
        """Copy pictures out of the frame cache; those that are damaged there are decoded."""
        if self._cache is None:
            return
        started = time.perf_counter()
        lacking, num_bytes = copy.run(self._cache, self._buffers)
        number = copy.num_pictures - len(lacking)
        self._counter.add(
            decode_seconds=time.perf_counter() - started,
            frames_used=number * copy.is_video,
            frame_cache_hits=number,
            frame_cache_bytes_read=num_bytes,
        )
        self._counter.spans.add("copy", started, camera=copy.key, pictures=number)
        with self._changed:
            self._limit.count(used=number * copy.is_video, decoded=0)
            copy.pending.left -= number
            if len(lacking):
                places = {copy.key: lacking}
                wanted = requests_of(copy.step, copy.pending, places)
                self._waiting.insert(copy.pending, wanted)
                self._start_serving()
            if not copy.pending.left:
                self._changed.notify_all()

    def _serve_slice(self, slot: Slice) -> None:
        """Bring what is wanted of a slice, out of the frame cache or by decoding it."""
        rows = None if self._cache is None else self._cache.rows(slot.source, slot.key)
        requests = self._served[slot]
        frames = sorted(requests)
        if rows is not None:
            known = rows.known(frames)
            frames = [frame for frame in frames if frame not in known]
            self._take_cached(slot, rows, known)
        for run in slot.source.decode_runs(slot.key, frames):
            self._decode(slot, run, rows)
            if self._stopped:
                return

    def _take_cached(self, slot: Slice, rows: EpisodeRows, known: dict[int, int]) -> None:
        """Copy frames that came to the frame cache after the steps that want them were drawn."""
        visit = Visit(slot, self._served[slot], rows)
        for frame, picture in rows.pictures(known):
            self._place(slot.key, picture, visit.requests[frame])
            visit.served.append(frame)
        self._settle(visit)
        if known:
            self._counter.spans.add("copy", visit.begun, camera=slot.key, pictures=len(known))

    def _decode(self, slot: Slice, frames: Sequence[int], rows: EpisodeRows | None = None) -> None:
        """Decode ascending frames, each to where it is wanted, and to the frame cache."""
        visit = Visit(slot, self._served[slot])
        if rows is not None:
            frames = rows.with_passed(frames)
        try:
            for frame, decoded in self._decodable(slot, frames, visit):
                picture = decoded if rows is None else rows.keep(frame, decoded)
                if frame in visit.requests:
                    self._place(slot.key, picture, visit.requests[frame])
                    visit.served.append(frame)
                if len(visit.served) == SETTLED_AT_ONCE:
                    self._settle(visit)
                if self._stopped:
                    return
        finally:
            self._settle(visit)
            self._counter.spans.add("decode", visit.begun, camera=slot.key, frames=len(frames))

    def _decodable(
        self, slot: Slice, frames: Sequence[int], visit: Visit
    ) -> Iterator[tuple[int, Picture]]:
        """Yield the frames that can be decoded; what is wrong with the others is told to the steps
        they are of.
        """
        left = dict.fromkeys(frames)
        while left:
            try:
                for frame, picture in slot.source.pictures(slot.key, list(left)):
                    del left[frame]
                    yield frame, picture
            except RoboshardError as error:
                if not left:
                    raise
                frame = next(iter(left))
                del left[frame]
                self._spoil(slot.source, visit.requests.pop(frame, ()), error)

    def _spoil(self, source: PictureSource, targets: Sequence[Target], error: Exception) -> None:
        with self._changed:
            for step, _ in targets:
                step.spoiled.add(source)
                step.error = step.error or error
            self._changed.notify_all()

    def _place(self, key: str, picture: Picture, targets: Sequence[Target]) -> None:
        """Put a picture to where it is wanted, or keep it for steps that have not begun."""
        if len(targets) == 1 and targets[0][0].has_begun:  # as is mostly so
            step, place = targets[0]
            step.put(key, place, picture, self._buffers)
            return
        if not all(step.has_begun for step, _ in targets):
            kept = owned_copy(picture)
            self._largest_early = max(self._largest_early, kept.nbytes)
            targets = [(step, place) for step, place in targets if not step.keep(key, place, kept)]
        pixels = picture if len(targets) < 2 else with_pixels(picture)
        for step, place in targets:
            step.put(key, place, pixels, self._buffers)

    def _settle(self, visit: Visit) -> None:
        """Tell the steps what they have got: an error of a later frame is none of theirs."""
        targets = [target for frame in visit.served for target in visit.requests.pop(frame)]
        counts = visit.counts(len(targets))
        self._counter.add(**counts)
        visit.served.clear()
        with self._lock:
            self._limit.count(counts["frames_used"], counts["frames_decoded"])
            for step, _ in targets:
                step.left -= 1
                if not step.left:
                    self._changed.notify_all()

    def _after(self, now: list[Task], future: Future[None]) -> None:
        """Tell the steps that need a slice what went wrong with it."""
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._failed(now, error)

    def _failed(self, now: list[Task], error: BaseException) -> None:
        """Tell the steps that need what is at hand, which nobody serves any more."""
        with self._changed:
            self._num_serving -= 1
            for task in now:
                if isinstance(task, Copy):
                    task.pending.error = error
                    continue
                for targets in self._served.pop(task, {}).values():
                    for step, _ in targets:
                        step.error = error
            self._changed.notify_all()
            if not self._stopped:
                self._start_serving()

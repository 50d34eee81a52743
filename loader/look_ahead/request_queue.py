"""Which pictures are wanted and not begun yet: step by step, of each slice a GOP at a time. No
thread, no decoder.
"""

from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from roboshard.loader.batches.pending_batch import PendingBatch
from roboshard.loader.decoding.pictures import Picture
from roboshard.loader.look_ahead.copies import IntArray
from roboshard.loader.samples.rows import WindowedStep

STEPS_TOGETHER = 2
"""For how many steps a slice is visited at once, where its frames are wanted in their order. More
saves little more, and steps are then ready in bursts.
"""


class PictureSource(Protocol):
    """Where pictures come from: an episode, or what was kept of one."""

    def gops(self, key: str, frames: Iterable[int]) -> Sequence[int]:
        """Return which GOP each frame is in: what is decoded together."""

    def decode_runs(self, key: str, frames: Sequence[int]) -> tuple[Sequence[int], ...]:
        """Return ascending frames in the order that costs least, as ascending parts."""

    def pictures(self, key: str, frames: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """Yield ascending frames with their pictures (H, W, C), each to be used before the next."""

    def is_video(self, key: str) -> bool:
        """Return whether the pictures of a key count as frames of video."""

    def num_decoded(self, key: str) -> int:
        """Return how many frames of a key were decoded so far."""


class Slice(NamedTuple):
    """One camera or image feature of one source: what one thread serves at a time."""

    source: PictureSource
    key: str


Target = tuple[PendingBatch, int]
"""Where a picture is wanted: a step, and the place in its batch."""

Requests = dict[int, list[Target]]
"""Frame of a slice -> where it is wanted."""

Pairs = Sequence[int]
"""Frames of a slice, each followed by its place in the batch of a step.

Thousands of pictures are wanted by steps that are announced: as plain numbers, which Python's
garbage collector does not look through. It would stop all threads for as long as it does.
"""


class Taken(NamedTuple):
    """What one thread is to decode: a slice, and what is wanted of it."""

    slot: Slice
    requests: Requests


class _Step:
    """A step, and what is still wanted of it."""

    def __init__(
        self,
        number: int,
        pending: PendingBatch,
        wanted: Mapping[Slice, Pairs],
        wanted_before: int = 0,
    ) -> None:
        self.number = number
        self.pending = pending
        self.has_begun = False
        self.wanted_until = wanted_before + sum(map(len, wanted.values())) // 2
        """Pictures that the steps up to this one wanted as they were announced."""
        self.num_early = 0
        """Pictures that were taken before the step had begun."""
        self.slices = {slot: _by_gop(slot, pairs) for slot, pairs in wanted.items()}
        """Slice -> GOP -> what the step still wants of it."""

    def move(self, slot: Slice, gop: int, requests: Requests) -> int:
        """Move what the step wants of a GOP to `requests`, and return how many pictures that is."""
        gops = self.slices[slot]
        pairs = gops.pop(gop)
        _add(requests, self.pending, pairs)
        if not gops:
            del self.slices[slot]
        return len(pairs) // 2


def _by_gop(slot: Slice, pairs: Pairs) -> dict[int, tuple[int, ...]]:
    """Return GOP -> what is wanted of it."""
    frames = pairs[::2]
    gops = slot.source.gops(slot.key, frames)
    if len(frames) == 1:  # as is mostly so in uniform order
        return {gops[0]: tuple(pairs)}
    found: dict[int, list[int]] = {}
    for gop, frame, place in zip(gops, frames, pairs[1::2], strict=True):
        found.setdefault(gop, []).extend((frame, place))
    return {gop: tuple(own) for gop, own in found.items()}


def _add(requests: Requests, pending: PendingBatch, pairs: Pairs) -> None:
    for frame, place in zip(pairs[::2], pairs[1::2], strict=True):
        target = pending, place
        if frame in requests:
            requests[frame].append(target)
        else:
            requests[frame] = [target]


class RequestQueue:
    """Requests of steps, the most urgent step first.

    A slice is visited for what the most urgent step wants of it; where frames come in their order,
    for the step after it too, as each visit has a price. A decoder passes through a GOP from its
    keyframe on: whoever else wants a frame of one that is decoded now gets it now. So do
    steps that are only announced, whose pictures have to be kept until then: as long as there is
    room. Where there is none for all of the steps up to it, a step has the less of it the later it
    comes, so that what is kept is mostly what is needed soon.
    """

    def __init__(self) -> None:
        self._begun: list[_Step] = []
        self._announced: deque[_Step] = deque()
        self._num_announced = 0
        """How many steps were announced so far."""
        self._wanted_by_announced = self._wanted_by_begun = 0
        """Pictures that all steps announced so far wanted, and those of them that have begun."""
        self._steps: dict[int, _Step] = {}
        """Number -> step, of all that want something."""
        self._num_inserted = 0
        self._wanting: dict[Slice, dict[int, tuple[int, ...]]] = {}
        """Slice -> GOP -> numbers of the steps that want something of it, the most urgent first."""
        self.num_early = 0
        """Pictures that were taken for steps that are still only announced."""

    def announce(self, pending: PendingBatch, wanted: Mapping[Slice, Pairs]) -> None:
        """Note what one more step will want, after those announced before it."""
        step = _Step(self._num_announced, pending, wanted, self._wanted_by_announced)
        self._num_announced += 1
        self._wanted_by_announced = step.wanted_until
        self._announced.append(step)
        self._note(step)

    def begin(self, kept: Mapping[Slice, Pairs]) -> None:
        """Want the pictures of the step that was announced first now: before others these, which
        were kept for it.
        """
        step = self._announced.popleft()
        step.has_begun = True
        self._wanted_by_begun = step.wanted_until
        self.num_early -= step.num_early
        if kept:
            step.slices = _Step(step.number, step.pending, kept).slices | step.slices
        self._begun.append(step)

    def insert(self, pending: PendingBatch, wanted: Mapping[Slice, Pairs]) -> None:
        """Want pictures of a step that was not announced, before all others."""
        self._num_inserted += 1
        step = _Step(-self._num_inserted, pending, wanted)
        step.has_begun = True
        self._note(step)
        self._begun.insert(0, step)

    def num_free(self, busy: Container[Slice]) -> int:
        """Return how many slices are not busy and have something that is wanted of them now."""
        return len({slot for step in self._begun for slot in step.slices if slot not in busy})

    def take(self, busy: Container[Slice], most_early: int = 0) -> Taken | None:
        """Return what to decode next of a slice that is not busy; None: nothing.

        No more is taken for steps that are only announced when `most_early` pictures of theirs are
        out. 0: frames of a slice are wanted in their order, and so at once by some steps in a row.
        """
        while self._begun and not self._begun[0].slices:
            del self._steps[self._begun.pop(0).number]
        for number, step in enumerate(self._begun):
            slot = next((slot for slot in step.slices if slot not in busy), None)
            if slot is not None:
                together = 1 if most_early else self._num_together()
                taken: Requests = {}
                for wanting in self._begun[number : number + together]:
                    if slot in wanting.slices:
                        self._take(taken, wanting, slot, most_early)
                return Taken(slot, taken)
        return None

    def _num_together(self) -> int:
        """Return for how many steps a slice is visited at once. Nothing delays the first batch, nor
        one of few that are decoded.
        """
        is_first = bool(self._begun) and self._begun[0].number == 0
        return 1 if is_first else max(1, min(STEPS_TOGETHER, len(self._begun) // 2))

    def _take(self, taken: Requests, step: _Step, slot: Slice, most_early: int) -> None:
        """Add what a step wants of a slice, and what others want of the same GOPs."""
        wanting = self._wanting.get(slot, {})  # nobody else wants what was kept
        for gop, pairs in step.slices.pop(slot).items():
            _add(taken, step.pending, pairs)
            numbers = wanting.pop(gop, ())
            if len(numbers) > 1:
                others = [self._steps[number] for number in numbers if number != step.number]
                waiting = self._move(others, slot, gop, taken, most_early)
                if waiting:
                    wanting[gop] = waiting
        if not wanting:
            self._wanting.pop(slot, None)

    def _move(
        self, steps: Sequence[_Step], slot: Slice, gop: int, requests: Requests, most_early: int
    ) -> tuple[int, ...]:
        """Add to these requests what other steps want of the GOP; return the numbers of those that
        have to wait.
        """
        waiting = []
        for step in steps:
            if step.has_begun:
                step.move(slot, gop, requests)
            elif self._has_room(step, most_early):
                moved = step.move(slot, gop, requests)
                step.num_early += moved
                self.num_early += moved
            else:
                waiting.append(step.number)
        return tuple(waiting)

    def _has_room(self, step: _Step, most_early: int) -> bool:
        room = most_early - self.num_early
        if step.wanted_until - self._wanted_by_begun <= most_early:
            return room > 0
        distance = (step.number - self._announced[0].number) / len(self._announced)
        return room > most_early * distance**2

    def _note(self, step: _Step) -> None:
        self._steps[step.number] = step
        for slot, gops in step.slices.items():
            wanting = self._wanting.setdefault(slot, {})
            for gop in gops:
                wanting[gop] = (*wanting.get(gop, ()), step.number)


def requests_of(
    step: WindowedStep, pending: PendingBatch, wanted: Mapping[str, IntArray]
) -> dict[Slice, Pairs]:
    """Return what is to be decoded of a step; `wanted` is picture key -> places in the step."""
    requests: dict[Slice, Pairs] = {}
    for key, places in wanted.items():
        per_sample = step.frames[key].shape[1]
        frames = step.frames[key].ravel()[places].tolist()
        episodes = step.episode_of[places // per_sample].tolist()
        own_of: dict[PictureSource, list[int]] = {}  # one may be there twice, in another's place
        of_episode = [own_of.setdefault(source, []) for source in step.episodes]
        goes_to = pending.places(key, places).tolist()
        for place, frame, episode in zip(goes_to, frames, episodes, strict=True):
            of_episode[episode] += (frame, place)
        requests |= {Slice(source, key): own for source, own in own_of.items() if own}
    return requests

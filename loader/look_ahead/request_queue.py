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


class Target(NamedTuple):
    """Where a picture is wanted."""

    step: PendingBatch
    place: int


Requests = dict[int, list[Target]]
"""Frame of a slice -> where it is wanted."""


class Taken(NamedTuple):
    """What one thread is to decode: a slice, and what is wanted of it."""

    slot: Slice
    requests: Requests


class _Step:
    """A step, and what is still wanted of it."""

    def __init__(
        self, number: int, requests: Mapping[Slice, Requests], wanted_before: int = 0
    ) -> None:
        self.number = number
        self.has_begun = False
        self.wanted_until = wanted_before
        """Pictures that the steps up to this one wanted as they were announced."""
        self.num_early = 0
        """Pictures that were taken before the step had begun."""
        self.slices: dict[Slice, dict[int, Requests]] = {}
        """Slice -> GOP -> what the step still wants of it."""
        for slot, frames in requests.items():
            gops = self.slices[slot] = {}
            source, key = slot
            for (frame, targets), gop in zip(frames.items(), source.gops(key, frames), strict=True):
                gops.setdefault(gop, {})[frame] = targets
                self.wanted_until += len(targets)

    def move(self, slot: Slice, gop: int, requests: Requests) -> int:
        """Move what the step wants of a GOP to `requests`, and return how many pictures that is."""
        gops = self.slices[slot]
        moved = 0
        for frame, targets in gops.pop(gop).items():
            requests.setdefault(frame, []).extend(targets)
            moved += len(targets)
        if not gops:
            del self.slices[slot]
        return moved


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
        self._wanting: dict[tuple[Slice, int], list[_Step]] = {}
        """GOP of a slice -> steps that want something of it, the most urgent first."""
        self.num_early = 0
        """Pictures that were taken for steps that are still only announced."""

    def announce(self, requests: Mapping[Slice, Requests]) -> None:
        """Note what one more step will want, after those announced before it."""
        step = _Step(self._num_announced, requests, self._wanted_by_announced)
        self._num_announced += 1
        self._wanted_by_announced = step.wanted_until
        self._announced.append(step)
        self._note(step)

    def begin(self, requests: Mapping[Slice, Requests]) -> None:
        """Want the pictures of the step that was announced first now: before others these, which
        were kept for it.
        """
        step = self._announced.popleft()
        step.has_begun = True
        self._wanted_by_begun = step.wanted_until
        self.num_early -= step.num_early
        if requests:
            step.slices = _Step(step.number, requests).slices | step.slices
        self._begun.append(step)

    def insert(self, requests: Mapping[Slice, Requests]) -> None:
        """Want pictures of a step that was not announced, before all others."""
        step = _Step(self._num_announced, requests)
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
            del self._begun[0]
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
        for gop, requests in step.slices.pop(slot).items():
            others = self._wanting.pop((slot, gop), ())  # nobody else wants what was kept
            if len(others) > 1:
                others = [other for other in others if other is not step]
                waiting = self._move(others, slot, gop, requests, most_early)
                if waiting:
                    self._wanting[slot, gop] = waiting
            taken.update(requests)

    def _move(
        self, steps: Sequence[_Step], slot: Slice, gop: int, requests: Requests, most_early: int
    ) -> list[_Step]:
        """Add to these requests what other steps want of the GOP; return those that have to
        wait.
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
                waiting.append(step)
        return waiting

    def _has_room(self, step: _Step, most_early: int) -> bool:
        room = most_early - self.num_early
        if step.wanted_until - self._wanted_by_begun <= most_early:
            return room > 0
        distance = (step.number - self._announced[0].number) / len(self._announced)
        return room > most_early * distance**2

    def _note(self, step: _Step) -> None:
        for slot, gops in step.slices.items():
            for gop in gops:
                self._wanting.setdefault((slot, gop), []).append(step)


def requests_of(
    step: WindowedStep, pending: PendingBatch, wanted: Mapping[str, IntArray]
) -> dict[Slice, Requests]:
    """Return what is to be decoded of a step; `wanted` is picture key -> places in the step."""
    requests: dict[Slice, Requests] = {}
    for key, places in wanted.items():
        per_sample = step.frames[key].shape[1]
        frames = step.frames[key].ravel()[places].tolist()
        episodes = step.episode_of[places // per_sample].tolist()
        own_of: dict[PictureSource, Requests] = {}  # one may be there twice, in another's place
        of_episode = [own_of.setdefault(source, {}) for source in step.episodes]
        goes_to = pending.places(key, places).tolist()
        for place, frame, episode in zip(goes_to, frames, episodes, strict=True):
            of_episode[episode].setdefault(frame, []).append(Target(pending, place))
        requests |= {Slice(source, key): own for source, own in own_of.items() if own}
    return requests

"""The bookkeeping of pictures that are wanted: nothing is lost, and the most urgent comes first."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from roboshard.loader.batches.pending import PendingStep
from roboshard.loader.batches.wanted import Requests, Slice, Target, Wanted
from roboshard.loader.episodes.episode import Episode

GOP = 3
SLICES = 3


@dataclass(frozen=True)
class FakeEpisode:
    """All that the bookkeeping asks of an episode."""

    number: int

    def gop(self, key: str, frame: int) -> int:
        assert key == "x"
        return frame // GOP


EVERY_SLICE = [Slice(cast(Episode, FakeEpisode(number)), "x") for number in range(SLICES)]


def asked_for(step: Any, wanted: dict[int, list[int]]) -> dict[Slice, Requests]:
    """`wanted`: number of a slice -> frames, which may repeat."""
    requests: dict[Slice, Requests] = {}
    for number, frames in wanted.items():
        for place, frame in enumerate(frames):
            of_slice = requests.setdefault(EVERY_SLICE[number], {})
            of_slice.setdefault(frame, []).append(Target(cast(PendingStep, step), place))
    return requests


steps_of = st.dictionaries(
    st.integers(0, SLICES - 1), st.lists(st.integers(0, 15), min_size=1, max_size=5), max_size=SLICES
)


@given(steps=st.lists(steps_of, max_size=5), data=st.data())
def test_everything_is_taken_once_and_the_most_urgent_first(
    steps: list[dict[int, list[int]]], data: st.DataObject
) -> None:
    waiting, coming, left = Wanted(), list(enumerate(steps)), Tally[Any]()
    while True:
        if coming and data.draw(st.booleans(), label="one more step"):
            number, wanted = coming.pop(0)
            waiting.add(asked_for(number, wanted))
            left.update((number, slot, frame) for slot, frames in wanted.items() for frame in frames)
        busy = data.draw(st.sets(st.sampled_from(EVERY_SLICE), max_size=SLICES), label="busy")
        free = {slot for _, slot, _ in left if EVERY_SLICE[slot] not in busy}
        assert waiting.num_free(busy) == len(free)
        taken = waiting.take(busy)
        assert (taken is None) == (not free)
        if taken is None:
            if not coming and not left:
                return
            continue
        slot, requests = taken
        number = EVERY_SLICE.index(slot)
        assert number in free
        chosen = gops_of(left, first_free(left, free), number)
        assert chosen, "the slice is wanted by the first step that can be served"
        expected = Tally({want: n for want, n in left.items() if want[1] == number and want[2] // GOP in chosen})
        given_out = Tally((target.step, number, frame) for frame, ts in requests.items() for target in ts)
        assert given_out == expected, "whole GOPs, for all steps that want them, and no others"
        left -= given_out


def first_free(left: Tally[Any], free: set[int]) -> int:
    """The first step that wants something of a slice that is free."""
    return min(int(step) for step, slot, _ in left if slot in free)


def gops_of(left: Tally[Any], step: int, slot: int) -> set[int]:
    """GOPs of a slice that a step wants frames of."""
    return {frame // GOP for one, other, frame in left if (one, other) == (step, slot)}


def test_what_one_step_wants_of_a_slice_comes_together() -> None:
    waiting = Wanted()
    step = SimpleNamespace()
    waiting.add(asked_for(step, {0: [9, 1, 1, 5]}))
    (slot, requests) = waiting.take(()) or (None, {})
    assert slot == EVERY_SLICE[0]
    assert {frame: [target.place for target in targets] for frame, targets in requests.items()} == {
        9: [0],
        1: [1, 2],
        5: [3],
    }
    assert waiting.take(()) is None

"""The bookkeeping of pictures that are wanted: nothing is lost, and the most urgent comes first."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from roboshard.loader.batches.pending_batch import PendingBatch
from roboshard.loader.episodes.episode import Episode
from roboshard.loader.look_ahead.request_queue import Pairs, RequestQueue, Slice, Taken

GOP = 3
SLICES = 3


@dataclass(frozen=True)
class FakeEpisode:
    """All that the bookkeeping asks of an episode."""

    number: int

    def gops(self, key: str, frames: Iterable[int]) -> list[int]:
        assert key == "x"
        return [frame // GOP for frame in frames]


EVERY_SLICE = [Slice(cast(Episode, FakeEpisode(number)), "x") for number in range(SLICES)]


def step_of(name: Any) -> PendingBatch:
    """The bookkeeping asks nothing of a step."""
    return cast(PendingBatch, name)


def asked_for(wanted: dict[int, list[int]]) -> dict[Slice, Pairs]:
    """`wanted`: number of a slice -> frames, which may repeat."""
    return {
        EVERY_SLICE[number]: [each for place, frame in enumerate(frames) for each in (frame, place)]
        for number, frames in wanted.items()
    }


def steps_by_frame(taken: Taken) -> dict[int, list[Any]]:
    return {frame: [step for step, _ in targets] for frame, targets in taken.requests.items()}


Want = tuple[Any, int, int]
"""Step, slice, frame."""

steps_of = st.dictionaries(
    st.integers(0, SLICES - 1),
    st.lists(st.integers(0, 15), min_size=1, max_size=5),
    max_size=SLICES,
)


@settings(max_examples=300)
@given(
    steps=st.lists(steps_of, max_size=6),
    most_early=st.sampled_from([0, 1, 4, 100]),
    chance=st.randoms(use_true_random=True),  # of hundreds of turns: draws of hypothesis are dear
)
def test_everything_is_taken_once_and_the_most_urgent_first(
    steps: list[dict[int, list[int]]], most_early: int, chance: Random
) -> None:
    waiting, coming, left = RequestQueue(), list(enumerate(steps)), Tally[Want]()
    announced: list[int] = []
    num_begun = 0
    early = Tally[int]()
    """Announced step -> pictures that were taken for it."""
    while True:
        if coming and chance.random() < 0.5:
            number, wanted = coming.pop(0)
            waiting.announce(step_of(number), asked_for(wanted))
            announced.append(number)
            left.update(
                (number, slot, frame) for slot, frames in wanted.items() for frame in frames
            )
        if announced and chance.random() < 0.5:
            del early[announced.pop(0)]
            num_begun += 1
            waiting.begin({})
        busy = {slot for slot in EVERY_SLICE if chance.random() < 0.5}
        free = {
            slot
            for step, slot, _ in left
            if step not in announced and EVERY_SLICE[slot] not in busy
        }
        assert waiting.num_free(busy) == len(free)
        taken = waiting.take(busy, most_early)
        assert (taken is None) == (not free)
        if taken is None:
            if not coming and not left:
                return
            continue
        number = EVERY_SLICE.index(taken.slot)
        assert number in free
        given_out = Tally(
            (step, number, frame)
            for frame, found in steps_by_frame(taken).items()
            for step in found
        )
        first = first_free(left, free)
        assert gops_of(left, first, number), "the first step that can be served wants the slice"
        begun = decoded_now(left, num_begun)
        together = 1 if most_early or begun[0] == 0 or len(begun) < 4 else 2
        at = begun.index(first)
        chosen = {gop for s in begun[at : at + together] for gop in gops_of(left, s, number)}
        of_gops = Tally(
            {want: n for want, n in left.items() if want[1] == number and want[2] // GOP in chosen}
        )
        now, kept = (
            Tally({want: n for want, n in given_out.items() if (want[0] in announced) == is_early})
            for is_early in (False, True)
        )
        assert now == Tally({want: n for want, n in of_gops.items() if want[0] not in announced}), (
            "whole GOPs"
        )
        rooms = rooms_of(announced, steps, most_early)
        check_early(kept, early, of_gops, rooms)
        early.update(want[0] for want in kept.elements())
        assert waiting.num_early == early.total()
        left -= given_out


def rooms_of(
    announced: list[int], steps: list[dict[int, list[int]]], most: int
) -> dict[int, float]:
    """Announced step -> how many pictures may be out before one more is kept for it."""
    rooms, wanted = {}, 0
    for place, step in enumerate(announced):
        wanted += sum(map(len, steps[step].values()))
        share = 1 if wanted <= most else 1 - (place / len(announced)) ** 2
        rooms[step] = most * share
    return rooms


def check_early(
    kept: Tally[Want], early: Tally[int], of_gops: Tally[Want], rooms: dict[int, float]
) -> None:
    """What is kept for announced steps, beside what was before: all that a step wants of a GOP, or
    nothing.
    """
    before, after = early.total(), early.total() + kept.total()
    for step, slot, frame in of_gops:
        if step in rooms:
            of_gop = {
                want: n
                for want, n in of_gops.items()
                if want[0] == step and want[2] // GOP == frame // GOP
            }
            if (step, slot, frame) in kept:
                assert before < rooms[step]
                assert of_gop.items() <= kept.items()
            else:
                assert after >= rooms[step], "there was room for it"


def decoded_now(left: Tally[Want], num_begun: int) -> list[int]:
    """Steps that have begun, from the first one on that wants something."""
    wanting = [step for step, _, _ in left if step < num_begun]
    return list(range(min(wanting, default=num_begun), num_begun))


def first_free(left: Tally[Want], free: set[int]) -> int:
    """The first step that wants something of a slice that is free."""
    return min(int(step) for step, slot, _ in left if slot in free)


def gops_of(left: Tally[Want], step: int, slot: int) -> set[int]:
    """GOPs of a slice that a step wants frames of."""
    return {frame // GOP for one, other, frame in left if (one, other) == (step, slot)}


def test_what_one_step_wants_of_a_slice_comes_together() -> None:
    waiting = RequestQueue()
    waiting.announce(step_of("only"), asked_for({0: [9, 1, 1, 5]}))
    assert waiting.take(()) is None, "it has not begun"
    waiting.begin({})
    taken = waiting.take(())
    assert taken is not None
    assert taken.slot == EVERY_SLICE[0]
    places = {frame: [place for _, place in targets] for frame, targets in taken.requests.items()}
    assert places == {9: [0], 1: [1, 2], 5: [3]}
    assert waiting.take(()) is None


def test_a_slice_is_visited_for_steps_in_a_row_but_for_the_first_batch_alone() -> None:
    waiting = RequestQueue()
    for number in range(5):
        waiting.announce(step_of(number), asked_for({0: [3 * number]}))
        waiting.begin({})
    taken = [waiting.take(()) for _ in range(3)]
    frames = [sorted(found.requests) if found else None for found in taken]
    assert frames == [[0], [3, 6], [9]], "two of four, then one of two"


def test_what_was_kept_for_a_step_comes_before_what_it_wants_else() -> None:
    waiting = RequestQueue()
    waiting.announce(step_of("only"), asked_for({0: [1, 2]}))
    waiting.begin(asked_for({2: [7]}))
    slots = [taken.slot for taken in (waiting.take(()), waiting.take(())) if taken]
    assert slots == [EVERY_SLICE[2], EVERY_SLICE[0]]


def test_a_step_of_which_all_was_taken_early_still_has_its_turn() -> None:
    waiting = RequestQueue()
    for number in range(3):
        waiting.announce(step_of(number), asked_for({0: [0]}))
    waiting.begin({})
    taken = waiting.take((), most_early=10)
    assert taken is not None
    assert steps_by_frame(taken)[0] == [0, 1, 2]
    for number in (1, 2):
        waiting.begin(asked_for({1: [5]}))
        kept = waiting.take((), most_early=10)
        assert kept is not None
        assert steps_by_frame(kept)[5] == [number]
    assert waiting.take(()) is None

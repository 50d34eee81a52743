"""Batches that several workers make in the same memory: whole, never written over under their
reader, and nobody waits for ever.
"""

from __future__ import annotations

import gc
import itertools
import resource
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from roboshard.loader.batches.buffers import Where
from roboshard.loader.order.plan import Share
from roboshard.loader.order.teams import steps_on_their_way
from roboshard.loader.running import shared_batches
from roboshard.loader.running.joining import Part, join
from roboshard.loader.running.segment_pool import BATCHES_HELD, SegmentPlan, SegmentSender
from roboshard.loader.running.shared_batches import (
    AbandonedError,
    MemberBuffers,
    SharedBatches,
    SharedBatchesPlan,
)
from roboshard.shards import FormatError, OptionError

MEMBERS = 2
SIZE = 6
PICTURE = (4, 5, 3)
TOP, WRIST = "observation.images.top", "observation.images.wrist"
Batch = dict[str, Any]


class Team:
    """Both sides of it in this process; each member makes every other sample."""

    def __init__(self, *, num_workers: int = MEMBERS, steps_of_message: int = 1) -> None:
        self.plan = SharedBatchesPlan.make(
            start_method="spawn",
            num_workers=num_workers,
            keys=[TOP, WRIST],
            waiting=steps_on_their_way(1, steps_of_message),
        )
        segments = SegmentPlan.make(
            start_method="spawn", num_workers=num_workers, num_keys=2, batches_ahead=2
        )
        self.parent = SharedBatches(self.plan)
        self.members = [
            MemberBuffers(self.plan, SegmentSender(segments, worker), worker)
            for worker in range(num_workers)
        ]

    def begin(self, first_step: int = 0) -> None:
        """A new iteration, of which all workers have heard."""
        generation = self.parent.begin((0, step) for step in itertools.count(first_step))
        for member in self.members:
            member.reach(generation)
        self.parent.grant()

    def fill(self, step: int, member: int, value: int, *, transformed: bool = False) -> Part:
        """A member's part of a step: all pixels of one value."""
        own = share(step, member)
        where = Where(own, TOP, is_transformed=transformed)
        tensor = self.members[member].of(where).lend((SIZE, *PICTURE), torch.uint8)
        tensor[torch.from_numpy(own.places)] = value
        pictures = tensor.movedim(-1, -3)
        region = self.members[member].region(TOP, pictures, own)
        assert region is not None
        return Part({TOP: region}, step, own.places, SIZE)

    def made(self, step: int, value: int) -> Batch:
        """A batch that both have made, taken."""
        parts = [self.fill(step, member, value) for member in range(MEMBERS)]
        self.parent.take((0, step))
        return join(parts, step, self.parent)


def share(step: int, member: int) -> Share:
    places = np.arange(member, SIZE, MEMBERS)
    return Share(epoch=0, step=step, places=places, size=SIZE)


@pytest.fixture
def team() -> Team:
    team = Team()
    team.begin()
    return team


def is_all(tensor: torch.Tensor, value: int) -> bool:
    return bool((tensor == value).all())


# -- Memory ----------------------------------------------------------------------------------------


def test_each_puts_its_samples_where_they_belong(team: Team) -> None:
    parts = [team.fill(0, member, 10 * member) for member in range(MEMBERS)]
    team.parent.take((0, 0))
    pictures = join(parts, 0, team.parent)[TOP]
    assert pictures.shape == (SIZE, 3, 4, 5)
    assert pictures.movedim(-3, -1).is_contiguous(), "channels last, as decoded"
    assert [int(picture.unique()) for picture in pictures] == [0, 10] * (SIZE // 2)


def test_slots_are_used_again_when_the_user_has_let_go(team: Team) -> None:
    addresses = set()
    for step in range(100):
        batch = team.made(step, step)
        assert is_all(batch[TOP], step)
        addresses.add(batch[TOP].data_ptr())
        del batch
        team.parent.grant()
    assert len(addresses) <= len(team.plan.granted)


@pytest.mark.parametrize("kept", ["the batch", "a sample", "an array"])
def test_what_the_user_holds_is_not_written_over(team: Team, kept: str) -> None:
    held = []
    for step in range(40):
        pictures = team.made(step, step)[TOP]
        held.append(
            {"the batch": pictures, "a sample": pictures[3], "an array": pictures.numpy()[1]}[kept]
        )
        del pictures
        team.parent.grant()
        assert all(is_all(torch.as_tensor(value), number) for number, value in enumerate(held))
    in_slots = sum(map(team.parent._is_held, range(len(team.plan.granted))))
    assert in_slots == BATCHES_HELD, "and of further ones there are copies"
    held.clear()
    gc.collect()
    assert not any(map(team.parent._is_held, range(len(team.plan.granted))))


def test_a_larger_batch_gets_a_larger_region(team: Team) -> None:
    own = share(0, 0)
    small = team.members[0].of(Where(own, TOP)).lend((SIZE, *PICTURE), torch.uint8).fill_(1)
    large = team.members[0].of(Where(own, TOP)).lend((SIZE, 400, 500, 3), torch.float32).fill_(2)
    assert small.data_ptr() != large.data_ptr(), "mapped anew"
    assert is_all(large, 2)


def test_what_does_not_fit_is_refused(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_batches, "REGION_BYTES", 1000)
    with pytest.raises(OptionError, match=rf"batch_size: pictures of '{TOP}' take 12000 bytes"):
        team.members[0].of(Where(share(0, 0), TOP)).lend((12_000,), torch.uint8)


def test_a_limit_of_the_size_of_files_is_an_error_with_its_remedy() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, before[1]))
    try:
        with pytest.raises(OptionError, match=r"^num_workers: .*ulimit -f unlimited"):
            Team()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_transformed_pictures_have_memory_of_their_own(team: Team) -> None:
    parts = [team.fill(0, member, 7) for member in range(MEMBERS)]
    changed = [team.fill(0, member, 9, transformed=True) for member in range(MEMBERS)]
    team.parent.take((0, 0))
    assert is_all(join(changed, 0, team.parent)[TOP], 9)
    assert is_all(join(parts, 0, team.parent)[TOP], 7)


def test_one_that_transformed_in_place_and_one_that_did_not(team: Team) -> None:
    parts = [team.fill(0, 0, 7), team.fill(0, 1, 9, transformed=True)]
    team.parent.take((0, 0))
    pictures = join(parts, 0, team.parent)[TOP]
    assert [int(picture.unique()) for picture in pictures] == [7, 9] * (SIZE // 2)


def test_memory_of_nobody_else_is_the_workers_own(team: Team) -> None:
    own = team.members[0].lend((SIZE, *PICTURE), torch.uint8).fill_(3)
    assert team.members[0].region(TOP, own.movedim(-1, -3), share(0, 0)) is None
    team.fill(0, 0, 5)
    assert is_all(own, 3)


# -- Grants ----------------------------------------------------------------------------------------


def test_a_step_begins_when_it_has_memory(team: Team) -> None:
    member = team.members[0]
    granted = [step for step in range(50) if member.may_begin(share(step, 0), waits=False)]
    assert granted == list(range(len(granted)))
    assert 2 <= len(granted) < len(team.plan.granted)
    with pytest.raises(AbandonedError):
        member.of(Where(share(49, 0), TOP)).lend((1,), torch.uint8)


def test_large_batches_are_granted_fewer_slots(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    def granted_after_one() -> int:
        team.begin()
        team.made(0, 1)
        team.parent.grant()
        return sum(team.members[0].may_begin(share(step, 0), waits=False) for step in range(50))

    many = granted_after_one()
    monkeypatch.setattr(shared_batches, "look_ahead_steps", lambda num_bytes: 2 if num_bytes else 8)
    assert granted_after_one() < many


def test_whoever_waits_goes_on_when_a_step_is_granted_memory(team: Team) -> None:
    first = next(
        step for step in range(50) if not team.members[0].may_begin(share(step, 0), waits=False)
    )
    waiting = threading.Thread(target=team.members[0].may_begin, args=(share(first, 0), True))
    waiting.start()
    team.made(0, 1)
    team.parent.grant()
    waiting.join(timeout=20)
    assert not waiting.is_alive()


@pytest.mark.parametrize("ends", ["another iteration", "close"])
def test_whoever_waits_for_what_nobody_wants_any_more_is_told(team: Team, ends: str) -> None:
    told: list[str] = []

    def wait() -> None:
        try:
            team.members[0].may_begin(share(49, 0), waits=True)
        except AbandonedError as error:
            told.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.01)
    if ends == "close":
        team.parent.end()
    else:
        team.parent.begin(iter(()))
    waiting.join(timeout=20)
    assert told == ["step 49 is not wanted any more"]


def test_no_memory_is_used_again_before_all_have_left_what_they_were_at(team: Team) -> None:
    """A worker that has not heard of the new iteration may still be writing."""
    slow, fast = team.members
    old = slow.of(Where(share(0, 0), TOP)).lend((SIZE, *PICTURE), torch.uint8).fill_(1)
    generation = team.parent.begin((0, step) for step in itertools.count())
    team.parent.grant()
    fast.reach(generation)
    assert not fast.may_begin(share(0, 1), waits=False)
    assert not slow.may_begin(share(1, 0), waits=False), "grants are not for who is behind"
    old.fill_(2)
    slow.reach(generation)
    assert fast.may_begin(share(0, 1), waits=False)
    assert is_all(team.made(0, 5)[TOP], 5)


def test_steps_that_come_out_of_turn_are_a_fault(team: Team) -> None:
    with pytest.raises(RuntimeError, match=r"\(epoch, step\) \(0, 1\) came, where \(0, 0\) has"):
        team.parent.take((0, 1))


class Loading(RuleBasedStateMachine):
    """Two members at paces of their own; a user who takes, keeps views, lets go and begins anew."""

    def __init__(self) -> None:
        super().__init__()
        self.team = Team(steps_of_message=2)
        self.held: list[tuple[torch.Tensor, int]] = []
        self.begin_anew(0)

    @rule(first=st.integers(0, 5))
    def begin_anew(self, first: int) -> None:
        self.team.begin(first)
        self.next = first
        self.parts: dict[int, dict[int, tuple[Part, int]]] = {}
        self.at = [first] * MEMBERS

    @rule(member=st.integers(0, MEMBERS - 1), value=st.integers(0, 255))
    def make(self, member: int, value: int) -> None:
        step = self.at[member]
        if self.team.members[member].may_begin(share(step, member), waits=False):
            part = self.team.fill(step, member, value)
            self.parts.setdefault(step, {})[member] = part, value
            self.at[member] += 1

    @precondition(lambda self: len(self.parts.get(self.next, ())) == MEMBERS)
    @rule(keeps=st.booleans())
    def take(self, keeps: bool) -> None:
        made = self.parts.pop(self.next)
        self.team.parent.take((0, self.next))
        batch = join([part for part, _ in made.values()], self.next, self.team.parent)
        for part, value in made.values():
            assert is_all(batch[TOP][torch.from_numpy(part.places)], value)
            if keeps:
                self.held.append((batch[TOP][int(part.places[1])], value))
        del batch
        self.team.parent.grant()
        self.next += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))

    @invariant()
    def nothing_was_written_over(self) -> None:
        assert all(is_all(tensor, value) for tensor, value in self.held)

    @invariant()
    def the_next_step_can_be_made(self) -> None:
        for member, buffers in enumerate(self.team.members):
            if member not in self.parts.get(self.next, ()):
                assert buffers.may_begin(share(self.next, member), waits=False)


TestLoading = Loading.TestCase
TestLoading.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


# -- Joining ---------------------------------------------------------------------------------------


class NoMemory:
    """Nothing is in shared memory."""

    def pictures(self, region: Any) -> torch.Tensor:
        raise AssertionError(region)


def joined(*parts: tuple[Batch, list[int]], size: int = 4) -> Batch:
    of_workers = [
        Part(values, 0, np.array(places, dtype=np.int64), size) for values, places in parts
    ]
    return join(of_workers, 0, NoMemory())  # type: ignore[arg-type]


HALVES = [
    tuple([place for place in range(4) if first[place] == is_first] for is_first in (True, False))
    for first in itertools.product([False, True], repeat=4)
]


@pytest.mark.parametrize("places", HALVES, ids=str)
def test_rows_go_where_their_samples_are(places: tuple[list[int], list[int]]) -> None:
    values, tasks = torch.arange(12).view(4, 3), ["a", "b", "拿起方块", "d"]
    parts = [
        ({"state": values[own], "task": [tasks[place] for place in own]} if own else {}, own)
        for own in places
    ]
    found = joined(*parts)
    assert torch.equal(found["state"], values)
    assert found["task"] == tasks


def test_a_part_that_is_not_there_is_a_fault() -> None:
    with pytest.raises(RuntimeError, match=r"step 0 came as 2 of 4 samples of steps \[0\]"):
        joined(({"state": torch.zeros((2, 3))}, [0, 1]))


def test_a_part_of_another_step_is_a_fault(team: Team) -> None:
    parts = [team.fill(0, 0, 1), team.fill(1, 1, 1)]
    team.parent.take((0, 0))
    with pytest.raises(RuntimeError, match=r"step 0 came as 6 of 6 samples of steps \[0, 1\]"):
        join(parts, 0, team.parent)


def test_values_of_different_shapes_or_types_are_refused_as_within_one_worker() -> None:
    one, other = torch.zeros((2, 3)), torch.zeros((2, 4))
    with pytest.raises(
        FormatError, match=r"'state' has shapes \[\(3,\), \(4,\)\] within one batch"
    ):
        joined(({"state": one}, [0, 1]), ({"state": other}, [2, 3]))
    with pytest.raises(FormatError, match=r"'state' has types .* within one batch"):
        joined(({"state": one}, [0, 1]), ({"state": one.int()}, [2, 3]))

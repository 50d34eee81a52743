"""Batches that pass through shared memory: whole, never overwritten under their reader, and free
again after it.
"""

from __future__ import annotations

import gc
import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
import torch.multiprocessing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.segment_worker import LARGE, batch_of, send

from roboshard.loader.running import segment_pool
from roboshard.loader.running.segment_pool import (
    BATCHES_HELD,
    SMALL_BYTES,
    SegmentPlan,
    SegmentReceiver,
    SegmentSender,
)

SOON_S = 20
KEYS = 4
Batch = dict[str, Any]


class Ring:
    """Both sides of it in this process."""

    def __init__(self, *, batches_ahead: int = 2, steps_of_message: int = 1) -> None:
        self.plan = SegmentPlan.make(
            start_method="spawn",
            num_workers=2,
            num_keys=KEYS,
            batches_ahead=batches_ahead,
            steps_of_message=steps_of_message,
        )
        self.sender = SegmentSender(self.plan, 1)
        self.receiver: SegmentReceiver | None = SegmentReceiver(self.plan)

    def lend(
        self, value: int = 0, shape: tuple[int, ...] = LARGE, dtype: torch.dtype = torch.uint8
    ) -> torch.Tensor:
        """Memory of the worker, filled; a lend that blocks fails here."""
        lent: list[torch.Tensor] = []
        thread = threading.Thread(
            target=lambda: lent.append(self.sender.lend(shape, dtype)), daemon=True
        )
        thread.start()
        thread.join(timeout=SOON_S)
        return lent.pop().fill_(value)

    def message(self, batch: Batch) -> bytes:
        """On its way."""
        return bytes(ForkingPickler.dumps(self.sender.pack(batch)))

    def passed(self, batch: Batch) -> Batch:
        """Through the ring."""
        return arrived(self.message(batch))

    def camera(self, value: int) -> Batch:
        """Passed through: one camera, all pixels of one value."""
        return self.passed({"camera": self.lend(value)})

    @property
    def num_in_use(self) -> int:
        """Segments that are somebody's."""
        return sum(self.plan.flags)


def arrived(message: bytes) -> Batch:
    found: Batch = pickle.loads(message)
    return found


def is_all(tensor: torch.Tensor, value: int) -> bool:
    return bool((tensor == value).all())


def equal(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor):
        return bool(one == other)
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(one, other)


@pytest.fixture
def pair() -> Ring:
    return Ring()


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all segments that the receiver mapped."""
    sizes: list[int] = []
    map_segment = segment_pool._map

    def counted(descriptor: int, num_bytes: int) -> Any:
        sizes.append(num_bytes)
        return map_segment(descriptor, num_bytes)

    monkeypatch.setattr(segment_pool, "_map", counted)
    return sizes


@pytest.fixture(autouse=True)
def nothing_in_dev_shm() -> Iterator[None]:
    """What is shared has no name in the file system, and is gone without anybody's help."""
    before = set(os.listdir("/dev/shm"))
    yield
    assert {
        name for name in set(os.listdir("/dev/shm")) - before if not name.startswith("sem.")
    } == set()


# -- What arrives ----------------------------------------------------------------------------------

DTYPES = [
    torch.uint8,
    torch.float32,
    torch.int64,
    torch.bool,
    torch.float64,
    torch.int16,
    torch.bfloat16,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(), (0,), (3, 0), (1,), (5, 7), (SMALL_BYTES,), (SMALL_BYTES + 1,), (9, 200, 40)]
)
def test_values_shapes_and_dtypes(pair: Ring, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randint(0, 2, shape).to(dtype)
    lent = pair.lend(0, shape, dtype).copy_(values)
    found = pair.passed({"lent": lent, "made": values.clone()})
    assert equal(found["lent"], values)
    assert equal(found["made"], values)


@pytest.mark.parametrize(
    "value", [["pick", "拿起方块"], "text", 3, None, [torch.ones(2)], {"a": [1, 2]}], ids=str
)
def test_what_is_no_tensor(pair: Ring, value: Any) -> None:
    assert str(pair.passed({"value": value, "camera": pair.lend()})["value"]) == str(value)


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "as it is": lambda tensor: tensor,
    "channels last": lambda tensor: tensor.movedim(-1, 1),
    "a window": lambda tensor: tensor.view(4, 4, *LARGE[1:]).movedim(-1, -3),
    "without the first": lambda tensor: tensor[1:],
    "every other column": lambda tensor: tensor[:, :, ::2],
    "repeated": lambda tensor: tensor[:1].expand(20, *LARGE[1:]),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_strides(
    pair: Ring, view: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    sent = view(pair.lend(0, LARGE, dtype).copy_(torch.rand(LARGE) * 255))
    found = pair.passed({"camera": sent})["camera"]
    assert equal(found, sent)
    assert found.stride() == sent.stride()


def test_large_tensors_made_elsewhere_do_not_share_memory(pair: Ring) -> None:
    """As windows of actions are: too large for a message, and not decoded into the ring."""
    batch = {
        key: torch.rand((64, 30, 14), generator=torch.Generator().manual_seed(key))
        for key in range(3)
    }
    found = pair.passed({str(key): value for key, value in batch.items()})
    assert all(torch.equal(found[str(key)], value) for key, value in batch.items())


def test_large_tensors_made_elsewhere_are_not_overwritten_on_their_way(pair: Ring) -> None:
    sent = [{"actions": torch.full((64, 30, 14), float(number))} for number in range(4)]
    messages = [pair.message(batch) for batch in sent]
    found = [arrived(message) for message in messages]
    assert [float(batch["actions"].unique()) for batch in found] == [0.0, 1.0, 2.0, 3.0]


def test_it_may_be_written_to(pair: Ring) -> None:
    found = pair.camera(3)["camera"]
    found.add_(1)
    others = [pair.camera(5)["camera"] for _ in range(3)]
    assert is_all(found, 4)
    assert all(is_all(other, 5) for other in others)


# -- Segments are used again -----------------------------------------------------------------------


def test_segments_are_mapped_once_and_their_handles_sent_once(
    pair: Ring, mapped: list[int]
) -> None:
    handles = []
    for number in range(50):
        message = pair.sender.pack(
            {"one": pair.lend(number), "other": pair.lend(number, dtype=torch.int32)}
        )
        handles.append(len(message.handles))
        found = arrived(ForkingPickler.dumps(message))
        assert is_all(found["one"], number)
        assert is_all(found["other"], number)
    assert len(mapped) == len(pair.sender._segments) == sum(handles) <= 4
    assert not any(handles[2:])


def test_a_smaller_last_batch_uses_the_same_segments(pair: Ring, mapped: list[int]) -> None:
    for size in (8, 8, 6, 5, 8):
        found = pair.passed({"camera": pair.lend(size, (size, *LARGE[1:]), torch.float32)})
        assert is_all(found["camera"], size)
        assert len(found["camera"]) == size
    assert len(mapped) <= 2


def test_other_sizes_replace_segments_when_there_are_no_more(pair: Ring, mapped: list[int]) -> None:
    for number in range(3 * pair.plan.segments_per_worker):
        found = pair.passed(
            {"camera": pair.lend(number % 200, (SMALL_BYTES + 1 + 50_000 * number,))}
        )
        assert is_all(found["camera"], number % 200)
    assert len(pair.sender._segments) == pair.plan.segments_per_worker
    assert len(pair.receiver._mapped) == pair.plan.segments_per_worker


def test_memory_that_was_never_sent_is_lent_again(pair: Ring) -> None:
    for number in range(100):
        pair.lend(number)
    assert len(pair.sender._segments) <= 2
    assert pair.num_in_use == 0


def test_a_message_that_nobody_looks_at_frees_its_segments(pair: Ring) -> None:
    message = pair.message({"one": pair.lend(1), "other": pair.lend(2)})
    assert pair.num_in_use == 2
    arrived(message)
    gc.collect()
    assert pair.num_in_use == 0


def test_memory_on_its_way_is_not_lent_again(pair: Ring) -> None:
    message = pair.message({"camera": pair.lend(1)})
    others = [pair.lend(2) for _ in range(5)]
    assert is_all(arrived(message)["camera"], 1)
    del others
    assert pair.num_in_use == 0


# -- What the user holds ---------------------------------------------------------------------------

HELD: dict[str, Callable[[Batch], Any]] = {
    "the batch": lambda batch: batch,
    "a camera": lambda batch: batch["camera"],
    "a sample": lambda batch: batch["camera"][3],
    "an array": lambda batch: batch["camera"].numpy(),
    "a permuted array": lambda batch: batch["camera"].permute(3, 0, 1, 2).numpy()[1],
    "flat": lambda batch: batch["camera"].view(-1),
    "dlpack": lambda batch: torch.utils.dlpack.to_dlpack(batch["camera"]),
    "a cycle": lambda batch: [batch.setdefault("self", batch)],
}


def pixels(held: Any) -> torch.Tensor:
    """Of whatever is held."""
    if isinstance(held, list):
        held = held[0]
    if isinstance(held, dict):
        held = held["camera"]
    if type(held).__name__ == "PyCapsule":
        held = torch.utils.dlpack.from_dlpack(held)
    return torch.as_tensor(held)


@pytest.mark.parametrize("hold", HELD.values(), ids=HELD)
def test_a_segment_is_not_overwritten_while_anything_looks_at_it(
    pair: Ring, hold: Callable[[Batch], Any]
) -> None:
    held = hold(pair.camera(7))
    for _ in range(3):
        assert is_all(pair.camera(8)["camera"], 8)
    assert pair.num_in_use == 1
    assert is_all(pixels(held), 7)
    del held
    gc.collect()
    assert pair.num_in_use == 0


def test_of_many_batches_kept_some_are_copies_and_the_worker_never_waits(pair: Ring) -> None:
    kept = [
        pair.passed(
            {"camera": pair.lend(number), "wrist": pair.lend(number + 100, dtype=torch.int32)}
        )
        for number in range(60)
    ]
    assert pair.num_in_use <= 2 * BATCHES_HELD
    assert all(is_all(batch["camera"], number) for number, batch in enumerate(kept))
    assert all(is_all(batch["wrist"], number + 100) for number, batch in enumerate(kept))
    kept.clear()
    assert pair.num_in_use == 0
    again = pair.camera(9)
    assert pair.num_in_use == 1, "and batches are in shared memory again"
    assert is_all(again["camera"], 9)


def test_batches_that_wait_in_their_message_are_not_copied() -> None:
    together = 5
    pair = Ring(steps_of_message=together)

    def message(first: int) -> list[Batch]:
        numbers = range(first, first + together)
        packed = [pair.sender.pack({"camera": pair.lend(number)}) for number in numbers]
        batches: list[Batch] = pickle.loads(bytes(ForkingPickler.dumps(packed)))
        assert [int(batch["camera"].flatten()[0]) for batch in batches] == list(numbers)
        return batches

    kept = message(0)[:BATCHES_HELD]
    assert pair.num_in_use == BATCHES_HELD
    kept += message(10)
    assert pair.num_in_use == BATCHES_HELD + together - 1, "of which one is a copy"
    kept += message(20)
    assert pair.num_in_use == BATCHES_HELD + together - 1, "and all of those"
    kept.clear()
    assert pair.num_in_use == 0


@pytest.mark.parametrize("same", [lambda x: x, lambda x: x[:, 1:, ::2]], ids=["whole", "part"])
@pytest.mark.parametrize("number_kept", [1, 2 * BATCHES_HELD])
def test_two_keys_that_look_at_one_tensor(
    pair: Ring, same: Callable[[torch.Tensor], torch.Tensor], number_kept: int
) -> None:
    kept = []
    for value in range(number_kept):
        lent = pair.lend(value)
        batch = pair.passed({"camera": lent, "also": same(lent)})
        del lent, batch["camera"]
        kept.append(batch["also"])
        del batch
    for value in range(100, 120):
        assert is_all(pair.camera(value)["camera"], value)
    assert all(is_all(tensor, value) for value, tensor in enumerate(kept))
    kept.clear()
    assert pair.num_in_use == 0


def test_copies_keep_their_strides(pair: Ring) -> None:
    kept = [
        pair.passed({"camera": pair.lend(number).movedim(-1, 1)})["camera"] for number in range(9)
    ]
    assert {tensor.stride() for tensor in kept} == {torch.empty(LARGE).movedim(-1, 1).stride()}


def test_one_view_of_each_of_many_batches(pair: Ring) -> None:
    kept = [pair.camera(number)["camera"][number % 8, 0, 0] for number in range(60)]
    assert all(is_all(view, number) for number, view in enumerate(kept))


def test_a_worker_that_still_holds_an_old_tensor_frees_nobodys_memory_with_it(pair: Ring) -> None:
    old = pair.lend(1)
    arrived(pair.message({"camera": old}))
    assert pair.num_in_use == 0, "sent, received and let go of"
    new = pair.lend(2)
    assert new.data_ptr() == old.data_ptr()
    del old
    gc.collect()
    assert pair.num_in_use == 1
    other = pair.lend(3)
    assert is_all(new, 2)
    held = pair.passed({"camera": new})
    del new, other
    assert is_all(pair.camera(4)["camera"], 4)
    assert is_all(held["camera"], 2)


# -- The receiver's end ----------------------------------------------------------------------------


def test_a_receiver_that_is_gone_gives_nothing_and_leaves_what_it_gave(pair: Ring) -> None:
    kept = pair.camera(5)
    message = pair.message({"camera": pair.lend(6)})
    pair.receiver = None
    gc.collect()
    assert arrived(message) == {}
    assert is_all(kept["camera"], 5)
    del kept
    assert pair.num_in_use == 1, "that of the message, which went with its worker"


def test_a_message_goes_to_the_receiver_of_its_ring(pair: Ring) -> None:
    other = Ring()
    one, two = pair.message({"camera": pair.lend(1)}), other.message({"camera": other.lend(2)})
    assert is_all(arrived(two)["camera"], 2)
    assert is_all(arrived(one)["camera"], 1)
    assert pair.receiver is not None
    assert other.receiver is not None
    assert len(pair.receiver._mapped) == len(other.receiver._mapped) == 1


def test_workers_do_not_touch_each_others_segments(pair: Ring) -> None:
    second = SegmentSender(pair.plan, 0)
    held = []
    for number in range(5):
        held.append((pair.camera(number)["camera"], number))
        lent = second.lend(LARGE, torch.uint8).fill_(100 + number)
        held.append(
            (arrived(ForkingPickler.dumps(second.pack({"camera": lent})))["camera"], 100 + number)
        )
    assert all(is_all(tensor, value) for tensor, value in held)


# -- Any order -------------------------------------------------------------------------------------


class Passing(RuleBasedStateMachine):
    """A worker that lends, holds on, sends; a user who takes, keeps views, and lets go."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Ring(batches_ahead=4)
        self.number = 0
        self.lent: list[tuple[torch.Tensor, int]] = []
        self.old: list[torch.Tensor] = []
        self.coming: list[tuple[bytes, list[int]]] = []
        self.held: list[tuple[torch.Tensor, int]] = []

    @precondition(lambda self: len(self.lent) < 4)
    @rule(large=st.booleans())
    def lend(self, large: bool) -> None:
        self.number += 1
        shape = (200, 700) if large else (150, 700)
        self.lent.append(
            (self.pair.sender.lend(shape, torch.uint8).fill_(self.number % 250), self.number % 250)
        )

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def drop_what_was_lent(self, data: st.DataObject) -> None:
        self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1)))

    @precondition(lambda self: self.lent and len(self.coming) < 2)
    @rule(holds_on=st.booleans(), count=st.integers(1, 2), foreign=st.booleans())
    def send(self, holds_on: bool, count: int, foreign: bool) -> None:
        chosen, self.lent = self.lent[:count], self.lent[count:]
        batch = {str(place): tensor for place, (tensor, _) in enumerate(chosen)}
        values = [value for _, value in chosen]
        if foreign:
            self.number += 1
            batch["foreign"] = torch.full((150, 700), self.number % 250, dtype=torch.uint8)
            values.append(self.number % 250)
        self.coming.append((self.pair.message(batch), values))
        if holds_on:
            self.old += [tensor for tensor, _ in chosen]

    @rule()
    def drop_what_was_sent(self) -> None:
        self.old.clear()

    @precondition(lambda self: self.coming)
    @rule(keep=st.integers(0, 3))
    def receive(self, keep: int) -> None:
        message, values = self.coming.pop(0)
        found = arrived(message)
        assert all(
            is_all(tensor, value) for tensor, value in zip(found.values(), values, strict=True)
        )
        self.held += [
            (tensor[5:], value) for tensor, value in zip(found.values(), values, strict=True)
        ][:keep]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))

    @invariant()
    def nothing_was_written_over(self) -> None:
        assert all(is_all(tensor, value) for tensor, value in self.lent + self.held)

    def teardown(self) -> None:
        for message, _ in self.coming:
            arrived(message)
        for things in (self.lent, self.held, self.old):
            things.clear()
        assert self.pair.num_in_use == 0


TestPassing = Passing.TestCase
TestPassing.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_decoding_threads_lend_beside_a_user_who_keeps_some() -> None:
    pair = Ring(batches_ahead=8)
    dice = random.Random(2)
    kept: list[tuple[torch.Tensor, int]] = []
    with ThreadPoolExecutor(3) as threads:
        for first in range(0, 240, 3):
            lent = list(threads.map(lambda value: pair.lend(value % 250), range(first, first + 3)))
            found = pair.passed({str(i): tensor for i, tensor in enumerate(lent)})
            kept += [
                (found[str(i)][dice.randrange(16)], (first + i) % 250)
                for i in range(3)
                if dice.random() < 0.5
            ]
            while len(kept) > 12:
                kept.pop(dice.randrange(len(kept)))
            assert all(is_all(view, value) for view, value in kept)


# -- Between processes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keeps", [pytest.param(0, marks=pytest.mark.slow), 40], ids=["nothing kept", "all kept"]
)
def test_through_a_real_process(keeps: int, mapped: list[int]) -> None:
    num_batches = 40
    context = torch.multiprocessing.get_context("spawn")
    plan = SegmentPlan.make(start_method="spawn", num_workers=1, num_keys=KEYS, batches_ahead=3)
    receiver = SegmentReceiver(plan)
    queue, finished = context.Queue(maxsize=2), context.Event()
    process = context.Process(
        target=send, args=(plan, 0, num_batches, queue, finished), daemon=True
    )
    process.start()
    kept = []
    for number in range(num_batches):
        found, expected = queue.get(timeout=SOON_S), batch_of(number)
        assert list(found) == list(expected)
        assert all(equal(found[key], expected[key]) for key in expected)
        assert all(
            found[key].stride() == expected[key].stride() for key in ("camera", "float camera")
        )
        kept = [*kept, (number, found)][-keeps:] if keeps else []
        del found
    assert queue.get(timeout=SOON_S) == len(mapped) <= plan.segments_per_worker
    for number, found in kept:
        assert all(equal(found[key], value) for key, value in batch_of(number).items())
    finished.set()
    process.join(timeout=SOON_S)
    assert process.exitcode == 0
    for number, found in kept:
        assert equal(found["camera"], batch_of(number)["camera"]), "the memory outlives its worker"
    kept.clear()
    gc.collect()
    assert sum(plan.flags) == 0
    del receiver


def test_a_message_holds_no_pixels(pair: Ring) -> None:
    message = pair.message({"camera": pair.lend(1, (64, 256, 256, 3))})
    assert len(message) < 2000
    assert is_all(arrived(message)["camera"], 1)

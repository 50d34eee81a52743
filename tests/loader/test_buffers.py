"""Memory that batches are made in: somebody's as long as anything looks at it, and used again after
that.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from roboshard.loader.batches import buffers
from roboshard.loader.batches.buffers import FITS, TRIMMED_EVERY, ReusedBuffers

SHAPE = (4, 6, 8, 3)


@pytest.fixture
def memory() -> ReusedBuffers:
    return ReusedBuffers()


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of every buffer that was made anew."""
    sizes: list[int] = []
    make = buffers._fresh

    def counted(num_bytes: int) -> buffers.Buffer:
        sizes.append(num_bytes)
        return make(num_bytes)

    monkeypatch.setattr(buffers, "_fresh", counted)
    yield sizes
    monkeypatch.undo()


def lend(
    memory: ReusedBuffers, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.uint8
) -> torch.Tensor:
    return memory.lend(shape, dtype)


def start(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# -- What is lent ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.float32, torch.int64, torch.bool, torch.float64, torch.bfloat16]
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 2), SHAPE])
def test_a_tensor_is_as_asked_for(
    memory: ReusedBuffers, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    tensor = lend(memory, shape, dtype)
    assert (tuple(tensor.shape), tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
    tensor.fill_(1)
    assert torch.equal(tensor, torch.ones(shape, dtype=dtype))


DLPACK_OF_NUMPY: dict[str, Callable[[torch.Tensor], Any]] = (
    {"dlpack into torch": lambda tensor: torch.from_dlpack(np.from_dlpack(tensor))}
    if int(np.__version__.split(".")[0]) >= 2
    else {}  # which exports no array that is read-only
)
HOLDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "the tensor": lambda tensor: tensor,
    "a sample": lambda tensor: tensor[2],
    "an empty slice": lambda tensor: tensor[2:2],
    "channels first": lambda tensor: tensor.permute(0, 3, 1, 2),
    "flat": lambda tensor: tensor.view(-1),
    "other bytes": lambda tensor: tensor.view(-1).view(torch.int16),
    "strided": lambda tensor: tensor.as_strided((2,), (1,), 5),
    "unbound": lambda tensor: tensor.unbind()[-1],
    "detached": lambda tensor: tensor.detach(),
    "storage": lambda tensor: tensor.untyped_storage(),
    "an array": lambda tensor: tensor.numpy(),
    "a row of an array": lambda tensor: tensor.movedim(-1, 1).numpy()[1, 0],
    "a buffer": lambda tensor: memoryview(tensor.numpy()),
    "a tensor of an array": lambda tensor: torch.from_numpy(tensor.numpy()[1:]),
    "dlpack": torch.utils.dlpack.to_dlpack,
    "dlpack into numpy": np.from_dlpack,
    **DLPACK_OF_NUMPY,
    "a dict in a list": lambda tensor: [{"camera": tensor[0]}],
    "a closure": lambda tensor: lambda: tensor,
}


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
def test_whatever_looks_at_memory_keeps_it(
    memory: ReusedBuffers, hold: Callable[[torch.Tensor], Any]
) -> None:
    tensor = lend(memory)
    address = start(tensor)
    held = hold(tensor)
    del tensor
    gc.collect()
    others = [lend(memory) for _ in range(3)]
    assert address not in [start(other) for other in others]
    assert len({start(other) for other in others}) == 3
    del held
    assert start(lend(memory)) == address, "and nothing holds it any more"


def test_views_let_go_of_one_after_the_other_keep_it_to_the_last(memory: ReusedBuffers) -> None:
    whole = lend(memory)
    address = start(whole)
    views = [hold(whole) for hold in HOLDS.values()]
    del whole
    random.Random(0).shuffle(views)
    while views:
        others = [lend(memory), lend(memory)]
        assert address not in [start(other) for other in others]
        views.pop()
    del others
    assert address in [start(other) for other in [lend(memory) for _ in range(5)]]


# -- Used again ------------------------------------------------------------------------------------


def test_memory_is_used_again_for_another_shape_and_dtype(memory: ReusedBuffers) -> None:
    address = start(lend(memory, (4, 6, 8, 3), torch.float32))
    assert start(lend(memory, (4 * 6 * 8 * 3 * 4,))) == address


@pytest.mark.parametrize("share", [1.0, 0.75, 0.5])
def test_a_smaller_last_batch_uses_the_memory_of_the_others(
    memory: ReusedBuffers, share: float
) -> None:
    address = start(lend(memory, (64, 10)))
    tensor = lend(memory, (int(64 * share), 10))
    assert start(tensor) == address
    del tensor
    assert start(lend(memory, (64, 10))) == address, "all of it is there for the next epoch"


def test_much_smaller_and_larger_ones_have_their_own(memory: ReusedBuffers) -> None:
    kept = lend(memory, (1000,))
    address = start(kept)
    del kept
    small, large = lend(memory, (1000 // FITS - 1,)), lend(memory, (1001,))
    assert address not in (start(small), start(large))


def test_the_smallest_that_fits_is_taken(memory: ReusedBuffers) -> None:
    tensors = {size: lend(memory, (size,)) for size in (1500, 1100, 1900, 1300)}
    addresses = {size: start(tensor) for size, tensor in tensors.items()}
    tensors.clear()
    assert start(lend(memory, (1000,))) == addresses[1100]


def test_released_in_another_thread(memory: ReusedBuffers) -> None:
    held = [lend(memory)]
    address = start(held[0])
    with ThreadPoolExecutor(1) as thread:
        thread.submit(held.clear).result()
    assert start(lend(memory)) == address


def test_released_by_a_thread_that_ends(memory: ReusedBuffers) -> None:
    address: list[int] = []

    def work() -> None:
        tensor = lend(memory)
        address.append(start(tensor))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert start(lend(memory)) == address[0]


def test_released_by_the_collector_of_cycles(memory: ReusedBuffers) -> None:
    gc.disable()
    try:
        cycle: list[Any] = [lend(memory)]
        cycle.append(cycle)
        address = start(cycle[0])
        del cycle
        other = lend(memory)
        assert start(other) != address
        gc.collect()
        assert start(lend(memory)) == address
    finally:
        gc.enable()


def test_a_steady_loop_makes_nothing_anew(memory: ReusedBuffers, allocated: list[int]) -> None:
    ahead: list[dict[str, torch.Tensor]] = []
    for step in range(50):
        ahead.append({camera: lend(memory, (8, 10)) for camera in ("top", "wrist")})
        if len(ahead) > 4:
            ahead.pop(0)
        if step == 9:
            allocated.clear()
    assert allocated == []


def test_it_outlives_its_lender() -> None:
    memory = ReusedBuffers()
    tensor = lend(memory).fill_(7)
    del memory
    gc.collect()
    assert torch.equal(tensor, torch.full(SHAPE, 7, dtype=torch.uint8))


def test_no_function_in_python_runs_where_the_user_lets_go(memory: ReusedBuffers) -> None:
    """Ctrl-C in the middle of one that a weak reference calls would be dropped by Python."""
    tensors, calls = [lend(memory)], list[str]()
    sys.setprofile(lambda frame, event, _: calls.append(f"{event} {frame.f_code.co_qualname}"))
    tensors.pop()
    sys.setprofile(None)
    assert [call for call in calls if call.startswith("call ")] == []
    assert len(memory._ended) == 1


# -- Bounds ----------------------------------------------------------------------------------------


def test_of_many_batches_kept_and_let_go_few_stay(
    memory: ReusedBuffers, allocated: list[int]
) -> None:
    kept = [lend(memory) for _ in range(100)]
    assert len({start(tensor) for tensor in kept}) == 100
    addresses = {start(tensor) for tensor in kept}
    kept.clear()
    first = lend(memory)
    assert start(first) in addresses
    for _ in range(2 * TRIMMED_EVERY):
        lend(memory)
    assert len(memory._free) + len(memory._ended) <= 2, "what these did not need was given back"
    allocated.clear()
    again = [lend(memory) for _ in range(100)]
    assert len(allocated) >= 97
    assert len({start(tensor) for tensor in again} | {start(first)}) == 101


def test_sizes_that_are_no_longer_asked_for_are_given_back(memory: ReusedBuffers) -> None:
    for size in range(1, 200):
        lend(memory, (size * 1000,))
    for _ in range(2 * TRIMMED_EVERY):
        lend(memory, (1,))
    assert len(memory._free) + len(memory._ended) <= 2


# -- Many at once ----------------------------------------------------------------------------------


class Lending(RuleBasedStateMachine):
    """Any order of lending, looking, and letting go."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.memory = ReusedBuffers()
        self.alive: dict[int, tuple[torch.Tensor, int]] = {}
        self.number = 0

    @rule(target=held, size=st.integers(1, 400))
    def lend(self, size: int) -> int:
        self.number += 1
        self.alive[self.number] = (
            self.memory.lend((size,), torch.int32).fill_(self.number),
            self.number,
        )
        return self.number

    @rule(target=held, number=consumes(held), first=st.integers(0, 3))
    def keep_only_a_view(self, number: int, first: int) -> int:
        tensor, value = self.alive.pop(number)
        self.alive[number] = tensor[min(first, len(tensor) - 1) :], value
        return number

    @rule(number=consumes(held))
    def let_go(self, number: int) -> None:
        del self.alive[number]

    @invariant()
    def nothing_was_written_over(self) -> None:
        for tensor, value in self.alive.values():
            assert bool((tensor == value).all())


TestLending = Lending.TestCase
TestLending.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_threads_never_share_what_they_hold(memory: ReusedBuffers) -> None:
    def work(seed: int) -> int:
        dice, held = random.Random(seed), []
        for turn in range(400):
            value = seed * 1000 + turn
            tensor = memory.lend((dice.choice((3, 50, 64, 64, 100, 128)), 7), torch.int64).fill_(
                value
            )
            held.append((tensor[dice.randrange(3) :], value))
            if len(held) > dice.randrange(6):
                view, expected = held.pop(dice.randrange(len(held)))
                if not bool((view == expected).all()):
                    return value
        return -1 if all(bool((view == expected).all()) for view, expected in held) else seed

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(work, range(1, 13))) == [-1] * 12

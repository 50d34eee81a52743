"""Epochs one after the other: the next one is begun ahead where it is likely to come, and is the
right one.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.batches import Batch, assert_same, threads_left
from support.lerobot_source import Camera, Source, build
from support.slowly import slowly

from roboshard.converter import ConvertConfig, convert
from roboshard.loader import Loader, make_loader
from roboshard.loader.running.stream import EpochStream

pytestmark = pytest.mark.usefixtures("no_threads_before")

TOP = "observation.images.top"
LENGTHS = (9, 7, 12, 8, 10)
NUMBER = 4


class Begun:
    """Generators of (epoch, item), as long as they are told to go on, and what became of them."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, bool]] = []
        self.made: list[tuple[int, int]] = []
        self.closed = 0

    def __call__(
        self, epoch: int, first: int, goes_on: bool
    ) -> Generator[tuple[int, int], None, None]:
        self.calls.append((epoch, first, goes_on))
        return self._items(epoch, first, goes_on)

    def _items(
        self, epoch: int, first: int, goes_on: bool
    ) -> Generator[tuple[int, int], None, None]:
        try:
            for number in itertools.count(epoch) if goes_on else [epoch]:
                for item in range(first if number == epoch else 0, NUMBER):
                    self.made.append((number, item))
                    yield number, item
        finally:
            self.closed += 1


def whole(epoch: int, first: int = 0) -> list[tuple[int, int]]:
    return [(epoch, item) for item in range(first, NUMBER)]


def test_an_epoch_that_followed_another_goes_on_into_the_next() -> None:
    begun = Begun()
    stream = EpochStream(begun)
    for epoch in range(5):
        assert list(stream.items(epoch, 0, NUMBER)) == whole(epoch)
        assert begun.closed == 1, "the first one is all that was made by itself"
    assert begun.calls == [(0, 0, False), (1, 0, True)]
    stream.close()
    assert begun.closed == 2


def test_epochs_in_another_order_are_each_made_by_themselves() -> None:
    begun = Begun()
    stream = EpochStream(begun)
    for epoch in (3, 3, 5, 2, 0):
        assert list(stream.items(epoch, 0, NUMBER)) == whole(epoch)
    assert not any(goes_on for _, _, goes_on in begun.calls)
    assert begun.closed == len(begun.calls) == 5


@pytest.mark.parametrize(("epoch", "first"), [(2, 1), (1, 0), (3, 0)])
def test_what_was_begun_ahead_is_dropped_where_something_else_is_wanted(
    epoch: int, first: int
) -> None:
    begun = Begun()
    stream = EpochStream(begun)
    for before in range(2):
        list(stream.items(before, 0, NUMBER))
    assert list(stream.items(epoch, first, NUMBER - first)) == whole(epoch, first)
    assert begun.calls[2:] == [(epoch, first, False)]
    assert begun.closed == 3


def test_a_resumed_epoch_goes_on_with_the_one_after_it() -> None:
    stream = EpochStream(Begun())
    assert list(stream.items(6, 2, NUMBER - 2)) == whole(6, 2)
    assert [list(stream.items(epoch, 0, NUMBER)) for epoch in (7, 8)] == [whole(7), whole(8)]


@pytest.mark.parametrize("epochs_before", [0, 1, 2])
def test_an_iteration_that_is_left_or_replaced_ends_what_it_began(epochs_before: int) -> None:
    begun = Begun()
    stream = EpochStream(begun)
    for epoch in range(epochs_before):
        list(stream.items(epoch, 0, NUMBER))
    left = stream.items(epochs_before, 0, NUMBER)
    next(left)
    left.close()
    assert begun.closed == len(begun.calls)
    replaced, newer = (stream.items(epochs_before, 0, NUMBER) for _ in range(2))
    next(replaced)
    assert next(newer) == (epochs_before, 0)
    assert list(replaced) == []
    assert list(newer) == whole(epochs_before, 1), "the one that was replaced has not ended it"


def test_who_stops_at_the_last_item_has_had_the_epoch() -> None:
    """Trainers that count steps let go of an iterator without asking it for one more."""
    begun = Begun()
    stream = EpochStream(begun)
    for epoch in range(4):
        items = stream.items(epoch, 0, NUMBER)
        assert [next(items) for _ in range(NUMBER)] == whole(epoch)
        items.close()
    assert begun.calls == [(0, 0, False), (1, 0, True)]


def test_an_epoch_whose_last_item_failed_is_not_over() -> None:
    def begin(epoch: int, first: int, goes_on: bool) -> Generator[int, None, None]:
        yield 1
        raise ArithmeticError

    stream = EpochStream(begin)
    for _ in range(2):
        items = stream.items(0, 0, 2)
        assert next(items) == 1
        with pytest.raises(ArithmeticError):
            next(items)


# -- The loader ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    build(
        folder / "source", Source(lengths=LENGTHS, cameras=(Camera(key=TOP, gop=2, size=(32, 48)),))
    )
    convert(
        ConvertConfig(source=str(folder / "source"), destination=str(folder / "shards"), workers=1)
    )
    return folder / "shards"


def load(root: Path, **options: Any) -> Loader:
    return make_loader(str(root), **({"batch_size": 5, "seed": 3, "pool_episodes": 2} | options))


def alone(root: Path, epoch: int, **options: Any) -> Iterator[Batch]:
    """An epoch of a loader that has loaded nothing else."""
    loader = load(root, **options)
    loader.set_epoch(epoch)
    yield from loader


@pytest.mark.parametrize("num_workers", [0, slowly(2)])
@pytest.mark.parametrize("frame_order", ["uniform", slowly("sweep")])
def test_epochs_are_the_same_as_each_loaded_by_itself(
    shards: Path, frame_order: str, num_workers: int
) -> None:
    loader = load(shards, num_workers=num_workers, frame_order=frame_order)
    for epoch in range(4):
        assert_same(loader, alone(shards, epoch, frame_order=frame_order))
    state = loader.state_dict()
    loader.set_epoch(2)
    assert_same(loader, alone(shards, 2, frame_order=frame_order))
    loader.load_state_dict(state)
    assert_same(loader, alone(shards, 4, frame_order=frame_order))
    loader.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_that_some_epochs_have_no_step_for(shards: Path) -> None:
    """Four workers, three steps, resumed so that the others are served first."""
    options: dict[str, Any] = {"batch_size": 16, "drop_last": False}
    loader = load(shards, num_workers=4, **options)
    assert len(loader) == 3
    state = loader.state_dict() | {"step": 2}
    for _ in range(2):
        loader.load_state_dict(state)
        assert_same(loader, itertools.islice(alone(shards, 0, **options), 2, None))
        for epoch in range(1, 4):
            assert_same(loader, alone(shards, epoch, **options))
    loader.close()


def test_the_next_epoch_is_decoded_while_the_last_steps_are_used(shards: Path) -> None:
    loader = load(shards)
    for _ in range(2):
        for _ in loader:
            pass
    assert loader.stats().frames_used > 2 * sum(LENGTHS)
    assert loader.stats().steps_ahead > 0
    loader.close()
    assert loader.stats().steps_ahead == 0


def test_threads_stay_from_the_second_epoch_on_and_end_with_the_loader(shards: Path) -> None:
    loader = load(shards)
    for epoch in range(3):
        for _ in loader:
            pass
        assert bool(threads_left()) == (epoch > 0)
    loader.close()
    assert not threads_left()
    for _ in range(2):
        for _ in loader:
            pass
    assert threads_left()
    gc.disable()
    try:
        del loader
        assert not threads_left(), "at once, and not when the garbage collector comes by"
    finally:
        gc.enable()


def test_a_break_ends_what_was_begun(shards: Path) -> None:
    loader = load(shards)
    for _ in itertools.chain(loader, loader):
        pass
    for _ in loader:
        break
    assert not threads_left()

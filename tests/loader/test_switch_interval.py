"""The interpreter's lock is passed on more often while somebody decodes, and only then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from roboshard.loader import make_loader, open_dataset
from roboshard.loader.look_ahead.switch_interval import TURN_S, ShortTurns

pytestmark = pytest.mark.usefixtures("no_threads_before")

USUAL_S = 0.005


@pytest.fixture(autouse=True)
def usual_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL_S)
    yield
    sys.setswitchinterval(before)


def test_turns_are_short_while_a_loader_decodes(pusht_shards: Path) -> None:
    loader = make_loader(str(pusht_shards), batch_size=1)
    assert sys.getswitchinterval() == pytest.approx(USUAL_S)
    iterator = iter(loader)
    next(iterator)  # further steps are on their way
    assert sys.getswitchinterval() == pytest.approx(TURN_S)
    for _ in iterator:
        pass
    assert sys.getswitchinterval() == pytest.approx(USUAL_S)
    for _ in loader:
        break
    loader.close()
    assert sys.getswitchinterval() == pytest.approx(USUAL_S)


def test_turns_are_short_while_a_dataset_is_open(pusht_shards: Path) -> None:
    dataset = open_dataset(str(pusht_shards))
    assert dataset[0]
    assert sys.getswitchinterval() == pytest.approx(TURN_S)
    dataset.close()
    dataset.close()
    assert sys.getswitchinterval() == pytest.approx(USUAL_S)


def test_the_last_one_to_end_puts_it_back() -> None:
    turns = ShortTurns()
    turns.begin()
    turns.begin()
    turns.end()
    assert sys.getswitchinterval() == pytest.approx(TURN_S)
    turns.end()
    assert sys.getswitchinterval() == pytest.approx(USUAL_S)


@pytest.mark.parametrize("own", [TURN_S / 2, TURN_S * 20])
def test_what_the_user_sets_meanwhile_stays(own: float) -> None:
    turns = ShortTurns()
    turns.begin()
    sys.setswitchinterval(own)
    turns.end()
    assert sys.getswitchinterval() == pytest.approx(own)


def test_less_than_that_is_left_alone() -> None:
    turns = ShortTurns()
    sys.setswitchinterval(TURN_S / 10)
    turns.begin()
    assert sys.getswitchinterval() == pytest.approx(TURN_S / 10, abs=1e-6)
    turns.end()
    assert sys.getswitchinterval() == pytest.approx(TURN_S / 10, abs=1e-6)

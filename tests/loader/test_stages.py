"""A chain of stages: what one gives the next one takes, item by item, and all of them are closed
together.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

from roboshard.loader.stages import Stages


def test_items_pass_one_by_one() -> None:
    seen: list[str] = []

    def numbers() -> Iterator[int]:
        for number in range(3):
            seen.append(f"made {number}")
            yield number

    def texts(items: Iterable[int]) -> Iterator[str]:
        for item in items:
            seen.append(f"passed {item}")
            yield str(item)

    chain = Stages(numbers).then(texts)
    assert seen == []
    assert next(chain.run()) == "0"
    assert seen == ["made 0", "passed 0"]
    assert list(chain.run()) == ["0", "1", "2"]


def test_a_longer_chain_leaves_the_shorter_one_as_it_was() -> None:
    numbers = Stages(lambda: iter(range(3)))
    doubled = numbers.then(lambda items: (2 * item for item in items))
    assert list(doubled.run()) == [0, 2, 4]
    assert list(numbers.run()) == [0, 1, 2]


def test_closing_the_last_stage_closes_those_before_it() -> None:
    closed: list[str] = []

    def numbers() -> Generator[int, None, None]:
        try:
            yield from range(3)
        finally:
            closed.append("numbers")

    def same(items: Iterable[int]) -> Generator[int, None, None]:
        try:
            yield from items
        finally:
            closed.append("same")

    def consumer() -> Generator[int, None, None]:
        yield from Stages(numbers).then(same).run()

    running = consumer()
    assert next(running) == 0
    running.close()
    assert closed == ["numbers", "same"]

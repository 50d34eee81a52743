"""A chain of stages, each an iterator made of the one before it, joined by WebDataset's
DataPipeline.

DataPipeline takes any callables. Here the type checker holds each stage's input against the output
of the stage before it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import webdataset as wds

Item = TypeVar("Item")
Next = TypeVar("Next")


class Stages(Generic[Item]):
    """Stages in the order in which items pass through them; immutable.

    Example:
        >>> numbers = Stages(lambda: iter(range(3)))
        >>> doubled = numbers.then(lambda items: (2 * item for item in items))
        >>> list(doubled.run())
        [0, 2, 4]
    """

    def __init__(self, source: Callable[[], Iterator[Item]]) -> None:
        """Begin with what `source` returns."""
        self._stages: tuple[Callable[..., Iterator[Any]], ...] = (source,)

    def then(self, stage: Callable[[Iterable[Item]], Iterator[Next]]) -> "Stages[Next]":
        """Return a chain with one more stage, which is given what leaves this one."""
        longer: Stages[Next] = Stages.__new__(Stages)
        longer._stages = (*self._stages, stage)
        return longer

    def run(self) -> Iterator[Item]:
        """Return the iterator of the last stage. Closing it closes those before it."""
        items: Iterator[Item] = wds.DataPipeline(*self._stages).iterator1()
        return items

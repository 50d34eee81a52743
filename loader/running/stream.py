"""Epochs one after the other: the next one is begun before it is asked for, where it is likely to
be.
"""

from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class EpochStream(Generic[T]):
    """Epochs out of a generator that goes on from one into the next, so that none has to wait for
    its first items.

    It does so once an epoch has followed the one before it. Until then, and where epochs are asked
    for in another order, each is made by itself: nothing is kept or made that nobody may want.
    """

    def __init__(self, begin: Callable[[int, int, bool], Generator[T, None, None]]) -> None:
        """Begin nothing yet. `begin` makes the items of an epoch from a step on, and if told so
        also those of all epochs after it.
        """
        self._begin = begin
        self._items: Generator[T, None, None] | None = None
        self._goes_on = False
        self._next_epoch: int | None = None  # whose items come next, if an epoch is over
        self._completed: int | None = None

    def items(self, epoch: int, first_step: int, number: int) -> Generator[T, None, None]:
        """Yield an epoch's items from `first_step` on, of which there are `number`.

        Ends an iteration that is running.

        Whoever has been given all of them has had the epoch, though he may not ask whether there
        are more.
        """
        if not number:  # nor has the generator gone on beyond it
            self.close()
            self._completed = epoch
            return
        if self._items is None or (epoch, first_step) != (self._next_epoch, 0):
            self.close()
            self._goes_on = first_step == 0 and self._completed == epoch - 1
            self._items = self._begin(epoch, first_step, self._goes_on)
        items, self._next_epoch = self._items, None
        left = number
        try:
            while left and self._items is items:
                item = [next(items)]
                left -= 1
                yield item.pop()  # what is given away is not held here
        finally:
            if self._items is items:
                self._completed = self._completed if left else epoch
                self._next_epoch = epoch + 1 if self._goes_on and not left else None
                if self._next_epoch is None:
                    self.close()

    def close(self) -> None:
        """End what is running or has been begun."""
        items, self._items, self._next_epoch = self._items, None, None
        if items is not None:
            items.close()

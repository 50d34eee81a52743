"""Thrift's compact protocol, in which parquet writes its metadata, read without trust.

Nothing is allocated for what the bytes claim; every step stays within them. Arrow ends the process
at some footers that contradict themselves, so that metadata is looked at here first.
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from collections.abc import Iterator
from typing import Any

TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = frozenset({4, 5, 6})
_STOP = 0
_MAX_DEPTH = 16
_MAX_FIELDS = 64
_MAX_VARINT_BYTES = 10


class CompactReader:
    """Reads values one after another; `at` is where the next one begins."""

    def __init__(self, view: memoryview, at: int, end: int) -> None:
        self._view = view
        self.at = at
        self._end = end

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield (number, kind) of the fields of a struct.

        The caller reads or skips each value before the next step.
        """
        number = 0
        for _ in range(_MAX_FIELDS):
            head = self._byte()
            kind, delta = head & 15, head >> 4
            if kind == _STOP:
                return
            number = number + delta if delta else self.integer()
            yield number, kind
        raise ValueError("a struct with too many fields")

    def items(self, kind: int) -> Iterator[None]:
        """Step through a list of values of one kind; the caller reads or skips each of them."""
        found, count = self._list_header()
        if found != kind and count:
            raise ValueError(f"a list of kind {found} in place of {kind}")
        for _ in range(count):
            yield

    def numbers(self) -> dict[int, int]:
        """Return field number -> value of the numbers of a struct; other values are passed over."""
        found: dict[int, int] = {}
        for number, kind in self.fields():
            if kind in _INTEGERS:
                found[number] = self.integer()
            else:
                self.skip(kind)
        return found

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return field number -> value of a struct of numbers and structs; other values are
        None.
        """
        found: dict[int, Any] = {}
        for number, kind in self.fields():
            if kind == STRUCT and depth < _MAX_DEPTH:
                found[number] = self.struct(depth + 1)
            elif kind in (TRUE, FALSE):
                found[number] = kind == TRUE
            elif kind in _INTEGERS:
                found[number] = self.integer()
            else:
                self.skip(kind, depth)
                found[number] = None
        return found

    def integer(self) -> int:
        """Return a number that is written in zigzag."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value of this kind."""
        if depth > _MAX_DEPTH:
            raise ValueError("values nested too deep")
        if kind == BINARY:
            self._pass(self._varint())
        elif kind in _INTEGERS:
            self._varint()
        elif kind == STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind in (LIST, SET):
            inner, count = self._list_header()
            for _ in range(count):
                self._byte() if inner in (TRUE, FALSE) else self.skip(inner, depth + 1)
        elif kind == BYTE:
            self._pass(1)
        elif kind == DOUBLE:
            self._pass(8)
        elif kind not in (TRUE, FALSE):
            raise ValueError(f"a value of unknown kind {kind}")

    def _list_header(self) -> tuple[int, int]:
        """(kind of the items, their number), which is at most that of the bytes left."""
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        if count > self._end - self.at:
            raise ValueError(f"a list of {count} values in fewer bytes")
        return head & 15, count

    def _byte(self) -> int:
        at = self.at
        if at >= self._end:
            raise ValueError("metadata that ends too early")
        self.at = at + 1
        return self._view[at]

    def _pass(self, length: int) -> None:
        if self.at + length > self._end:
            raise ValueError("metadata that ends too early")
        self.at += length

    def _varint(self) -> int:
        value = self._byte()
        if value < 128:  # most numbers
            return value
        value &= 127
        for place in range(1, _MAX_VARINT_BYTES):
            byte = self._byte()
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                return value
        raise ValueError("a number without an end")

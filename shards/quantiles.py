"""Exact quantiles of more numbers than are held at once: they are gone through a few times, in
pieces.

Few numbers are sorted. Of many the bits are looked at: those of a floating-point number, turned
round where it is negative, are a whole number that stands in the same order. The first pass counts
how many numbers begin with each 16 bits, and so finds the beginning of the number that stands at a
place in the ascending order. Each further pass finds the next 16 bits, among the numbers that begin
so.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Piece = tuple[NDArray[Any], NDArray[np.float64] | None]
"""Numbers (n,), and how often each of them counts; None: once."""
Pieces = Callable[[], Iterable[Piece]]
"""A callback that goes through all numbers, piece by piece; called once for each pass."""

DIGIT_BITS = 16
DIGITS = 1 << DIGIT_BITS
SORTED = 1 << 18
"""Most numbers that are sorted; of more there are several passes."""
ROUNDING = 1e-12
"""Share of all weights by which sums of fractions may be off."""


def exact_quantiles(pieces: Pieces, levels: Sequence[float], total: float) -> NDArray[np.float64]:
    """Return quantiles as NumPy's `quantile` defines them, with its linear interpolation.

    A number of weight n counts as n equal numbers: of whole weights the result is that of the
    numbers repeated so often. Fractions are places of the same order in between.

    Args:
        pieces: the numbers, of which there is one at least; none of them NaN.
        levels: from 0 to 1.
        total: sum of all weights.

    Returns:
        One number for each level, float64.
    """
    places = np.maximum(0.0, (total - 1) * np.asarray(levels, dtype=np.float64))
    low = np.floor(places)
    wanted = np.concatenate([low, low + 1])
    values = _at_places(pieces, wanted, ROUNDING * total)
    below, above = values[: len(low)], values[len(low) :]
    share = places - low
    with np.errstate(invalid="ignore"):  # between two infinities of one sign there is nothing
        between = np.where(
            share < 0.5, below + (above - below) * share, above - (above - below) * (1 - share)
        )
    return np.where((share == 0) | (below == above), below, between)


def _at_places(
    pieces: Pieces, places: NDArray[np.float64], tolerance: float
) -> NDArray[np.float64]:
    """Return the numbers at places of the ascending order; past its end the largest one."""
    seen = [(len(values), values.dtype) for values, _ in pieces()]
    if sum(length for length, _ in seen) <= SORTED:
        return _sorted_at_places([*pieces()], places, tolerance)
    is_single = all(dtype == np.float32 for _, dtype in seen)
    return _searched_at_places(pieces, places, tolerance, np.uint32 if is_single else np.uint64)


def _sorted_at_places(
    pieces: Sequence[Piece], places: NDArray[np.float64], tolerance: float
) -> NDArray[np.float64]:
    values = np.concatenate([values for values, _ in pieces]).astype(np.float64)
    weights = np.concatenate(
        [np.ones(len(values)) if weights is None else weights for values, weights in pieces]
    )
    counted = np.flatnonzero(weights)
    order = counted[np.argsort(values[counted], kind="stable")]
    ends = np.cumsum(weights[order])
    found = np.searchsorted(ends, places + tolerance, side="right").clip(max=len(order) - 1)
    result: NDArray[np.float64] = values[order[found]]
    return result


def _searched_at_places(
    pieces: Pieces,
    places: NDArray[np.float64],
    tolerance: float,
    unsigned: type[np.unsignedinteger[Any]],
) -> NDArray[np.float64]:
    shift = np.dtype(unsigned).itemsize * 8
    found = np.zeros(len(places), dtype=unsigned)
    rest = places.copy()
    while shift:
        shift -= DIGIT_BITS
        beginnings, of_place = np.unique(found, return_inverse=True)
        counts = _count_digits(pieces, beginnings, shift)
        ends = np.cumsum(counts, axis=1)
        for place, row in enumerate(of_place.tolist()):
            digit = int(np.searchsorted(ends[row], rest[place] + tolerance, side="right"))
            digit = min(digit, int(np.flatnonzero(counts[row])[-1]))
            rest[place] -= ends[row, digit - 1] if digit else 0
            found[place] = (int(found[place]) << DIGIT_BITS) | digit
    return _numbers(found)


def _count_digits(pieces: Pieces, beginnings: NDArray[Any], shift: int) -> NDArray[np.float64]:
    """Return how often each digit comes next in numbers with these beginnings, (beginnings,
    digits).
    """
    counts = np.zeros(len(beginnings) * DIGITS)
    is_first = shift + DIGIT_BITS == beginnings.dtype.itemsize * 8
    for values, weights in pieces():
        keys = _keys(values, beginnings.dtype)
        digits = ((keys >> np.uint8(shift)) & np.uint16(DIGITS - 1)).astype(np.int64)
        if not is_first:
            own = keys >> np.uint8(shift + DIGIT_BITS)
            row = np.searchsorted(beginnings, own).clip(max=len(beginnings) - 1)
            inside = beginnings[row] == own
            digits = digits[inside] + DIGITS * row[inside]
            counted = None if weights is None else weights[inside]
        else:
            counted = weights
        counts += np.bincount(digits, counted, minlength=len(counts))
    return counts.reshape(len(beginnings), DIGITS)


def _keys(values: NDArray[Any], unsigned: np.dtype[Any]) -> NDArray[Any]:
    """Return whole numbers that are in the order of these numbers."""
    floats = np.float32 if unsigned == np.uint32 else np.float64
    bits = np.ascontiguousarray(values, dtype=floats).view(unsigned)
    sign = unsigned.type(1 << (unsigned.itemsize * 8 - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def _numbers(keys: NDArray[Any]) -> NDArray[np.float64]:
    """Return the numbers that these keys stand for: the reverse of `_keys`."""
    unsigned = keys.dtype
    sign = unsigned.type(1 << (unsigned.itemsize * 8 - 1))
    bits = np.where(keys & sign, keys ^ sign, ~keys).astype(unsigned)
    floats = np.float32 if unsigned == np.uint32 else np.float64
    return bits.view(floats).astype(np.float64)

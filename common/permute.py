"""A keyed bijection of 0..n-1 that is computed, never stored: any position at once, in O(1) memory.

A Feistel network over a grid of `rows x columns >= n` cells with modular addition in place of XOR,
and cycle walking back into the range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
2002). Fewer than `rows` cells lie outside the range, so a walk is rare and short. A few rounds on a
tiny grid reach some orders more often than others; up to SORTED_SIZE elements are sorted by keyed
random numbers instead. Built from 64-bit integer arithmetic and BLAKE2b alone: the same on every
platform and library version.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
SORTED_SIZE = 64
MAX_SIZE = 1 << 48

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)  # splitmix64's finaliser (Steele, Lea and Flood, 2014)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def derive_key(purpose: str, *numbers: int) -> bytes:
    """A key for `permute` from what the order depends on: a purpose and integers such as seed and
    epoch.
    """
    text = ":".join([purpose, *map(str, numbers)])
    return hashlib.blake2b(text.encode(), digest_size=8 * ROUNDS, person=b"roboshard").digest()


def permute(positions: NDArray[np.int64], size: int, key: bytes) -> NDArray[np.int64]:
    """The images of `positions` (each in 0..size-1) under the bijection that `key` chooses.

    Raises:
        ValueError: a size outside 1..2**48, or a position outside the range.
    """
    if not 0 < size <= MAX_SIZE:
        raise ValueError(f"size must be in 1..2**48, not {size}")
    values = np.asarray(positions, dtype=np.int64)
    if values.size and not (values.min() >= 0 and values.max() < size):
        raise ValueError(f"positions must be in 0..{size - 1}")
    if size <= SORTED_SIZE:
        return np.argsort(random_integers(size, key), kind="stable")[values].astype(np.int64)
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    round_keys = np.frombuffer(key, dtype="<u8")
    grid = np.uint64(rows), np.uint64(columns)
    result = _encrypt(values.astype(np.uint64), *grid, round_keys)
    outside = np.flatnonzero(result >= size)
    while (
        outside.size
    ):  # ends: a cycle that leaves the range comes back to where it started, inside it
        result[outside] = _encrypt(result[outside], *grid, round_keys)
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def permute_each(
    positions: NDArray[np.int64],
    group: NDArray[np.int64],
    sizes: Sequence[int],
    keys: Sequence[bytes],
) -> NDArray[np.int64]:
    """Return the images of positions under several bijections, as `permute` gives them singly.

    Args:
        positions: (n,) each in its bijection's range.
        group: (n,) which bijection each is for.
        sizes: of each bijection.
        keys: of each bijection.
    """
    if len(keys) == 1:
        return permute(positions, sizes[0], keys[0])
    images = np.empty_like(positions)
    is_sorted = np.asarray(sizes, dtype=np.int64) <= SORTED_SIZE
    round_keys = _round_keys(keys)
    small, large = np.flatnonzero(is_sorted[group]), np.flatnonzero(~is_sorted[group])
    if small.size:
        images[small] = _sorted_each(positions[small], group[small], sizes, round_keys)
    if large.size:
        images[large] = _encrypted_each(positions[large], group[large], sizes, round_keys)
    return images


def _sorted_each(
    positions: NDArray[np.int64],
    group: NDArray[np.int64],
    sizes: Sequence[int],
    round_keys: NDArray[np.uint64],
) -> NDArray[np.int64]:
    groups, row = np.unique(group, return_inverse=True)
    counts = np.asarray(sizes, dtype=np.int64)[groups]
    numbers = np.arange(int(counts.max()), dtype=np.uint64)
    drawn = _drawn(len(numbers), round_keys[groups])
    drawn[numbers >= counts[:, None].astype(np.uint64)] = np.iinfo(np.uint64).max  # come last
    order: NDArray[np.int64] = np.argsort(drawn, axis=1, kind="stable")[row, positions]
    return order


def _encrypted_each(
    positions: NDArray[np.int64],
    group: NDArray[np.int64],
    sizes: Sequence[int],
    round_keys: NDArray[np.uint64],
) -> NDArray[np.int64]:
    size = np.asarray(sizes, dtype=np.uint64)[group]
    by_group = [math.isqrt(max(0, count - 1)) + 1 for count in sizes]
    rows = np.asarray(by_group, dtype=np.uint64)[group]
    columns = (size + rows - np.uint64(1)) // rows
    keys = round_keys[group].T
    images = _encrypt(positions.astype(np.uint64), rows, columns, keys)
    while (outside := np.flatnonzero(images >= size)).size:
        images[outside] = _encrypt(
            images[outside], rows[outside], columns[outside], keys[:, outside]
        )
    return images.astype(np.int64)


def random_integers(count: int, key: bytes) -> NDArray[np.uint64]:
    """(count,) integers over the whole 64-bit range, fixed by the key."""
    return keyed_integers(np.arange(count, dtype=np.uint64), key)


def random_integers_each(count: int, keys: Sequence[bytes]) -> NDArray[np.uint64]:
    """(keys, count) integers over the whole 64-bit range: `random_integers` of each key."""
    return _drawn(count, _round_keys(keys))


def _drawn(count: int, round_keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    numbers = np.arange(count, dtype=np.uint64)
    return _mix(_mix(numbers + round_keys[:, :1]) + round_keys[:, 1:2])


def _round_keys(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(keys), dtype="<u8").reshape(len(keys), ROUNDS)


def keyed_integers(values: NDArray[np.uint64], key: bytes) -> NDArray[np.uint64]:
    """Return an integer over the whole 64-bit range for each value, fixed by the value and the
    key.
    """
    first, second = np.frombuffer(key, dtype="<u8")[:2]
    return _mix(_mix(values + first) + second)


Count = np.uint64 | NDArray[np.uint64]


def _encrypt(
    values: NDArray[np.uint64], rows: Count, columns: Count, round_keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Encrypt values on one grid with keys (ROUNDS,), or each on its own with keys (ROUNDS, n)."""
    row, column = values // columns, values % columns
    for i, key in enumerate(round_keys):
        if i % 2:
            column = (column + _mix(row + key) % columns) % columns
        else:
            row = (row + _mix(column + key) % rows) % rows
    return row * columns + column


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))

"""The order of everything rests on this bijection: its values are pinned, its properties
checked.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboshard.common.permute import (
    MAX_SIZE,
    derive_key,
    permute,
    permute_each,
    random_integers,
    random_integers_each,
)

keys = st.binary(min_size=48, max_size=48)

# Computed once with this implementation on x86-64, numpy 2; they must never change: saved orders
# depend on them.
GOLDEN_KEY = "4044a54c0cbeb286c9874e9d9afb39833873d1b328273da1bbc247cd14eeb6f9f157d13a22cc9b9e7ea4038cca6a145e"
GOLDEN = [
    (10, ("episodes", 0, 0), [6, 0, 5, 1, 7, 9, 8, 2, 3, 4]),
    (10, ("episodes", 0, 1), [4, 8, 0, 2, 5, 7, 9, 3, 1, 6]),
    (10, ("episodes", 1, 0), [5, 2, 9, 1, 4, 6, 0, 8, 7, 3]),
    (1000, ("frames", 7, 3), [634, 223, 371, 800, 94, 45, 572, 852, 755, 408]),
]
GOLDEN_LARGE = [
    (10**9 + 7, [776475199, 36215531, 435412697, 45349849, 160645815]),
    (10**12, [345891112620, 788017916364, 159434621300, 551113913873, 114131999161]),
    (MAX_SIZE, [114234968934375, 18479185692655, 231239510624826, 267172809541915, 50195815632077]),
]


def whole(size: int, key: bytes) -> list[int]:
    result: list[int] = permute(np.arange(size), size, key).tolist()
    return result


@pytest.mark.parametrize(("size", "purpose", "first"), GOLDEN)
def test_orders_are_pinned(size: int, purpose: tuple[str, int, int], first: list[int]) -> None:
    assert permute(np.arange(10), size, derive_key(*purpose)).tolist() == first


@pytest.mark.parametrize(("size", "expected"), GOLDEN_LARGE)
def test_orders_of_very_many_are_pinned(size: int, expected: list[int]) -> None:
    positions = np.array([0, 1, 2, size // 2, size - 1])
    assert permute(positions, size, derive_key("frames", 42, 1)).tolist() == expected


def test_keys_are_pinned_and_differ_with_all_that_they_are_made_of() -> None:
    assert derive_key("episodes", 0, 0).hex() == GOLDEN_KEY
    made = [
        derive_key(*of)
        for of in (("a", 1, 2), ("a", 2, 1), ("a", 12), ("a", 1), ("a",), ("b", 1, 2), ("a", -1, 2))
    ]
    assert len(set(made)) == len(made)
    assert derive_key("a", 1, 23) != derive_key("a", 12, 3)


def test_it_is_a_bijection_for_every_small_size() -> None:
    for size in range(1, 5001):
        images = permute(np.arange(size), size, derive_key("bijection", size))
        assert np.array_equal(np.bincount(images, minlength=size), np.ones(size)), size


@given(st.integers(1, MAX_SIZE), keys, st.data())
def test_different_positions_have_different_images_in_range(
    size: int, key: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, size - 1))
    run = np.arange(start, min(size, start + 500))
    spread = data.draw(st.lists(st.integers(0, size - 1), max_size=50))
    positions = np.unique(np.concatenate([run, np.array(spread, dtype=np.int64)]))
    images = permute(positions, size, key)
    assert len(np.unique(images)) == len(positions)
    assert images.min() >= 0
    assert images.max() < size


@given(st.integers(1, 3000), keys, st.data())
def test_any_positions_at_once_give_what_the_whole_gives(
    size: int, key: bytes, data: st.DataObject
) -> None:
    positions = data.draw(st.lists(st.integers(0, size - 1)))
    all_images = whole(size, key)
    assert permute(np.array(positions, dtype=np.int64), size, key).tolist() == [
        all_images[i] for i in positions
    ]
    assert [permute(np.array([i]), size, key)[0] for i in positions[:3]] == [
        all_images[i] for i in positions[:3]
    ]


def test_no_positions_are_no_images_and_shapes_of_one_are_kept() -> None:
    assert permute(np.array([], dtype=np.int64), 5, derive_key("a")).shape == (0,)
    assert permute(np.arange(5), 5, derive_key("a")).dtype == np.int64


@pytest.mark.parametrize("size", [0, -1, MAX_SIZE + 1])
def test_a_size_that_cannot_be_permuted_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"size must be in 1\.\.2\*\*48"):
        permute(np.array([0]), size, derive_key("a"))


@pytest.mark.parametrize("position", [-1, 10, 1 << 60])
def test_a_position_outside_is_refused(position: int) -> None:
    with pytest.raises(ValueError, match=r"positions must be in 0\.\.9"):
        permute(np.array([0, position]), 10, derive_key("a"))


# -- It looks random. All of this is fixed by the keys: no run can differ from another. ------------


@pytest.mark.parametrize("size", [20, 100, 1000])
def test_every_position_goes_everywhere_equally_often(size: int) -> None:
    epochs = 20 * size
    first, last = (
        np.bincount(
            [permute(np.array([at]), size, derive_key("epoch", e))[0] for e in range(epochs)],
            minlength=size,
        )
        for at in (0, size - 1)
    )
    for counts in (first, last):
        chi_square = ((counts - 20) ** 2 / 20).sum()
        assert abs(chi_square - (size - 1)) < 5 * np.sqrt(2 * (size - 1))


@pytest.mark.parametrize("size", [1000, 100_000])
def test_neighbours_do_not_stay_neighbours(size: int) -> None:
    for epoch in range(5):
        images = np.array(whole(size, derive_key("epoch", epoch)))
        assert abs(np.corrcoef(np.arange(size), images)[0, 1]) < 5 / np.sqrt(size)
        assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 5 / np.sqrt(size)
        assert (np.abs(np.diff(images)) == 1).sum() < 15  # 2 are expected of a random order
        assert (images == np.arange(size)).sum() < 10  # 1 is expected


def test_epochs_and_seeds_have_nothing_to_do_with_each_other() -> None:
    orders = np.array(
        [
            whole(1000, derive_key("episodes", seed, epoch))
            for seed in range(6)
            for epoch in range(6)
        ]
    )
    correlations = np.corrcoef(orders)[np.triu_indices(36, k=1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(1000)


@given(
    st.lists(st.one_of(st.integers(1, 70), st.integers(1, MAX_SIZE)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, MAX_SIZE)), max_size=40),
)
def test_many_bijections_at_once_are_those_that_there_are_one_by_one(
    sizes: list[int], asked: list[tuple[int, int]]
) -> None:
    keys = [derive_key("each", number) for number in range(len(sizes))]
    group = np.asarray([which % len(sizes) for which, _ in asked], dtype=np.int64)
    positions = np.asarray(
        [place % sizes[which % len(sizes)] for which, place in asked], dtype=np.int64
    )
    expected = [
        int(permute(positions[i : i + 1], sizes[which], keys[which])[0])
        for i, which in enumerate(group.tolist())
    ]
    assert permute_each(positions, group, sizes, keys).tolist() == expected
    drawn = random_integers_each(9, keys)
    assert np.array_equal(drawn, np.stack([random_integers(9, key) for key in keys]))

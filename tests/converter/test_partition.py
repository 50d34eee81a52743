"""Planning: every chosen episode is in one shard, in order, and shards are about as large as asked
for.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from roboshard.common.selection import select_episodes
from roboshard.converter.partition import plan_shards, shuffle_episodes
from roboshard.shards import OptionError

SIZES = st.lists(st.integers(1, 20), max_size=80).map(lambda sizes: np.array(sizes, dtype=np.int64))
TARGETS = st.integers(1, 60)
INDICES = st.sets(st.integers(0, 200), min_size=1).map(
    lambda indices: np.array(sorted(indices), dtype=np.int64)
)


@given(SIZES, TARGETS)
def test_shards_hold_every_episode_once_in_order(sizes: NDArray[np.int64], target: int) -> None:
    shards = plan_shards(sizes, target)
    assert [i for shard in shards for i in range(shard.start, shard.stop)] == list(
        range(len(sizes))
    )
    assert all(shard.stop > shard.start for shard in shards)


@given(SIZES, TARGETS)
def test_a_shard_passes_the_target_only_for_one_large_episode(
    sizes: NDArray[np.int64], target: int
) -> None:
    for shard in plan_shards(sizes, target):
        assert sizes[shard].sum() <= target or shard.stop - shard.start == 1


@given(SIZES, TARGETS)
def test_no_shard_is_closed_before_it_must_be(sizes: NDArray[np.int64], target: int) -> None:
    for shard in plan_shards(sizes, target)[:-1]:
        assert sizes[shard].sum() + sizes[shard.stop] > target


def test_an_episode_larger_than_the_target_has_a_shard_of_its_own() -> None:
    sizes = np.array([10, 10, 500, 10, 10, 90, 20])
    assert plan_shards(sizes, 100) == [
        slice(0, 2),
        slice(2, 3),
        slice(3, 5),
        slice(5, 6),
        slice(6, 7),
    ]


def test_a_total_beyond_32_bits_is_counted_right() -> None:
    sizes = np.full(1000, 3 << 30, dtype=np.int64)
    assert len(plan_shards(sizes, 1 << 40)) == 3  # 341 of 3 GiB to 1 TiB


# -- Choosing episodes -----------------------------------------------------------------------------


@given(INDICES, st.data())
def test_chosen_episodes_are_ascending_and_each_there_once(
    available: NDArray[np.int64], data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(available.tolist()), min_size=1))
    found = select_episodes(available, [range(index, index + 1) for index in chosen])
    assert found.tolist() == sorted(set(chosen))


@given(
    INDICES, st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300)), min_size=1, max_size=5)
)
def test_an_episode_that_does_not_exist_is_named(
    available: NDArray[np.int64], chosen: list[tuple[int, int]]
) -> None:
    ranges = [range(start, start + count) for start, count in chosen]
    wanted = {index for r in ranges for index in r}
    unknown = wanted - set(available.tolist())
    if not unknown:
        assert select_episodes(available, ranges).tolist() == sorted(wanted)
        return
    with pytest.raises(OptionError, match=f"episode {min(unknown)} was chosen and does not exist"):
        select_episodes(available, ranges)


def test_all_episodes_are_chosen_when_none_is_named() -> None:
    available = np.array([3, 4, 9])
    assert select_episodes(available, None).tolist() == [3, 4, 9]


def test_a_range_far_past_the_end_takes_no_memory() -> None:
    with pytest.raises(
        OptionError, match="episode 3 was chosen and does not exist; the dataset has 3, from 0 to 2"
    ):
        select_episodes(np.arange(3), [range(10**12)])


# -- Shuffling -------------------------------------------------------------------------------------


@given(INDICES, st.integers(0, 2**40))
def test_shuffling_keeps_every_episode(indices: NDArray[np.int64], seed: int) -> None:
    shuffled = shuffle_episodes(indices, seed)
    assert sorted(shuffled.tolist()) == indices.tolist()
    assert shuffled.tolist() == shuffle_episodes(indices, seed).tolist()


def test_seeds_give_different_orders() -> None:
    indices = np.arange(50)
    orders = {tuple(shuffle_episodes(indices, seed).tolist()) for seed in range(20)}
    assert len(orders) == 20
    assert tuple(range(50)) not in orders


def test_the_order_of_a_seed_never_changes() -> None:
    """Recorded from roboshard 0.1.0; the same seed must go on meaning the same shards."""
    assert shuffle_episodes(np.arange(12), 7).tolist() == [6, 1, 4, 3, 2, 11, 9, 10, 7, 5, 0, 8]

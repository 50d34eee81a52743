"""The order of an epoch is a pure function with promises, held here over many topologies."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from roboshard.loader.config import EpisodeOrder, FrameOrder, LoaderConfig, OrderConfig, SplitConfig
from roboshard.loader.epochs import num_own_steps
from roboshard.loader.look_ahead.decode_ahead import LOOK_AHEAD_STEPS
from roboshard.loader.order import teams
from roboshard.loader.order.frame_order import Pool, sweep
from roboshard.loader.order.plan import Draw, Episodes, EpochPlan, Slots
from roboshard.loader.order.teams import (
    MESSAGE_BYTES,
    MESSAGE_STEPS,
    Team,
    by_step,
    in_messages,
    members_of,
    steps_of_message,
    steps_on_their_way,
)
from roboshard.loader.pipeline import (
    DRAWN_SAMPLES,
    DRAWN_STEPS,
    NodeStep,
    draw_epoch,
    draw_samples,
    split_by_node,
)

Frame = tuple[int, int]  # position of the episode, row

SHARED = settings(deadline=None)


@dataclass(frozen=True)
class Setup:
    """All that an order depends on."""

    episodes: Episodes
    order: OrderConfig
    slots: Slots
    epoch: int = 0

    @property
    def plan(self) -> EpochPlan:
        return EpochPlan(self.episodes, self.order, self.slots, self.epoch)

    @property
    def frames(self) -> list[Frame]:
        """All frames in dataset order."""
        e = self.episodes
        return [
            (int(e.position[i]), int(e.first_row[i]) + row)
            for i in range(len(e))
            for row in range(int(e.num_rows[i]))
        ]

    @property
    def every_slot(self) -> range:
        return range(self.slots.rank_slots)


def episodes_of(
    lengths: Sequence[int], *, drop_first: int = 0, shards: Sequence[int] | None = None
) -> Episodes:
    """Every second episode of a dataset; within a shard later ones are stored first."""
    num = len(lengths)
    shard = np.asarray(shards if shards is not None else np.arange(num) // 4, dtype=np.int64)
    return Episodes(
        position=np.arange(num, dtype=np.int64) * 2,
        first_row=np.full(num, drop_first, dtype=np.int64),
        num_rows=np.asarray(lengths, dtype=np.int64),
        storage_rank=np.argsort(np.lexsort((-np.arange(num), shard))).astype(np.int64),
        shard=shard,
    )


def frames_of(draw: Draw) -> list[Frame]:
    return list(zip(draw.positions.tolist(), draw.rows.tolist(), strict=True))


def all_steps(setup: Setup, plan: EpochPlan | None = None) -> list[list[Frame]]:
    plan = plan or setup.plan
    return [frames_of(plan.step(step, setup.every_slot)) for step in range(plan.num_steps)]


def lane_frames(setup: Setup, lane: int) -> list[Frame]:
    """What a lane emits from its first place to its last."""
    start, stop = setup.plan.lane_bounds(lane)
    positions, rows, _ = setup.plan.lane_samples(lane, np.arange(stop - start))
    return list(zip(positions.tolist(), rows.tolist(), strict=True))


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@st.composite
def setups(draw: st.DrawFn, *, shuffle: bool | None = None) -> Setup:
    slots = Slots(
        rank_slots=(ranks := draw(st.sampled_from([1, 2, 3, 4, 6]))),
        global_batch_size=ranks * draw(st.integers(1, 6)),
    )
    order = OrderConfig(
        shuffle=draw(st.booleans()) if shuffle is None else shuffle,
        seed=draw(st.integers(0, 2**63 - 1)),
        pool_episodes=draw(st.integers(1, 20)),
        episode_order=draw(st.sampled_from(["global", "shard"])),
        frame_order=draw(st.sampled_from(["uniform", "sweep"])),
        drop_last=draw(st.booleans()),
    )
    lengths = draw(st.lists(st.integers(1, 25), min_size=1, max_size=20))
    episodes = episodes_of(lengths, drop_first=draw(st.integers(0, 3)))
    return Setup(episodes, order, slots, draw(st.integers(0, 5)))


# -- Every frame once, in steps that fit every topology --------------------------------------------


@SHARED
@given(setups())
def test_every_frame_is_drawn_once_per_epoch_apart_from_reported_padding(setup: Setup) -> None:
    steps, plan, batch = all_steps(setup), setup.plan, setup.slots.global_batch_size
    counts, frames = Counter(chain(*steps)), setup.frames
    assert set(counts) <= set(frames)
    assert all(len(step) == batch for step in steps[:-1])
    if setup.order.drop_last:
        assert all(count == 1 for count in counts.values())
        assert all(len(step) == batch for step in steps)
        assert len(frames) - len(counts) < batch
        assert plan.num_padded == 0
    else:
        assert set(counts) == set(frames)
        assert counts.total() - len(frames) == plan.num_padded < setup.slots.rank_slots
        repeated = {frame for frame, count in counts.items() if count > 1}
        assert repeated <= set(steps[-1])
        assert Counter(chain(*steps[:-1])).keys().isdisjoint(steps[-1])


@SHARED
@given(setups())
def test_every_world_size_that_divides_the_rank_slots_gets_the_same_global_batches(
    setup: Setup,
) -> None:
    plan, num_slots = setup.plan, setup.slots.rank_slots
    for world_size in divisors(num_slots):
        by_rank = [
            [
                (node.step, frames_of(plan.step(node.step, node.rank_slots)))
                for node in split_by_node(range(plan.num_steps), config_of(setup, rank, world_size))
            ]
            for rank in range(world_size)
        ]
        assert {len(steps) for steps in by_rank} == {plan.num_steps}
        for step, expected in enumerate(all_steps(setup, plan)):
            shares = [steps[step] for steps in by_rank]
            assert {number for number, _ in shares} == {step}
            assert len({len(frames) for _, frames in shares}) == 1
            assert list(chain(*(frames for _, frames in shares))) == expected


def config_of(setup: Setup, rank: int, world_size: int) -> LoaderConfig:
    batch = setup.slots.global_batch_size // world_size
    split = SplitConfig(
        batch_size=batch, rank=rank, world_size=world_size, max_world_size=setup.slots.rank_slots
    )
    return cast(LoaderConfig, SimpleNamespace(split=split))


@SHARED
@given(setups(), st.data())
def test_any_number_of_workers_of_any_world_size_gives_the_same_steps_in_turn(
    setup: Setup, data: st.DataObject
) -> None:
    """However many of them make each step together."""
    plan = setup.plan
    first = data.draw(st.integers(0, plan.num_steps), label="resumed at")
    world_size = data.draw(st.sampled_from(divisors(setup.slots.rank_slots)), label="ranks")
    for num_workers in (0, 1, 2, 3, 7, 16):
        ranks = []
        members = data.draw(st.sampled_from(divisors(max(1, num_workers))), label="members")
        for rank in range(world_size):
            config, drawn = config_of(setup, rank, world_size), []
            for worker in range(max(1, num_workers)):
                team = Team.of(worker, max(1, num_workers), members)
                drawn.append(list(draw_epoch(plan, first, config, team).run()))
                assert num_own_steps(plan, first, team) == len(drawn[-1])
            # torch's DataLoader asks worker 0 first, then 1, 2, ...
            parts = [draw for turn in zip_longest(*drawn) for draw in turn if draw]
            ranks.append(list(map(whole, *(parts[member::members] for member in range(members)))))
        steps = [list(chain(*map(frames_of, shares))) for shares in zip(*ranks, strict=True)]
        assert steps == all_steps(setup, plan)[first:]


@given(
    num_steps=st.integers(0, 60),
    number_of_teams=st.integers(1, 5),
    members=st.integers(1, 4),
    most=st.integers(1, 8),
)
def test_steps_come_in_order_however_many_of_them_a_message_holds(
    num_steps: int, number_of_teams: int, members: int, most: int
) -> None:
    """As torch's DataLoader collects: in turn of each worker, until it has no more."""
    of_workers = [
        [
            ([(step, member) for step in message], (team, member))
            for message in in_messages(
                range(team, num_steps, number_of_teams),
                len(range(team, num_steps, number_of_teams)),
                most,
            )
        ]
        for team in range(number_of_teams)
        for member in range(members)
    ]
    messages = [message for turn in zip_longest(*of_workers) for message in turn if message]
    found = list(by_step(iter(messages), number_of_teams, members))
    assert [parts for parts, _ in found] == [
        tuple((step, member) for member in range(members)) for step in range(num_steps)
    ]
    assert [note for _, notes in found for note in notes] == [note for _, note in messages]


def whole(*parts: Draw) -> Draw:
    """The step that the members of a team have made these parts of."""
    shares = [part.share for part in parts if part.share is not None]
    if not shares:
        (only,) = parts
        return only
    assert len({(share.epoch, share.step, share.size) for share in shares}) == 1
    places = np.concatenate([share.places for share in shares])
    assert sorted(places.tolist()) == list(range(shares[0].size))
    positions, rows = np.empty_like(places), np.empty_like(places)
    positions[places] = np.concatenate([part.positions for part in parts])
    rows[places] = np.concatenate([part.rows for part in parts])
    return Draw(step=shares[0].step, positions=positions, rows=rows)


def test_a_step_that_was_given_is_held_by_nobody() -> None:
    """Or each batch would stay in memory until the next one is asked for."""

    class Item:
        pass

    messages = (([Item() for _ in range(number)], "note") for number in (1, 2, 1))
    steps = by_step(messages, 1, members=1)
    for _ in range(4):
        given = weakref.ref(next(steps)[0][0])
        assert given() is None


@SHARED
@given(setups(), st.integers(2, 5))
def test_each_member_has_every_so_many_th_episode_of_the_tape(setup: Setup, members: int) -> None:
    """So frames that are decoded together are one worker's, and of a pool each has its share."""
    plan = setup.plan
    owners: dict[int, int] = {}
    positions: dict[int, int] = {}
    assume(plan.num_steps)
    draws = plan.steps(range(plan.num_steps), setup.every_slot)
    for member in range(members):
        for part in Team.of(member, members, members).parts(draws, 0):
            for turn, position in zip(part.turns.tolist(), part.positions.tolist(), strict=True):
                assert owners.setdefault(turn, member) == member
                assert positions.setdefault(turn, position) == position
    assert set(owners) == {int(turn) for draw in draws for turn in draw.turns}
    assert all(owner == turn % members for turn, owner in owners.items())


@given(
    num_workers=st.integers(0, 64),
    batch_size=st.integers(1, 512),
    pixels=st.integers(0, 1 << 20),
    least=st.sampled_from([0, 1000, 200_000]),
)
def test_a_team_divides_the_workers_and_leaves_each_enough_to_do(
    num_workers: int, batch_size: int, pixels: int, least: int
) -> None:
    def is_enough(members: int) -> bool:
        return members <= batch_size and batch_size * pixels >= members * least

    with patch.object(teams, "LEAST_PIXELS", least):
        members = members_of(num_workers, batch_size, pixels)
    assert max(1, num_workers) % members == 0
    assert members == 1 or is_enough(members)
    assert not any(map(is_enough, [m for m in divisors(max(1, num_workers)) if m > members]))


@given(
    items=st.lists(st.integers(), max_size=100),
    batch_bytes=st.integers(0, 1 << 27),
)
def test_messages_hold_everything_in_order(items: list[int], batch_bytes: int) -> None:
    most = steps_of_message(batch_bytes)
    assert 1 <= most <= MESSAGE_STEPS
    assert most == 1 or most * batch_bytes <= MESSAGE_BYTES
    remaining = iter([*items, "of the next epoch"])
    messages = list(in_messages(remaining, len(items), most))
    assert list(remaining) == ["of the next epoch"]
    assert list(chain(*messages)) == items
    assert [len(message) for message in messages[:1]] == [1] * bool(items)
    assert all(1 <= len(message) <= most for message in messages)


@given(
    num_workers=st.integers(1, 128),
    batch_size=st.integers(1, 2048),
    pixels=st.integers(1, 1 << 20),
)
@example(num_workers=24, batch_size=64, pixels=96 * 96)
def test_all_steps_of_a_message_have_memory_before_the_first_of_them_comes(
    num_workers: int, batch_size: int, pixels: int
) -> None:
    members = members_of(num_workers, batch_size, pixels)
    number_of_teams = num_workers // members
    most = steps_of_message(3 * pixels * batch_size)
    spanned = range(0, most * number_of_teams, number_of_teams)[-1] + 1
    assert spanned <= LOOK_AHEAD_STEPS[0] + steps_on_their_way(number_of_teams, most)


@SHARED
@given(setups(), st.randoms(use_true_random=False))
def test_a_step_is_the_same_whenever_it_is_asked_for(setup: Setup, random: Any) -> None:
    in_order = all_steps(setup)
    steps = list(range(len(in_order)))
    random.shuffle(steps)
    for step in steps[:10]:
        assert frames_of(setup.plan.step(step, setup.every_slot)) == in_order[step]
        assert setup.plan.step(step, [0]).step == step


@SHARED
@given(setups(), st.data())
def test_steps_that_are_drawn_in_one_go_are_the_same(setup: Setup, data: st.DataObject) -> None:
    one_by_one, plan = all_steps(setup), setup.plan
    chosen = data.draw(
        st.lists(st.integers(0, plan.num_steps - 1), min_size=1) if plan.num_steps else st.nothing()
    )
    draws = plan.steps(chosen, setup.every_slot)
    assert [draw.step for draw in draws] == chosen
    assert [frames_of(draw) for draw in draws] == [one_by_one[step] for step in chosen]


@given(
    sizes=st.tuples(st.integers(1, 200_000), st.integers(1, 2_000)),
    taken=st.integers(1, 200),
)
def test_no_more_than_a_bounded_number_of_samples_is_drawn_ahead(
    sizes: tuple[int, int], taken: int
) -> None:
    batch_size, num_steps = sizes
    drawn: list[int] = []

    class Steps:
        epoch = 0

        def steps(self, steps: Sequence[int], rank_slots: Sequence[int]) -> list[Draw]:
            drawn.extend(steps)
            return [
                Draw(step=step, positions=np.empty(0), rows=np.broadcast_to(0, batch_size))
                for step in steps
            ]

    nodes = (NodeStep(step, range(1)) for step in range(num_steps))
    given_out = []
    for draw in islice(draw_samples(nodes, cast(EpochPlan, Steps()), Team()), taken):
        given_out.append(draw.step)
        ahead = len(drawn) - len(given_out)
        assert ahead <= max(len(given_out), 1), "the first ones are not waited for"
        assert not ahead or (ahead + 1) * batch_size <= DRAWN_SAMPLES
        assert ahead < DRAWN_STEPS
    assert given_out == list(range(min(taken, num_steps)))


@SHARED
@given(setups(shuffle=True))
def test_lanes_are_equal_and_mix_no_more_episodes_than_a_pool_holds(setup: Setup) -> None:
    lanes = [lane_frames(setup, lane) for lane in setup.every_slot]
    assert sorted(chain(*lanes)) == setup.frames
    assert max(map(len, lanes)) - min(map(len, lanes)) <= 1
    for lane in lanes:
        first = {position: i for i, (position, _) in reversed(list(enumerate(lane)))}
        last = {position: i for i, (position, _) in enumerate(lane)}
        for i in range(len(lane)):
            assert sum(first[position] <= i <= last[position] for position in first) <= (
                setup.order.pool_episodes
            )


@SHARED
@given(setups(shuffle=True))
def test_full_steps_take_the_next_samples_of_their_lanes(setup: Setup) -> None:
    plan, slots = setup.plan, setup.slots
    lanes = [lane_frames(setup, lane) for lane in setup.every_slot]
    for step in range(plan.num_full_steps):
        for rank_slot, lane in enumerate(lanes):
            expected = lane[step * slots.per_rank_slot : (step + 1) * slots.per_rank_slot]
            assert frames_of(plan.step(step, [rank_slot])) == expected
    assert plan.num_left_over < slots.global_batch_size


@given(setups(shuffle=False))
def test_without_shuffling_one_rank_sees_dataset_order(setup: Setup) -> None:
    one = replace(setup, slots=replace(setup.slots, rank_slots=1))
    drawn = list(chain(*all_steps(one)))
    assert drawn == setup.frames[: len(drawn)]


@given(setups(), st.integers(1, 100))
def test_steps_that_there_are_not_are_refused(setup: Setup, beyond: int) -> None:
    plan = setup.plan
    for step in (-beyond, plan.num_steps + beyond - 1):
        with pytest.raises(IndexError, match=str(step)):
            plan.step(step, [0])


# -- Which order it is -----------------------------------------------------------------------------


@given(setups(shuffle=True), st.integers(0, 2**62))
def test_seeds_and_epochs_give_different_orders(setup: Setup, seed: int) -> None:
    assume(len(setup.frames) > 40)
    assume(len(setup.frames) >= 4 * setup.slots.global_batch_size)
    lengths = setup.episodes.num_rows
    assume(setup.order.frame_order == "uniform" or (len(lengths) > 4 and lengths.min() > 2))
    assume(seed != setup.order.seed)
    order = all_steps(setup)
    assert all_steps(replace(setup, epoch=setup.epoch + 1)) != order
    assert all_steps(replace(setup, order=replace(setup.order, seed=seed))) != order


@given(setups(shuffle=True))
def test_shard_order_reads_one_shard_after_the_other_as_it_is_stored(setup: Setup) -> None:
    order = replace(setup.order, episode_order="shard", pool_episodes=1, drop_last=False)
    slots = Slots(rank_slots=1, global_batch_size=1)
    drawn = chain(*all_steps(replace(setup, order=order, slots=slots)))
    episodes = [position // 2 for position in dict.fromkeys(position for position, _ in drawn)]
    shards = setup.episodes.shard[episodes]
    assert len(np.flatnonzero(np.diff(shards))) == len(set(shards.tolist())) - 1
    for shard in set(shards.tolist()):
        inside = [episode for episode in episodes if setup.episodes.shard[episode] == shard]
        assert inside == sorted(
            inside, key=lambda episode: int(setup.episodes.storage_rank[episode])
        )


PINNED: dict[tuple[EpisodeOrder, FrameOrder, int], list[list[Frame]]] = {
    ("global", "uniform", 1): [
        [(8, 2), (6, 1), (0, 2), (0, 1)],
        [(4, 0), (0, 0), (4, 2), (8, 1)],
        [(4, 1), (8, 0), (6, 0), (4, 3)],
        [(2, 0)],
    ],
    ("global", "uniform", 2): [
        [(8, 2), (6, 1), (4, 0), (4, 2)],
        [(0, 0), (8, 1), (2, 0), (0, 1)],
        [(8, 0), (6, 0), (0, 2), (4, 1)],
        [(4, 3), (4, 3)],
    ],
    ("shard", "uniform", 1): [
        [(8, 0), (0, 0), (6, 0), (8, 2)],
        [(6, 1), (8, 1), (0, 2), (0, 1)],
        [(2, 0), (4, 1), (4, 3), (4, 2)],
        [(4, 0)],
    ],
    ("global", "sweep", 1): [
        [(4, 0), (4, 1), (0, 1), (8, 0)],
        [(6, 1), (8, 1), (8, 2), (0, 2)],
        [(0, 0), (6, 0), (4, 2), (4, 3)],
        [(2, 0)],
    ],
    ("shard", "sweep", 2): [
        [(8, 1), (0, 0), (4, 3), (4, 0)],
        [(0, 1), (0, 2), (6, 1), (6, 0)],
        [(8, 0), (2, 0), (4, 1), (4, 2)],
        [(8, 2), (8, 2)],
    ],
}


@pytest.mark.parametrize(("episode_order", "frame_order", "rank_slots"), list(PINNED))
def test_orders_never_change(
    episode_order: EpisodeOrder, frame_order: FrameOrder, rank_slots: int
) -> None:
    order = OrderConfig(
        seed=7, pool_episodes=4, episode_order=episode_order, frame_order=frame_order
    )
    slots = Slots(rank_slots=rank_slots, global_batch_size=4)
    found = all_steps(
        Setup(episodes_of((3, 1, 4, 2, 3), shards=(0, 0, 1, 1, 2)), order, slots, epoch=2)
    )
    assert found == PINNED[episode_order, frame_order, rank_slots]


# -- Size ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_order", ["uniform", "sweep"])
@pytest.mark.parametrize("episode_order", ["global", "shard"])
def test_a_million_episodes_of_a_million_frames(
    episode_order: EpisodeOrder, frame_order: FrameOrder
) -> None:
    num = 10**6
    order = OrderConfig(episode_order=episode_order, frame_order=frame_order)
    episodes = episodes_of(np.full(num, 10**6).tolist(), shards=(np.arange(num) // 100).tolist())
    setup = Setup(episodes, order, Slots(rank_slots=16, global_batch_size=1024))
    plan = setup.plan
    assert plan.num_frames == 10**12
    assert plan.num_steps == -(-(10**12) // 1024)
    for step in (0, 1, plan.num_steps // 2, plan.num_steps - 1):
        frames = frames_of(plan.step(step, setup.every_slot))
        assert len(set(frames)) == len(frames)
        assert all(position // 2 < num and row < 10**6 for position, row in frames)


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    asked=st.lists(st.lists(st.integers(0, 10**6), max_size=7), max_size=5),
)
def test_a_sweep_gives_the_same_whatever_else_is_asked(
    lengths: list[int], asked: list[list[int]]
) -> None:
    bounds = np.cumsum([0, *lengths])
    size = int(bounds[-1])
    pools = [Pool(0, size, bounds, (3, 1, 0, 2))]
    everything = sweep(np.arange(size), np.zeros(size, dtype=np.int64), pools)
    assert sorted(everything.tolist()) == list(range(size))
    for numbers in asked:
        places = np.asarray([number % size for number in numbers], dtype=np.int64)
        assert np.array_equal(sweep(places, np.zeros_like(places), pools), everything[places])

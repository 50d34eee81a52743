"""Where a loader stands: epochs, restarts, checkpoints, and the same stream from any number of
workers and ranks.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.slowly import slowly

from roboshard.loader import Loader, make_loader
from roboshard.shards import OptionError, ShardedDataset

FRAMES = 644
Batch = dict[str, Any]
Order = list[list[int]]  # `index` of every sample, batch by batch


def rows(root: Path, **options: Any) -> Loader:
    """A loader that decodes nothing: orders are all that matters."""
    defaults: dict[str, Any] = {"batch_size": 16, "cameras": [], "pool_episodes": 4}
    return make_loader(str(root), **(defaults | options))


def order_of(batches: Iterable[Batch]) -> Order:
    return [batch["index"].tolist() for batch in batches]


def flat(order: Order) -> list[int]:
    return [index for batch in order for index in batch]


def take(loader: Loader, count: int) -> Order:
    """Some batches; then the iteration is abandoned."""
    return order_of(batch for _, batch in zip(range(count), loader, strict=False))


# -- Epochs ----------------------------------------------------------------------------------------


def test_epochs_advance_by_themselves_and_have_orders_of_their_own(pusht_shards: Path) -> None:
    loader = rows(pusht_shards)
    orders = []
    for epoch in range(3):
        assert loader.epoch == epoch
        orders.append(order_of(loader))
    assert all(sorted(flat(order)) == list(range(FRAMES)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    loader.set_epoch(1)
    assert order_of(loader) == orders[1]
    other = rows(pusht_shards)
    other.set_epoch(2)
    assert order_of(other) == orders[2]
    assert order_of(rows(pusht_shards, seed=1)) != orders[0]


def test_without_shuffling_every_epoch_is_the_same(pusht_shards: Path) -> None:
    loader = rows(pusht_shards, shuffle=False)
    assert flat(order_of(loader)) == flat(order_of(loader)) == list(range(FRAMES))


def test_a_negative_epoch_is_refused(pusht_shards: Path) -> None:
    with pytest.raises(OptionError, match="epoch must not be negative: -1"):
        rows(pusht_shards).set_epoch(-1)


def test_an_abandoned_iteration_starts_again_at_the_beginning_of_its_epoch(
    pusht_shards: Path,
) -> None:
    loader, whole = rows(pusht_shards), order_of(rows(pusht_shards))
    assert take(loader, 5) == whole[:5]
    assert take(loader, 7) == whole[:7]
    assert loader.epoch == 0
    assert order_of(loader) == whole


def test_an_iteration_left_after_its_last_step_has_completed_its_epoch(pusht_shards: Path) -> None:
    loader, reference = rows(pusht_shards), rows(pusht_shards)
    epochs = [order_of(reference) for _ in range(2)]
    assert take(loader, len(loader)) == epochs[0]
    assert loader.epoch == 1
    assert take(loader, len(loader)) == epochs[1]


def test_an_epoch_that_is_set_comes_next_though_the_last_one_was_left_after_its_last_step(
    pusht_shards: Path,
) -> None:
    loader = rows(pusht_shards)
    first = next(iter(loader))["index"].tolist()
    for _ in range(3):
        loader.set_epoch(0)
        iteration = iter(loader)
        found = [next(iteration)["index"].tolist() for _ in range(len(loader))]
        assert found[0] == first


def test_a_second_iteration_ends_the_first(pusht_shards: Path) -> None:
    loader, whole = rows(pusht_shards), order_of(rows(pusht_shards))
    first = iter(loader)
    next(first)
    second = iter(loader)
    assert next(second)["index"].tolist() == whole[0]
    with pytest.raises(OptionError, match="this iteration is over: another one has begun"):
        next(first)
    assert order_of(second) == whole[1:]


# -- Checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_order", ["uniform", slowly("sweep")])
@pytest.mark.parametrize("epoch", [slowly(0), 3])
def test_a_state_taken_at_any_step_continues_exactly_in_a_new_loader(
    pusht_shards: Path, epoch: int, frame_order: str
) -> None:
    options: dict[str, Any] = {"batch_size": 50, "frame_order": frame_order}
    loader = rows(pusht_shards, **options)
    loader.set_epoch(epoch)
    states, whole = [json.dumps(loader.state_dict())], []
    for batch in loader:
        whole.append(batch["index"].tolist())
        states.append(json.dumps(loader.state_dict()))
    following = order_of(loader)
    for step, state in enumerate(states):
        resumed = rows(pusht_shards, **options)
        resumed.load_state_dict(json.loads(state))
        assert json.dumps(resumed.state_dict()) == state or step == len(whole)
        if step < len(whole):
            assert order_of(resumed) == whole[step:]
        assert order_of(resumed) == following
        assert resumed.epoch == epoch + 2


def test_a_loaded_state_is_used_once(pusht_shards: Path) -> None:
    loader, whole = rows(pusht_shards), order_of(rows(pusht_shards))
    take(loader, 6)
    loader.load_state_dict(rows(pusht_shards).state_at(6, world_size=1, batch_size=16))
    assert take(loader, 3) == whole[6:9]
    assert order_of(loader) == whole


def test_setting_the_epoch_of_a_loaded_state_keeps_its_step_and_another_does_not(
    pusht_shards: Path,
) -> None:
    reference = rows(pusht_shards)
    epochs = [order_of(reference) for _ in range(3)]
    state = rows(pusht_shards).state_at(len(reference) + 4, world_size=1, batch_size=16)
    loader = rows(pusht_shards)
    loader.load_state_dict(state)
    loader.set_epoch(1)
    assert order_of(loader) == epochs[1][4:]
    loader.load_state_dict(state)
    loader.set_epoch(2)
    assert order_of(loader) == epochs[2]


def test_of_an_epoch_that_a_state_was_at_the_end_of_nothing_is_left(pusht_shards: Path) -> None:
    loader, reference = rows(pusht_shards), rows(pusht_shards)
    epochs = [order_of(reference) for _ in range(2)]
    for _ in loader:
        state = loader.state_dict()
    for by_trainer in (True, False):
        resumed = rows(pusht_shards)
        resumed.load_state_dict(state)
        if by_trainer:
            resumed.set_epoch(0)
            assert order_of(resumed) == []
        assert order_of(resumed) == epochs[1]


def test_a_trainers_step_is_enough_to_continue(pusht_shards: Path) -> None:
    reference = rows(pusht_shards, batch_size=4)
    everything = order_of(reference) + order_of(reference)
    for step in (0, 1, len(reference) - 1, len(reference), len(reference) + 3):
        loader = rows(pusht_shards, batch_size=4)
        loader.load_state_dict(loader.state_at(step, world_size=2, batch_size=2))
        assert loader.epoch == step // len(reference)
        assert next(iter(loader))["index"].tolist() == everything[step]
    with pytest.raises(OptionError, match=r"2 x 4 = 8 samples a step; this loader has 4"):
        rows(pusht_shards, batch_size=4).state_at(3, world_size=2, batch_size=4)
    with pytest.raises(OptionError, match="step must not be negative"):
        rows(pusht_shards, batch_size=4).state_at(-1, world_size=1, batch_size=4)


def test_a_state_is_small_plain_and_the_same_on_every_rank(pusht_shards: Path) -> None:
    loaders = [rows(pusht_shards, rank=rank, world_size=4) for rank in range(4)]
    for loader in loaders:
        take(loader, 3)
    states = {json.dumps(loader.state_dict(), sort_keys=True) for loader in loaders}
    assert len(states) == 1
    assert len(states.pop()) < 1000


DIFFERENT: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 8}, "global_batch_size is 8 now and 16 in the state"),
    ({"seed": 1}, "seed is 1 now and 0 in the state"),
    ({"shuffle": False}, "shuffle is False now and True in the state"),
    ({"pool_episodes": 5}, "pool_episodes is 5 now and 4 in the state"),
    ({"episode_order": "shard"}, "episode_order is 'shard' now and 'global' in the state"),
    ({"frame_order": "sweep"}, "frame_order is 'sweep' now and 'uniform' in the state"),
    ({"drop_last": True}, "drop_last is True now and False in the state"),
    ({"batch_size": 8, "rank": 0, "world_size": 2}, "rank_slots is 2 now and 1 in the state"),
    ({"episodes": range(5)}, "selection is '"),
    ({"drop_n_first_frames": 1}, "selection is '"),
]


@pytest.mark.parametrize(
    ("options", "reason"), DIFFERENT, ids=[str(options) for options, _ in DIFFERENT]
)
def test_a_state_of_another_order_is_refused_with_the_reason(
    pusht_shards: Path, options: dict[str, Any], reason: str
) -> None:
    state = rows(pusht_shards).state_dict()
    loader = rows(pusht_shards, **options)
    with pytest.raises(
        OptionError, match=f"the state does not fit this loader:(.|\n)*{reason}"
    ) as error:
        loader.load_state_dict(state)
    assert "any number of workers and world sizes that divide 1 will do" in str(error.value)
    assert loader.state_dict()["step"] == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fingerprint": "0" * 64}, "fingerprint is '"),
        ({"version": 99}, "version is 2 now and 99 in the state"),
        ({"epoch": -1}, "epoch -1 is not an epoch"),
        ({"epoch": "2"}, "epoch '2' is not an epoch"),
        ({"step": 10_000}, r"step 10000 is outside the epoch's 0\.\.41"),
        ({"step": 1.5}, "step 1.5 is outside"),
        ({"steps": 3}, r"fields missing \[\], unknown \['steps'\]"),
    ],
    ids=str,
)
def test_a_state_that_was_tampered_with_is_refused(
    pusht_shards: Path, change: dict[str, Any], reason: str
) -> None:
    loader = rows(pusht_shards)
    with pytest.raises(OptionError, match=reason):
        loader.load_state_dict(loader.state_dict() | change)


STATES = json.loads((Path(__file__).parents[1] / "data/states/0.1.0.json").read_text())


def fitting(root: Path, name: str) -> tuple[Loader, dict[str, Any]]:
    """A loader for a state that a released version saved, and that state."""
    urls = [(str(root), 0.7), (str(root), 0.3)] if name.startswith("mixture") else str(root)
    loader = make_loader(urls, batch_size=16, cameras=[], **STATES[name]["options"])
    # Shards depend on the versions of the libraries that write them, and orders do not.
    return loader, STATES[name]["state"] | {"fingerprint": loader.state_dict()["fingerprint"]}


@pytest.mark.parametrize("name", ["uniform", "sweep", "dataset_order", "mixture"])
def test_a_state_of_a_released_version_resumes(pusht_shards: Path, name: str) -> None:
    loader, state = fitting(pusht_shards, name)
    loader.load_state_dict(state)
    following = []
    for batch, _ in zip(loader, range(3), strict=False):
        datasets = [batch["dataset_index"].tolist()] if "dataset_index" in batch else []
        following.append([batch["index"].tolist(), *datasets])
    assert following == STATES[name]["next_batches"]


@pytest.mark.parametrize("name", ["worker_slots", "mixture_worker_slots"])
def test_a_state_with_several_worker_slots_is_refused_with_the_reason(
    pusht_shards: Path, name: str
) -> None:
    loader, state = fitting(pusht_shards, name)
    slots = state["worker_slots"]
    with pytest.raises(OptionError, match=rf"max_workers, which was {slots}: .* with set_epoch"):
        loader.load_state_dict(state)
    assert loader.state_dict()["step"] == 0


@pytest.mark.parametrize(
    ("batch_size", "step", "told"),
    [
        (8, 14, "at step 14 of 81 of epoch 1: 0 samples are repeated"),
        (32, 4, "at step 4 of 21 of epoch 1: 16 samples are left out of it"),
        (50, 2, "at step 2 of 13 of epoch 1: 12 samples are repeated"),
    ],
)
def test_a_state_of_other_batches_goes_on_at_the_nearest_step(
    pusht_shards: Path, batch_size: int, step: int, told: str
) -> None:
    state = rows(pusht_shards).state_at(41 + 7, world_size=1, batch_size=16)
    loader = rows(pusht_shards, batch_size=batch_size)
    with pytest.raises(OptionError, match="global_batch_size"):
        loader.load_state_dict(state)
    with pytest.warns(UserWarning, match=told):
        loader.load_state_dict(state, strict=False)
    assert (loader.epoch, loader.state_dict()["step"]) == (1, step)
    reference = rows(pusht_shards)
    reference.set_epoch(1)
    assert flat(order_of(loader)) == flat(order_of(reference))[step * batch_size :]


@pytest.mark.parametrize("name", ["uniform", "worker_slots", "mixture", "mixture_worker_slots"])
def test_a_state_of_another_order_goes_on_as_far_into_its_epoch(
    pusht_shards: Path, name: str
) -> None:
    _, state = fitting(pusht_shards, name)
    urls = [(str(pusht_shards), 0.7), (str(pusht_shards), 0.3)]
    where: Any = urls if name.startswith("mixture") else str(pusht_shards)
    loader = make_loader(where, batch_size=8, cameras=[])
    with pytest.warns(
        UserWarning, match=rf"at step {2 * state['step']} of .* order is another one"
    ):
        loader.load_state_dict(state, strict=False)
    assert loader.state_dict()["step"] == 2 * state["step"]
    expected = make_loader(where, batch_size=8, cameras=[])
    assert next(iter(loader))["index"].tolist() == order_of(expected)[2 * state["step"]]


def test_a_state_that_fits_is_loaded_without_a_word_and_one_of_other_data_never(
    pusht_shards: Path,
) -> None:
    loader = rows(pusht_shards)
    state = loader.state_at(5, world_size=1, batch_size=16)
    loader.load_state_dict(state, strict=False)
    assert loader.state_dict() == state
    for change in ({"fingerprint": "0" * 64}, {"version": 99}, {"step": "2"}, {"steps": 3}):
        with pytest.raises(OptionError):
            loader.load_state_dict(state | change, strict=False)
    with pytest.raises(OptionError, match="other data"):
        rows(pusht_shards, episodes=range(5)).load_state_dict(state, strict=False)


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_cursor_is_the_first_sample_of_each_lane_of_the_next_step(
    pusht_shards: Path, world_size: int
) -> None:
    options: dict[str, Any] = {"batch_size": 12 // world_size, "max_world_size": 4}
    options |= {"rank": world_size - 1, "world_size": world_size, "drop_last": True}
    loader = rows(pusht_shards, **options)
    index = ShardedDataset.open(str(pusht_shards)).index
    for _ in range(2):
        cursor = loader.cursor()
        for batch in loader:
            first = batch["index"][::3].tolist()
            for lane, sample in zip(cursor, first, strict=True):
                place = int(np.flatnonzero(index.episode_index == lane.episode_index)[0])
                assert sample == int(index.length[:place].sum()) + lane.frame
                assert lane.offset == int(index.offset[place])
                assert lane.shard.endswith(f"shards/shard-{int(index.shard[place]):06d}.tar")
            slots = [lane.rank_slot for lane in cursor]
            assert slots == list(range(4))[(world_size - 1) * 2 :]
            cursor = loader.cursor()
        assert cursor == loader.cursor(), "after the last step, the next epoch's first one"


def test_in_dataset_order_the_pool_does_not_matter(pusht_shards: Path) -> None:
    loader = rows(pusht_shards, shuffle=False, pool_episodes=7)
    loader.load_state_dict(
        rows(pusht_shards, shuffle=False).state_at(3, world_size=1, batch_size=16)
    )
    assert next(iter(loader))["index"].tolist() == list(range(48, 64))


def test_a_state_loaded_while_iterating_is_refused(pusht_shards: Path) -> None:
    loader = rows(pusht_shards)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(OptionError, match=r"too late: load before `iter\(loader\)`"):
        loader.load_state_dict(loader.state_dict())


# -- Ranks and workers -----------------------------------------------------------------------------


def test_ranks_share_every_epoch_without_overlap(pusht_shards: Path) -> None:
    by_rank = [
        order_of(rows(pusht_shards, batch_size=6, rank=rank, world_size=5)) for rank in range(5)
    ]
    assert len({len(order) for order in by_rank}) == 1
    every = sorted(index for order in by_rank for index in flat(order))
    assert (
        len(every) - FRAMES
        == rows(pusht_shards, batch_size=6, rank=0, world_size=5).num_padded
        == 1
    )
    assert sorted(set(every)) == list(range(FRAMES))


def test_a_run_continues_with_another_world_size(pusht_shards: Path) -> None:
    def run(
        world_size: int, state: dict[str, Any] | None, steps: int
    ) -> tuple[list[list[int]], dict[str, Any]]:
        """Global batches, and the state after them."""
        loaders = [
            rows(
                pusht_shards,
                batch_size=12 // world_size,
                rank=rank,
                world_size=world_size,
                max_world_size=6,
            )
            for rank in range(world_size)
        ]
        if state is not None:
            for loader in loaders:
                loader.load_state_dict(state)
        orders = [take(loader, steps) for loader in loaders]
        batches = [
            [index for share in shares for index in share] for shares in zip(*orders, strict=True)
        ]
        return batches, loaders[0].state_dict()

    whole, _ = run(1, None, 54)
    assert len(whole) == len(rows(pusht_shards, batch_size=12))
    state, found = None, []
    for world_size, steps in ((2, 5), (6, 7), (1, 20), (3, 22)):
        part, state = run(world_size, state, steps)
        found += part
    assert found == whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
def test_any_number_of_workers_goes_on_from_a_state_of_any_other(
    pusht_shards: Path, num_workers: int
) -> None:
    alone = rows(pusht_shards, max_world_size=4, batch_size=20)
    whole, following = order_of(alone), order_of(alone)
    loader = rows(pusht_shards, num_workers=num_workers, max_world_size=4, batch_size=20)
    assert take(loader, 5) == whole[:5]
    for step in (3, 9, len(whole) - 1):
        loader.load_state_dict(alone.state_at(step, world_size=1, batch_size=20))
        assert order_of(loader) == whole[step:]
        assert take(loader, 2) == following[:2]
    loader.load_state_dict(alone.state_at(9, world_size=1, batch_size=20))
    take(loader, 4)
    alone.load_state_dict(loader.state_dict())
    loader.close()
    assert order_of(alone) == whole[13:]


def test_max_workers_is_taken_with_a_warning(pusht_shards: Path) -> None:
    with pytest.warns(DeprecationWarning, match="any number of workers sees the same batches"):
        loader = rows(pusht_shards, max_workers=4)
    assert order_of(loader) == order_of(rows(pusht_shards))


def test_workers_give_the_same_stream_and_continue_from_any_state(pusht_shards: Path) -> None:
    """One pool of two processes serves whole epochs, an abandoned one, and a resumed one."""
    options: dict[str, Any] = {"batch_size": 20, "cameras": None}
    alone, loader = rows(pusht_shards, **options), rows(pusht_shards, num_workers=2, **options)
    for epoch in range(2):
        for one, other in zip(alone, loader, strict=True):
            assert one.keys() == other.keys()
            assert one["task"] == other["task"]
            assert all(torch.equal(one[key], other[key]) for key in one if key != "task")
        if epoch == 0:  # after the second one, frames of the third are among those decoded
            assert loader.stats().frames_used == alone.stats().frames_used == FRAMES
    processes = set(multiprocessing.active_children())
    assert len(processes) == 2
    assert loader.stats().samples == alone.stats().samples == 2 * FRAMES
    assert loader.stats().episodes_read >= len(ShardedDataset.open(str(pusht_shards)).index)
    third = order_of(alone)
    assert take(loader, 4) == third[:4]
    assert take(loader, 1) == third[:1]
    state = loader.state_at(2 * len(loader) + 7, world_size=1, batch_size=20)
    loader.load_state_dict(state)
    assert order_of(loader) == third[7:]
    assert set(multiprocessing.active_children()) == processes
    loader.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_one_worker_gives_the_same_stream_and_starts_again_after_close(pusht_shards: Path) -> None:
    loader, alone = rows(pusht_shards, num_workers=1), rows(pusht_shards)
    first, second = order_of(alone), order_of(alone)
    assert order_of(loader) == first
    assert take(loader, 2) == second[:2]
    loader.close()
    loader.load_state_dict(alone.state_at(len(alone) + 30, world_size=1, batch_size=16))
    assert order_of(loader) == second[30:]
    loader.close()
    assert not multiprocessing.active_children()

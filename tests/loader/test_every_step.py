"""A run goes on from a state taken at any step as if nothing had happened, in other processes and
topologies too.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from support.resume import (
    Checkpoint,
    Restoration,
    Setup,
    Topology,
    check_resume_at_every_step,
    digest,
    record,
)
from support.slowly import slowly

from roboshard.loader import Loader, make_loader
from roboshard.shards import OptionError

SOME_EPISODES = [0, 1, 2, 3, 4, 5]
ROWS_ONLY: dict[str, Any] = {"cameras": []}
# What the last steps of an epoch look like.
SHAPES: dict[str, dict[str, Any]] = {
    "padded": {
        "global_batch_size": 24,
        "max_world_size": 4,
        "options": {"episodes": SOME_EPISODES},
    },
    "dropped": {
        "global_batch_size": 24,
        "max_world_size": 4,
        "options": {"episodes": SOME_EPISODES, "drop_last": True},
    },
    "even": {"global_batch_size": 46, "max_world_size": 2, "options": {}},
}


def setup_of(root: Path, shape: str, **options: Any) -> Setup:
    values = SHAPES[shape]
    return Setup(**values | {"root": str(root), "options": values["options"] | options})


def decoding_setup(root: Path, **options: Any) -> Setup:
    """6 steps an epoch."""
    return Setup(
        root=str(root),
        global_batch_size=48,
        max_world_size=2,
        options={"episodes": SOME_EPISODES} | options,
    )


def loader_of(root: Path, **options: Any) -> Loader:
    """14 steps an epoch, rows only."""
    return make_loader(str(root), **{"batch_size": 48} | ROWS_ONLY | options)


def indices(loader: Loader) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader]


def order_of(root: Path, epoch: int, **options: Any) -> list[list[int]]:
    """The batches of a whole epoch."""
    loader = loader_of(root, **options)
    loader.set_epoch(epoch)
    return indices(loader)


def state_after(root: Path, steps: int, **options: Any) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(
        record([loader_of(root, **options)], steps).checkpoints[-1].state
    )
    return state


# -- At every step ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame_order", "episode_order", "shape"),
    [
        ("uniform", "global", "padded"),
        slowly("uniform", "shard", "padded"),
        slowly("sweep", "global", "padded"),
        slowly("sweep", "shard", "padded"),
        slowly("uniform", "global", "dropped"),
        slowly("sweep", "shard", "dropped"),
        slowly("uniform", "shard", "even"),
        slowly("sweep", "global", "even"),
    ],
)
def test_any_world_size(
    pusht_shards: Path, frame_order: str, episode_order: str, shape: str
) -> None:
    setup = setup_of(
        pusht_shards,
        shape,
        frame_order=frame_order,
        episode_order=episode_order,
        pool_episodes=4,
        **ROWS_ONLY,
    )
    worlds = [world for world in (1, 2, 4) if setup.max_world_size % world == 0]
    run = check_resume_at_every_step(setup, Topology(2), [Topology(world) for world in worlds])
    sizes = [sum(len(part["index"]) for part in batch) for batch in run.batches]
    padded = setup.loader(0, Topology(1)).num_padded
    assert (min(sizes) < setup.global_batch_size) == (shape == "padded") == bool(padded)


def test_in_dataset_order(pusht_shards: Path) -> None:
    setup = setup_of(pusht_shards, "padded", shuffle=False, **ROWS_ONLY)
    check_resume_at_every_step(setup, Topology(1), [Topology(2)])


@pytest.mark.parametrize("frame_order", ["uniform", slowly("sweep")])
def test_decoded_frames(pusht_shards: Path, frame_order: str) -> None:
    windows = {"observation.image": [-0.1, 0.0], "action": [0.0, 0.1, 0.2]}
    setup = decoding_setup(pusht_shards, frame_order=frame_order, delta_timestamps=windows)
    check_resume_at_every_step(setup, Topology(1), [Topology(2)])


@pytest.mark.slow
def test_worker_processes_and_decoded_frames(pusht_shards: Path) -> None:
    """States taken under two workers, restored under two and under none; the workers persist
    through all of it.
    """
    setup = decoding_setup(pusht_shards, seed=3)
    check_resume_at_every_step(setup, Topology(1, 2), [Topology(2, 0)], fresh=False)


@pytest.mark.slow
def test_other_processes(pusht_shards: Path) -> None:
    """A fresh Python process restores every state; another one restores one with workers of its
    own.
    """
    setup = decoding_setup(pusht_shards)
    ranks = setup.loaders(Topology(2))
    stop = len(ranks[0]) + 2
    run = record(ranks, stop)
    expected = [digest(batch) for batch in run.batches]

    def tails(topology: Topology, checkpoints: list[Checkpoint]) -> list[list[str]]:
        return Restoration(setup=setup, topology=topology, checkpoints=checkpoints, stop=stop).run()

    assert tails(Topology(1), run.checkpoints) == [expected[steps:] for steps, _ in run.checkpoints]
    middle = run.checkpoints[3]
    assert tails(Topology(1, 2), [middle]) == [expected[middle.steps :]]


def test_single_samples(pusht_shards: Path) -> None:
    options: dict[str, Any] = {"batch_size": None, "episodes": [0], "seed": 5}
    whole = list(loader_of(pusht_shards, **options))
    for steps in (0, 1, 17, len(whole) - 1):
        resumed = loader_of(pusht_shards, **options)
        resumed.load_state_dict(state_after(pusht_shards, steps, **options))
        assert [int(sample["index"]) for sample in resumed] == [
            int(sample["index"]) for sample in whole[steps:]
        ]


# -- When a state is taken and loaded --------------------------------------------------------------


def test_taking_a_state_changes_nothing(pusht_shards: Path) -> None:
    loader = loader_of(pusht_shards)
    received = []
    for step, batch in enumerate(loader, 1):
        states = [loader.state_dict() for _ in range(3)]
        assert states[0] == states[1] == states[2] == json.loads(json.dumps(states[0]))
        assert (states[0]["epoch"], states[0]["step"]) == (0, step)
        received.append(batch["index"].tolist())
    assert received == order_of(pusht_shards, 0)


def test_a_state_is_used_once_by_an_iteration_that_is_left(pusht_shards: Path) -> None:
    loader = loader_of(pusht_shards)
    loader.load_state_dict(state_after(pusht_shards, 10))
    assert loader.state_dict()["step"] == 10
    assert next(iter(loader))["index"].tolist() == order_of(pusht_shards, 0)[10]
    assert loader.state_dict()["step"] == 11
    assert indices(loader) == order_of(pusht_shards, 0)
    assert indices(loader) == order_of(pusht_shards, 1)


def test_the_last_state_loaded_counts(pusht_shards: Path) -> None:
    loader = loader_of(pusht_shards)
    for steps in (3, 20, 5):
        loader.load_state_dict(state_after(pusht_shards, steps))
    assert indices(loader) == order_of(pusht_shards, 0)[5:]


def test_loading_between_iter_and_the_first_batch_is_in_time(pusht_shards: Path) -> None:
    loader = loader_of(pusht_shards)
    iterator = iter(loader)
    loader.load_state_dict(state_after(pusht_shards, 4))
    assert next(iterator)["index"].tolist() == order_of(pusht_shards, 0)[4]


def test_loading_inside_the_loop_is_refused_and_after_it_is_not(pusht_shards: Path) -> None:
    loader = loader_of(pusht_shards)
    state = state_after(pusht_shards, 7)
    for _ in itertools.islice(loader, 2):
        with pytest.raises(OptionError, match="too late"):
            loader.load_state_dict(state)
    loader.load_state_dict(state)
    assert indices(loader) == order_of(pusht_shards, 0)[7:]


def test_a_refused_state_changes_nothing_and_every_difference_is_named(pusht_shards: Path) -> None:
    state = state_after(pusht_shards, 3, max_world_size=4)
    loader = loader_of(pusht_shards, seed=1, drop_last=True, batch_size=4)
    loader.set_epoch(3)
    with pytest.raises(
        OptionError, match=r"(?s)seed.*global_batch_size.*rank_slots.*drop_last"
    ) as why:
        loader.load_state_dict(state)
    assert "any number of workers and world sizes that divide 4 will do" in str(why.value)
    assert "with max_world_size=4, pool_episodes=256 and batch_size x world_size = 48" in str(
        why.value
    )
    assert (loader.epoch, loader.state_dict()["step"]) == (3, 0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"rank": 0, "world_size": 3, "max_world_size": 8, "batch_size": 16},
            "multiple of the world size 3",
        ),
        ({"batch_size": 12, "max_world_size": 8}, "must be a multiple of max_world_size 8"),
        ({"rank": 2, "world_size": 2}, "rank must be in"),
        ({"rank": 0}, "both rank and world_size"),
        ({"world_size": 2}, "both rank and world_size"),
    ],
    ids=str,
)
def test_a_topology_that_does_not_fit_is_refused_at_once(
    pusht_shards: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        loader_of(pusht_shards, **options)


# -- Epochs ----------------------------------------------------------------------------------------


def test_a_trainer_that_counts_epochs_itself(pusht_shards: Path) -> None:
    """It saves its epoch and the state inside the loop, and goes on with `set_epoch` of that
    epoch.
    """
    expected = [batch for epoch in range(3) for batch in order_of(pusht_shards, epoch)]
    for saved_after in (13, 14, 15):
        loader = loader_of(pusht_shards)
        step, saved = 0, {}
        for epoch in range(2):
            loader.set_epoch(epoch)
            for _ in loader:
                step += 1
                if step == saved_after:
                    saved = {"epoch": epoch, "loader": loader.state_dict()}
        resumed = loader_of(pusht_shards)
        resumed.load_state_dict(saved["loader"])
        received = []
        for epoch in range(saved["epoch"], 3):
            resumed.set_epoch(epoch)
            received += indices(resumed)
        assert received == expected[saved_after:]


def test_a_trainer_that_asks_the_loader_for_its_epoch(pusht_shards: Path) -> None:
    expected = [batch for epoch in range(3) for batch in order_of(pusht_shards, epoch)]
    for steps in (13, 14, 15):
        resumed = loader_of(pusht_shards)
        resumed.load_state_dict(state_after(pusht_shards, steps))
        assert [batch for _ in range(resumed.epoch, 3) for batch in indices(resumed)] == expected[
            steps:
        ]


def test_an_epoch_is_over_after_its_last_step_though_the_iterator_is_still_held(
    pusht_shards: Path,
) -> None:
    """Lightning counts to `len(loader)`, and never asks for one step more."""
    loader, held = loader_of(pusht_shards), []
    for epoch in range(3):
        held.append(iter(loader))
        assert [next(held[-1])["index"].tolist() for _ in range(len(loader))] == order_of(
            pusht_shards, epoch
        )


def test_set_epoch_ends_an_iteration_over_another_epoch(pusht_shards: Path) -> None:
    loader = loader_of(pusht_shards)
    iterator = iter(loader)
    next(iterator)
    loader.set_epoch(0)
    next(iterator)
    loader.set_epoch(5)
    for _ in range(2):
        assert (loader.state_dict()["epoch"], loader.state_dict()["step"]) == (5, 0)
        with pytest.raises((OptionError, StopIteration)):
            next(iterator)
    assert indices(loader) == order_of(pusht_shards, 5)


# -- Steps of a trainer, and their number ----------------------------------------------------------


def test_state_at_is_the_state_of_that_step_over_three_epochs(pusht_shards: Path) -> None:
    setup = setup_of(pusht_shards, "padded", **ROWS_ONLY)
    ranks = setup.loaders(Topology(2))
    length = len(ranks[0])
    run = record(ranks, 3 * length + 1)
    for checkpoint in run.checkpoints:
        taken = json.loads(checkpoint.state)
        if (
            taken["step"] == length
        ):  # an epoch's end and the next one's beginning are the same place
            taken |= {"epoch": taken["epoch"] + 1, "step": 0}
        assert ranks[0].state_at(checkpoint.steps, world_size=4, batch_size=6) == taken
    with pytest.raises(OptionError, match="4 x 12 = 48 samples a step; this loader has 24"):
        ranks[0].state_at(3, world_size=4, batch_size=12)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [slowly(False), True])
@pytest.mark.filterwarnings("ignore:the loader has no batch")
def test_length_is_exact_on_every_rank(pusht_shards: Path, shuffle: bool, drop_last: bool) -> None:
    frames = 644 - 14 * 3
    for batch, slots in ((24, 4), (4, 4), (46, 2), (600, 4), (2000, 4)):
        setup = Setup(
            root=str(pusht_shards),
            global_batch_size=batch,
            max_world_size=slots,
            options={"shuffle": shuffle, "drop_last": drop_last, "drop_n_last_frames": 3}
            | ROWS_ONLY,
        )
        steps = frames // batch if drop_last else -(-frames // batch)
        for world in (1, slots):
            assert [len(loader) for loader in setup.loaders(Topology(world))] == [steps] * world
            assert [len(list(loader)) for loader in setup.loaders(Topology(world))] == [
                steps
            ] * world


@pytest.mark.filterwarnings("ignore:the loader has no batch")
def test_an_epoch_without_a_step_ends(pusht_shards: Path) -> None:
    loader = loader_of(pusht_shards, batch_size=1000, drop_last=True)
    assert len(loader) == 0
    assert [indices(loader) for _ in range(2)] == [[], []]
    other = loader_of(pusht_shards, batch_size=1000, drop_last=True)
    other.load_state_dict(loader.state_dict())
    assert other.epoch == loader.epoch == 2

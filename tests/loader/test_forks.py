"""Loading in forks, as torch's DataLoader and notebook launchers make them: they have none of the
parent's threads, and its locks for ever as they were.
"""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import threading
from _thread import LockType, RLock
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support.batches import Batch, assert_same, threads_left
from torch.utils.data import DataLoader

from roboshard.loader import Loader, MapDataset, make_loader, open_dataset
from roboshard.loader.look_ahead.decode_threads import DecodeThreads
from roboshard.loader.look_ahead.switch_interval import ShortTurns
from roboshard.loader.stats import StatsCounter

pytestmark = pytest.mark.usefixtures("no_threads_before")

SOON_S = 60.0
TAKEN_BY_FORKS = "roboshard.storage.cache.files"
"""Has a lock that `os.fork` itself waits for."""
IMAGE = "observation.image"
NUMBERS = range(0, 96, 3)
HAS_FORKS = """
import gc, os, sys
from roboshard.loader import make_loader
from roboshard.loader.order import teams

teams.LEAST_PIXELS = 0  # workers make steps together, as of larger pictures
loader = make_loader(sys.argv[1], batch_size=8, num_workers=2)
expected = [batch["index"].tolist() for batch in loader]
loader.set_epoch(0)
batches = iter(loader)
found = [next(batches)]
for drops, ends in ((True, os._exit), (False, sys.exit), (True, sys.exit)):
    if not (fork := os.fork()):
        if drops:
            del loader, batches
            gc.collect()
        ends(7)
    found.append(next(batches))
    print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]))
    found.append(next(batches))
print([batch["index"].tolist() for batch in (*found, *batches)] == expected)
print([batch["index"].tolist() for batch in loader] != expected)
"""
"""A program whose forks drop its loader, and end as programs do."""


@pytest.fixture(scope="module")
def samples(pusht_shards: Path) -> list[Batch]:
    """In dataset order."""
    return list(make_loader(str(pusht_shards), batch_size=None, shuffle=False))


@pytest.fixture
def dataset(pusht_shards: Path) -> Iterator[MapDataset]:
    dataset = open_dataset(str(pusht_shards))
    yield dataset
    dataset.close()


@pytest.fixture
def loader(pusht_shards: Path) -> Iterator[Loader]:
    loader = make_loader(str(pusht_shards), batch_size=32)
    yield loader
    loader.close()


def locks() -> dict[str, Any]:
    """Every lock of ours, by where it is: of objects and of modules."""
    modules = [
        module
        for name, module in sys.modules.items()
        if name.startswith("roboshard.") and name != TAKEN_BY_FORKS
    ]
    globals_of_modules = [value for module in modules for value in vars(module).values()]
    owners = [
        owner
        for owner in [*gc.get_objects(), *globals_of_modules]
        if str(type(owner).__module__).startswith("roboshard.")
    ]
    return {
        f"{type(owner).__name__}.{name} at {id(owner)}": value
        for owner in [*owners, *modules]
        for name, value in getattr(owner, "__dict__", {}).items()
        if isinstance(value, LockType | RLock)
    }


@contextmanager
def another_thread_has(taken: dict[str, Any]) -> Iterator[None]:
    """As it may be at any moment of a fork."""
    has_them, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as all_of_them:
            for lock in taken.values():
                all_of_them.enter_context(lock)
            has_them.set()
            may_go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert has_them.wait(SOON_S)
        yield
    finally:
        may_go.set()
        thread.join()


def in_a_fork(function: Callable[[], Any]) -> Any:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(function()))
    child.start()
    try:
        assert receiver.poll(SOON_S), "the fork is stuck"
        found = receiver.recv()
        child.join(SOON_S)
        assert child.exitcode == 0, "the fork does not end"
        return found
    finally:
        child.kill()


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchs_dataloader_samples_a_dataset_that_was_used_before(
    dataset: MapDataset, samples: list[Batch], num_workers: int
) -> None:
    assert_same([dataset[0]], samples[:1])  # its decoders and threads are of no use to a fork
    loader = DataLoader(dataset, batch_size=16, num_workers=num_workers, sampler=NUMBERS)
    batches = list(loader)
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [
        int(samples[number]["index"]) for number in NUMBERS
    ]
    assert torch.equal(batches[1][IMAGE][2], samples[54][IMAGE])


def test_a_dataset_is_used_whatever_locks_its_parents_threads_had(
    dataset: MapDataset, samples: list[Batch]
) -> None:
    assert_same([dataset[0]], samples[:1])
    taken = locks()
    owners = {name.split(".")[0] for name in taken}
    assert {one.__name__ for one in (DecodeThreads, StatsCounter, ShortTurns)} <= owners

    def use() -> tuple[int, Any]:
        sample = dataset[9]
        dataset.close()
        return int(dataset[10]["index"]), sample[IMAGE].numpy()

    with another_thread_has(taken):
        index, picture = in_a_fork(use)
    assert index == int(samples[10]["index"])
    assert torch.equal(torch.from_numpy(picture), samples[9][IMAGE])
    assert_same([dataset[11]], samples[11:12])


def test_a_dataset_that_a_fork_drops_leaves_its_parents_threads_alone(
    pusht_shards: Path, samples: list[Batch]
) -> None:
    datasets = [open_dataset(str(pusht_shards))]
    assert_same([datasets[0][0]], samples[:1])
    with another_thread_has(locks()):
        assert in_a_fork(datasets.clear) is None
    assert_same([datasets[0][12]], samples[12:13])
    datasets.clear()
    gc.collect()
    assert not threads_left()


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_loader_is_used_in_mid_epoch_and_after_one(loader: Loader, has_ended: bool) -> None:
    """As notebook launchers do, after a look at the first batch."""
    expected = indices(loader)
    loader.set_epoch(0)
    batches = iter(loader)
    found = [next(batches)]

    def use() -> list[list[int]]:
        if has_ended:
            batches.close()  # type: ignore[attr-defined]
        loader.set_epoch(1)
        loader.set_epoch(0)
        return indices(loader)

    with another_thread_has(locks()):
        assert in_a_fork(use) == expected
    assert indices([*found, *batches]) == expected


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_fork_that_goes_on_with_its_parents_iterator_is_told(
    pusht_shards: Path, num_workers: int
) -> None:
    """It would wait for threads that it does not have, or take what is its parent's."""
    with closing(make_loader(str(pusht_shards), batch_size=32, num_workers=num_workers)) as loader:
        expected = indices(loader)
        loader.set_epoch(0)
        batches = iter(loader)
        found = [next(batches)]

        def go_on() -> str:
            with pytest.raises(RuntimeError) as refused:
                next(batches)
            return str(refused.value)

        assert "iterate over the loader anew" in in_a_fork(go_on)
        assert indices([*found, *batches]) == expected


def test_forks_that_drop_a_loader_and_end_leave_its_workers_alone(pusht_shards: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", HAS_FORKS, str(pusht_shards)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON_S, check=False)
    assert (done.stdout, done.stderr) == ("7\n7\n7\nTrue\nTrue\n", "")


def test_a_batch_that_a_fork_drops_is_its_parents_still(pusht_shards: Path) -> None:
    options: dict[str, Any] = {"batch_size": 32, "shuffle": False}
    with closing(make_loader(str(pusht_shards), num_workers=1, **options)) as loader:
        batches = iter(loader)
        held = [next(batches)]
        expected = held[0][IMAGE].clone()
        assert in_a_fork(held.clear) is None
        assert_same([*held, *batches], make_loader(str(pusht_shards), **options))
        assert torch.equal(held[0][IMAGE], expected)


def test_a_fork_in_which_nobody_decodes_keeps_the_lock_as_long_as_usual(
    dataset: MapDataset,
) -> None:
    usual = sys.getswitchinterval()
    assert len(dataset[0])
    assert sys.getswitchinterval() < usual
    assert in_a_fork(sys.getswitchinterval) == usual

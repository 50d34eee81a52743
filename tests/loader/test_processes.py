"""Real worker processes: they live as long as they are of use, and leave nothing behind, however
the run ends.
"""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from multiprocessing import queues
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.collecting import Collection, in_a_cycle

from roboshard.loader import Loader, make_loader
from roboshard.loader.order import teams
from roboshard.loader.running import worker_start
from roboshard.loader.running.worker_start import SOCKETS_NAME, SOCKETS_PATH
from roboshard.shards import DamageError, OptionError

SOON_S = (
    20  # torch's workers look every 5 s whether their parent is there; a loaded machine is slow
)
PROGRAM = Path(__file__).with_name("processes_program.py")
CAMERA = "observation.image"


def loader_of(root: Path, **options: Any) -> Loader:
    """161 steps an epoch: many more than are fetched ahead."""
    return make_loader(str(root), **{"batch_size": 4, "num_workers": 2, "seed": 1} | options)


def workers() -> list[int]:
    """Worker processes of this process, by id."""
    return sorted(child.pid or 0 for child in multiprocessing.active_children())


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within `SOON_S`."""
    until = time.monotonic() + SOON_S
    while not (reached := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    return reached


def are_gone(pids: list[int]) -> bool:
    """Not by psutil, which would take their exit codes away from torch."""
    return soon(lambda: not set(pids) & set(workers()))


def are_deleted(paths: set[Path]) -> bool:
    return soon(lambda: not any(path.exists() for path in paths))


def num_fds(pid: int) -> int:
    """Open files of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def num_slots(loader: Loader) -> int:
    """How many batches its workers may be at."""
    pool = loader._runner._workers
    assert pool is not None
    return len(pool._batches._plan.granted)


def num_bounded(pid: int) -> int:
    """Of these, parts of memory that is shared with other processes, and shards."""
    targets = [os.path.realpath(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(bool(re.search(r"^/memfd:roboshard|\.tar$", target)) for target in targets)


def shared_memory(pids: Iterable[int]) -> set[Path]:
    """Files in /dev/shm, and memory without a name there, that these processes have mapped."""
    found = set()
    for pid in pids:
        with Path(f"/proc/{pid}/maps").open() as maps:
            found |= {
                Path(path) for path in re.findall(r" (/dev/shm/\S+|/memfd:roboshard)", maps.read())
            }
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Afterwards this process has no workers, no shared memory, and no more open files than
    before.
    """
    gc.collect()
    assert not workers()
    # Pipes to the resource tracker and the fork server, and a heap that is kept.
    multiprocessing.get_context("spawn").Array("q", 1)
    worker_start.prepare()
    before = num_fds(os.getpid())
    yield
    watched = shared_memory([os.getpid()])
    gc.collect()
    assert not workers()
    assert are_deleted(watched)
    assert soon(lambda: num_fds(os.getpid()) <= before), os.listdir(f"/proc/{os.getpid()}/fd")


def test_workers_live_through_epochs_and_go_with_close(pusht_shards: Path) -> None:
    with nothing_left():
        loader = loader_of(pusht_shards, batch_size=32)
        assert not workers()
        of_others = num_bounded(os.getpid())
        open_files, bounded, seen = [], [], []
        for _ in range(9):
            assert len(list(loader)) == 21
            seen.append(workers())
            pids = (os.getpid(), *workers())
            bounded.append(sum(map(num_bounded, pids)))
            open_files.append(sum(map(num_fds, pids)) - bounded[-1])
        assert len(seen[0]) == 2
        assert seen == [seen[0]] * 9
        assert open_files[-1] - open_files[2] < 3, "no file an epoch"
        num_shards = len(list(pusht_shards.rglob("*.tar")))
        most = 3 * (num_slots(loader) + 1 + num_shards)
        assert bounded[-1] - of_others <= most, "one for each slot, and one for all slots"
        iterator = iter(loader)
        next(iterator)
        used = shared_memory([os.getpid(), *seen[-1]])
        assert used
        loader.close()
        assert are_gone(seen[0])
        with pytest.raises(OptionError, match="this iteration is over"):
            next(iterator)
        assert are_deleted(used)
        loader.close()


WHOLE_STEPS = {
    "the user's transform of batches": {"batch_transform": dict},
    "others in the place of damaged episodes": {"on_error": "skip"},
    "dataset order": {"shuffle": False},
    "single samples": {"batch_size": None},
    "one sample a step": {"batch_size": 1},
}


@pytest.mark.parametrize("options", WHOLE_STEPS.values(), ids=WHOLE_STEPS)
def test_what_concerns_all_of_a_step_is_one_workers(
    pusht_shards: Path, options: dict[str, Any]
) -> None:
    assert loader_of(pusht_shards, num_workers=4)._job.members == 4
    assert loader_of(pusht_shards, num_workers=4, batch_size=2)._job.members == 2
    assert loader_of(pusht_shards, num_workers=4, **options)._job.members == 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_an_iteration_that_ends_anywhere_leaves_the_next_one_whole(
    pusht_shards: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, in teams of two, make batches in the same memory, and may be at the old ones when
    others begin.
    """
    monkeypatch.setattr(teams, "LEAST_PIXELS", 32 * 96 * 96 // 2)

    def sums(loader: Loader, epoch: int, steps: int) -> list[list[int]]:
        loader.set_epoch(epoch)
        batches = itertools.islice(loader, steps)
        return [batch[CAMERA].sum(dim=(1, 2, 3)).tolist() for batch in batches]

    options = {"batch_size": 32, "frame_order": "sweep"}
    with closing(loader_of(pusht_shards, num_workers=0, **options)) as alone:
        expected = [sums(alone, epoch, 6) for epoch in range(2)]
    dice = random.Random(7)
    with closing(loader_of(pusht_shards, num_workers=num_workers, **options)) as loader:
        assert loader._job.members == 2
        for _ in range(8):
            epoch, steps = dice.randrange(2), dice.randrange(1, 7)
            assert sums(loader, epoch, steps) == expected[epoch][:steps]
        assert len(workers()) == num_workers


@pytest.mark.slow
def test_workers_go_with_the_loader_and_with_a_consumer_that_fails(pusht_shards: Path) -> None:
    def train() -> None:
        for step, _ in enumerate(loader_of(pusht_shards)):
            if step == 3:
                processes.extend(workers())
                raise ArithmeticError("the loss is not finite")

    processes: list[int] = []
    with nothing_left():
        try:
            train()
        except ArithmeticError:
            assert len(processes) == 2
        assert are_gone(processes)


def test_torch_says_once_that_there_are_more_workers_than_cores(
    pusht_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = {min(os.sched_getaffinity(0))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    with pytest.warns(UserWarning, match="This DataLoader will create 2 worker") as caught:
        next(iter(loader_of(pusht_shards)))
    assert len(caught) == 1


@pytest.mark.slow
def test_workers_go_with_a_loader_in_a_cycle_that_is_collected_while_a_queue_is_filled(
    pusht_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a thread of multiprocessing, which is to end with the workers."""
    collection, sent = Collection(), itertools.count()

    class Collecting(ForkingPickler):
        @classmethod
        def dumps(cls, *arguments: Any) -> Any:
            if next(sent) == 1:  # what the worker is to do after the first batch
                collection.make()
            return super().dumps(*arguments)

    def leave() -> list[int]:
        loader = loader_of(pusht_shards, num_workers=1)
        batches = iter(loader)
        next(batches)
        in_a_cycle(loader, batches)
        return workers()

    monkeypatch.setattr(queues, "_ForkingPickler", Collecting)
    left = collection.after(leave)
    assert len(left) == 1
    assert are_gone(left)


@pytest.mark.slow
def test_an_error_in_a_worker_surfaces_with_its_traceback_and_ends_the_workers(
    pusht_shards: Path, tmp_path: Path
) -> None:
    for path in pusht_shards.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(pusht_shards)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    shard = sorted(tmp_path.rglob("*.tar"))[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    loader = loader_of(tmp_path)
    with pytest.raises(DamageError) as failure:
        list(loader)
    assert are_gone(workers()), "though loader and exception are still held"
    assert str(failure.value).startswith(f"{shard}, episode ")
    (note,) = failure.value.__notes__
    assert re.match(r"In worker process \d:\nTraceback", note)
    assert "in assemble" in note, "the worker's own traceback, of the thread that read"


@pytest.mark.slow
def test_a_killed_worker_is_an_error_and_the_next_iteration_has_new_ones(
    pusht_shards: Path,
) -> None:
    expected = [batch["index"].tolist() for batch in loader_of(pusht_shards, num_workers=0)]
    loader = loader_of(pusht_shards)
    batches = (batch["index"].tolist() for batch in loader)
    received = list(itertools.islice(batches, 10))
    first = workers()

    def kill_one_and_go_on() -> None:
        os.kill(first[1], signal.SIGKILL)
        received.extend(batches)

    killed = time.monotonic()
    with pytest.raises(RuntimeError, match=r"DataLoader worker .*exited unexpectedly") as failure:
        kill_one_and_go_on()
    assert time.monotonic() - killed < SOON_S
    said = [str(failure.value), *getattr(failure.value, "__notes__", ())]
    assert f"process {first[1]} was ended by signal 9 (Killed)" in "\n".join(said)
    batches.close()  # torch raises wherever the main thread is, perhaps not in the loader
    assert received == expected[: len(received)]
    assert len(received) < len(expected)
    loader.load_state_dict(loader.state_dict())
    rest = [batch["index"].tolist() for batch in loader]
    assert received + rest == expected
    second = workers()
    assert len(second) == 2
    assert not set(second) & set(first)
    os.kill(second[0], signal.SIGINT)  # Ctrl-C is for the parent to act on
    assert len(list(loader)) == len(expected)
    assert workers() == second
    loader.close()
    assert are_gone(second)


# -- The whole process ends ------------------------------------------------------------------------


class Script:
    """A run of `processes_program.py`, with its workers, its shared memory, and a folder for
    temporary files.
    """

    def __init__(self, root: Path, mode: str, temporary: Path, stderr: int | None = None) -> None:
        self.temporary = temporary
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(root), mode],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(temporary)},
        )
        self.seen: list[psutil.Process] = []
        self.mapped: set[Path] = set()

    def hear(self) -> Any:
        """The next thing that it says; what it then has running is remembered."""
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        here = psutil.Process(self.process.pid)
        self.seen += here.children(recursive=True)
        self.mapped |= shared_memory(
            [here.pid, *(child.pid for child in here.children(recursive=True))]
        )
        return said

    def has_left_nothing(self) -> bool:
        self.process.wait(timeout=SOON_S)
        assert len(self.seen) >= 4, "two workers, what they are forked from, the resource tracker"
        assert any("memfd:roboshard" in path.name for path in self.mapped)
        assert any("sem" in path.name for path in self.mapped)
        _, alive = psutil.wait_procs(self.seen, timeout=SOON_S)
        return not alive and are_deleted(self.mapped) and not [*self.temporary.glob("pymp-*")]

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_folder_for_temporary_files_has_room_for_sockets(
    pusht_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest path that is taken works; a longer one is refused before processes start."""
    base = Path(tempfile.mkdtemp())
    folder = base / ("d" * (SOCKETS_PATH - len(SOCKETS_NAME) - len(str(base)) - 1))
    folder.mkdir()
    with Script(pusht_shards, "loading", folder) as script:
        assert script.hear() == {"step": 2}
    shutil.rmtree(base)
    monkeypatch.setattr(worker_start, "get_temp_dir", lambda: f"{folder}d/pymp-01234567")
    with pytest.raises(OptionError, match=r"75 bytes .* has 76: set TMPDIR"):
        loader_of(pusht_shards)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["loading", "training"])
def test_ctrl_c(pusht_shards: Path, tmp_path: Path, mode: str) -> None:
    """The first one is caught, and the loader goes on to be used; the second one ends the
    process.
    """
    with Script(pusht_shards, mode, tmp_path) as script:
        assert script.hear() == {"step": 2}
        os.killpg(script.process.pid, signal.SIGINT)
        assert script.hear() == {"again": 2}
        os.killpg(script.process.pid, signal.SIGINT)
        assert script.process.wait(timeout=SOON_S) == -signal.SIGINT
        assert script.has_left_nothing()


@pytest.mark.parametrize(
    "delay",
    [pytest.param(delay, marks=pytest.mark.slow) for delay in (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)],
)
def test_ctrl_c_while_workers_start(pusht_shards: Path, tmp_path: Path, delay: float) -> None:
    """It is an interrupt, not an error of a worker; the loader goes on to be used, and no worker is
    left.
    """
    with Script(pusht_shards, "starting", tmp_path, stderr=subprocess.PIPE) as script:
        assert script.hear() == "starts"
        time.sleep(delay)
        children = psutil.Process(script.process.pid).children(recursive=True)
        os.killpg(script.process.pid, signal.SIGINT)
        output, errors = script.process.communicate(timeout=SOON_S)
        assert (output, errors) == ('{"again": 4, "left": []}', "")
        assert not psutil.wait_procs(children, timeout=SOON_S)[1]


def test_the_parent_is_killed(pusht_shards: Path, tmp_path: Path) -> None:
    with Script(pusht_shards, "training", tmp_path) as script:
        script.hear()
        script.process.kill()
        assert script.has_left_nothing()


@pytest.mark.slow
def test_the_parent_is_killed_and_a_fork_of_it_lives(pusht_shards: Path, tmp_path: Path) -> None:
    """The fork has the pipes by whose end workers are told of their parent's."""
    with Script(pusht_shards, "forked", tmp_path) as script:
        fork = psutil.Process(script.hear()["fork"])
        assert script.hear() == {"step": 2}
        here = psutil.Process(script.process.pid)
        workers = set(here.children(recursive=True)) - set(here.children())
        assert len(workers) == 2
        script.process.kill()
        script.process.wait(timeout=SOON_S)
        assert not psutil.wait_procs(workers, timeout=SOON_S)[1]
        assert not [*tmp_path.glob("pymp-*")]
        assert fork.is_running()
        fork.kill()
